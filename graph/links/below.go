package links

import (
	"context"
	"fmt"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// Link is a link in force as of a block, from a child to the parent that it was listed for.
type Link struct {
	Child  protocol.KeyHash
	Accept chainhash.Hash // the MLA, which a revoke has to name
	Linked uint32         // height at which it came into force
	Branch bool           // whether there are links below Child
}

// LinksBelow lists up to limit of the links in force directly below a key, in the order in which they came, behind that of
// the child after; nil begins with the first. next is nil at the end. ErrNotFound if after is not a child of the
// key; ErrReorganised. It looks at each child listed, and at two keys more: it takes recordWork for each, so
// that MaxWork is enough for a limit of 4,000.
func (v *Identities) LinksBelow(ctx context.Context, parent protocol.KeyHash, after *protocol.KeyHash, limit int) (links []Link, next *protocol.KeyHash, err error) {
	if err := v.stillThere(); err != nil {
		return nil, nil, err
	}
	v.work = 0
	at, err := v.firstBelow(parent, after)
	for at != none && err == nil {
		if len(links) >= limit {
			return links, &links[len(links)-1].Child, nil
		}
		var here standing
		if here, err = v.standing(at); err != nil {
			break
		}
		links = append(links, Link{v.state.keys.Key(at), here.accept, here.linked, here.first != none})
		at, err = here.next, ctx.Err()
	}
	if err != nil {
		return nil, nil, err
	}
	return links, nil, nil
}

// firstBelow returns the child of a key that comes behind another, the first one if none is given; none at the end.
func (v *Identities) firstBelow(parent protocol.KeyHash, after *protocol.KeyHash) (int32, error) {
	of := v.state.keys.Find(parent)
	switch {
	case after == nil && of == none:
		return none, nil
	case after == nil:
		here, err := v.standing(of)
		return here.first, err
	}
	if n := v.state.keys.Find(*after); of != none && n != none {
		here, err := v.standing(n)
		if err != nil || here.parent == of {
			return here.next, err
		}
	}
	return none, fmt.Errorf("child %x below %x as of height %d: %w", *after, parent, v.height, store.ErrNotFound)
}
