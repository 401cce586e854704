package links

import (
	"context"
	"fmt"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// Members lists up to limit keys of an identity, of the surviving one if it
// merged, after the cursor; a nil cursor starts with the root. next is nil at
// the end. ErrNotFound if there is no such identity, or the cursor is not one of
// its keys.
//
// It looks at one record per key listed, whatever the identity had been before; with
// a cursor, as of an older block, one for each key above it besides.
func (v *Identities) Members(ctx context.Context, id chainhash.Hash, after *MemberCursor, limit int) (members []Member, next *MemberCursor, err error) {
	identity, err := v.Identity(id)
	if err != nil {
		return nil, nil, err
	}
	at := Member{Key: identity.Root}
	if after == nil {
		members = append(members, at)
	} else {
		r, err := v.Resolve(ctx, after.Key)
		if err != nil {
			return nil, nil, err
		}
		if r.Root != identity.Root {
			return nil, nil, fmt.Errorf("cursor %x in identity %v: %w", after.Key, id, store.ErrNotFound)
		}
		at = Member{Key: r.Key, Depth: r.Depth}
	}
	record, err := v.links(at.Key)
	for err == nil {
		var following *Member
		if following, record, err = v.nextMember(at.Depth, record); err != nil {
			break
		}
		if following == nil {
			return members, nil, nil
		}
		if len(members) >= limit {
			return members, &MemberCursor{at.Key}, nil
		}
		members = append(members, *following)
		at = *following
		err = ctx.Err()
	}
	return nil, nil, err
}

// nextMember returns the key after the one of the given depth and record, depth
// first, with its record: its first child, else the next child of the nearest
// ancestor that has one. nil after the last.
func (v *Identities) nextMember(depth uint32, r keyRecord) (*Member, keyRecord, error) {
	var key protocol.KeyHash
	if r.hasFirst {
		key, depth = r.first, depth+1
	} else {
		for !r.hasNext && r.hasParent {
			up, err := v.links(r.parent)
			if err != nil {
				return nil, r, err
			}
			r, depth = up, depth-1
		}
		if !r.hasNext {
			return nil, r, nil
		}
		key = r.next
	}
	r, err := v.links(key)
	if err != nil {
		return nil, r, err
	}
	return &Member{Key: key, Depth: depth, Parent: &r.parent, Accept: &r.accept.tx, Linked: r.linked}, r, nil
}
