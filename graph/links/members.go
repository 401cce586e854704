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
// It looks at each key listed, and at those on the way up from the end of a branch to the next; at no more than
// MaxWork allows: then the page holds fewer than limit, maybe none. What counts is next. With a
// cursor it resolves that first, which takes what Resolve does, and may fail with ErrWork.
func (v *Identities) Members(ctx context.Context, id chainhash.Hash, after *MemberCursor, limit int) (members []Member, next *MemberCursor, err error) {
	start, depth, below := protocol.KeyHash{}, uint32(0), true // whether those below it are to come
	if after == nil {
		identity, err := v.Identity(id)
		if err != nil {
			return nil, nil, err
		}
		start, members = identity.Root, append(members, Member{Key: identity.Root})
	} else {
		r, err := v.Resolve(ctx, after.Key)
		if err != nil {
			return nil, nil, err
		}
		if r.ID != id || id == (chainhash.Hash{}) { // it may have merged into that of the cursor
			identity, err := v.Identity(id)
			if err != nil {
				return nil, nil, err
			}
			if r.Root != identity.Root {
				return nil, nil, fmt.Errorf("cursor %x in identity %v: %w", after.Key, id, store.ErrNotFound)
			}
		}
		start, depth, below = after.Key, r.Depth, !after.Done
	}
	v.work = 0
	at, err := v.number(start)
	if err != nil {
		return nil, nil, err
	}
	here, err := v.standing(at)
	for err == nil {
		to, toDepth, listed := here.parent, depth-1, false
		switch {
		case below && here.first != none:
			to, toDepth, listed = here.first, depth+1, true
		case here.parent == none:
			return members, nil, nil
		case here.next != none:
			to, toDepth, listed = here.next, depth, true
		}
		if listed && len(members) >= limit || v.work > v.most-recordWork {
			return members, &MemberCursor{Key: v.state.keys.Key(at), Done: !below}, nil
		}
		if here, err = v.standing(to); err != nil {
			break
		}
		at, depth, below = to, toDepth, listed
		if listed {
			parent, accept := v.state.keys.Key(here.parent), here.accept
			members = append(members, Member{Key: v.state.keys.Key(at), Depth: depth, Parent: &parent, Accept: &accept, Linked: here.linked})
		}
		err = ctx.Err()
	}
	return nil, nil, err
}

// standing is where a key stands as of a view: the keys around it by number, none for each that is
// not there, and the link to its parent.
type standing struct {
	parent, first, next int32
	accept              chainhash.Hash
	linked              uint32 // height; means nothing without a parent
}

// standing returns where a key stands. That is in memory, unless the key has another record since.
func (v *Identities) standing(n int32) (standing, error) {
	s := v.state
	if p := s.places.Ref(n); p.version < v.past.versions {
		return standing{s.forest.Parent(n), p.first, p.next, s.namedBy.Ref(n).tx, p.stands}, v.spend(1)
	}
	r, err := v.storedKey(n)
	here := standing{parent: none, first: none, next: none, accept: r.accept.tx, linked: r.since}
	for _, beside := range [...]struct {
		is     bool
		key    protocol.KeyHash
		number *int32
	}{{r.hasParent, r.parent, &here.parent}, {r.hasFirst, r.first, &here.first}, {r.hasNext, r.next, &here.next}} {
		if beside.is && err == nil {
			*beside.number, err = v.number(beside.key)
		}
	}
	return here, err
}
