package graph

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/protocol"
)

// RequestChange is a link request that is pending, or would be in another state if what is pending were the
// next block.
type RequestChange struct {
	Was *links.Request // as of the tip; nil: it is pending
	Is  links.Request  // as of what is pending
}

// ChangedRequests lists the link requests that name a key as the parent, and would come into one of the states, or leave
// it: the pending ones first, else the newest first. It lists limit at most, looks at what links.Touched does and at links.PageBytes of
// messages, and takes what two questions of links.Request do for each: more tells whether there may be others.
func (v *PendingView) ChangedRequests(ctx context.Context, parent protocol.KeyHash, states links.RequestState, limit int) (changes []RequestChange, more bool, err error) {
	size := 0
	touched, more, err := v.Touched(ctx, parent)
	for _, txid := range touched {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return nil, false, err
		}
		if len(changes) == limit || size > links.PageBytes {
			more = true
			break
		}
		is, err := v.Request(txid)
		if err != nil {
			return nil, false, err
		}
		size += len(is.Message)
		c := RequestChange{Is: is}
		switch was, err := v.tip.Request(txid); {
		case err == nil:
			c.Was = &was
		case !errors.Is(err, ErrNotFound):
			return nil, false, err
		}
		if c.concerns(states) {
			changes = append(changes, c)
		}
	}
	slices.SortFunc(changes, func(a, b RequestChange) int {
		return cmp.Or(cmp.Compare(b.Is.Height, a.Is.Height), cmp.Compare(b.Is.Index, a.Is.Index))
	})
	return changes, more, err
}

// concerns tells whether the request comes into one of the states, or leaves it.
func (c *RequestChange) concerns(states links.RequestState) bool {
	if c.Was == nil {
		return c.Is.Link&states != 0
	}
	return c.Was.Link != c.Is.Link && (c.Was.Link|c.Is.Link)&states != 0
}
