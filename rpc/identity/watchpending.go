package identity

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/push"
)

// mostAsked is of how many addresses, and of how many ids, it is asked why what is pending would change them.
const mostAsked = 100

// advancePending tells of some of what is pending. more tells that there is more; if wait is not 0, there may be
// more then.
func (f *follower) advancePending(ctx context.Context) (wait time.Duration, more bool, err error) {
	part, wait, err := f.pool.Next(ctx, f.place, watchedAtOnce, func(c *push.Change) bool { return !c.Mined && c.Concerns(f.filter) })
	switch {
	case errors.Is(err, push.ErrBehind):
		return 0, false, push.Behind()
	case graph.OffChain(err): // the tip goes
		return 0, false, nil
	case err != nil:
		return 0, false, f.fault(err)
	case part == nil: // it is not known, or not yet
		return wait, false, nil
	}
	messages, err := f.pendingMessages(ctx, part)
	more = part.More
	part.View.Close()
	if graph.OffChain(err) {
		messages, err = nil, nil
	}
	if err != nil {
		return 0, false, f.fault(err)
	}
	// The view is closed: while a message waits for a slow client, nothing else is held.
	for _, m := range messages {
		if err := f.send(m); err != nil {
			return 0, false, err
		}
	}
	if f.place.Whole() && !more && !f.listed {
		f.listed = true
		if err := f.send(&keytreev1.WatchResponse{AllPending: true}); err != nil {
			return 0, false, err
		}
		return 0, false, f.mark()
	}
	return 0, more, nil
}

// pendingMessages makes the messages of a part.
func (f *follower) pendingMessages(ctx context.Context, part *push.Part) (messages []*keytreev1.WatchResponse, err error) {
	s := &supposition{graphReader: &f.graphReader, pending: part.View, now: time.Now()}
	for i := range part.Changes {
		m, err := s.change(&part.Changes[i])
		if err != nil {
			return nil, err
		}
		if m != nil {
			messages = append(messages, m)
		}
	}
	if part.More || f.filter == nil || f.asked == part.View.Generation() {
		return messages, nil
	}
	would, err := s.would(ctx, f.filter)
	if err != nil {
		return nil, err
	}
	f.asked = part.View.Generation()
	// The first time also says that nothing would change: a client that comes back may have been told otherwise before.
	digest := digestOf(would)
	if !f.listed || !bytes.Equal(digest, f.would) {
		f.would = digest
		messages = append(messages, &keytreev1.WatchResponse{PendingChanges: would})
	}
	return messages, nil
}

// change renders one of the log; nil if it has changed again meanwhile, of which the log has more.
func (s *supposition) change(c *push.Change) (*keytreev1.WatchResponse, error) {
	if c.Gone {
		return &keytreev1.WatchResponse{Dropped: c.Tx.String()}, nil
	}
	if _, ok := s.pending.Tx(c.Tx); !ok {
		return nil, nil
	}
	if c.Anchor != nil {
		return &keytreev1.WatchResponse{PendingEvent: &keytreev1.PendingEvent{Transaction: s.transaction(c.Tx), Event: s.render().anchorEvent(*c.Anchor)}}, nil
	}
	action, err := s.pending.Action(c.Tx)
	if err != nil {
		return nil, err
	}
	return &keytreev1.WatchResponse{Pending: &keytreev1.PendingAction{Transaction: s.transaction(c.Tx), Action: s.render().action(action, s.at())}}, nil
}

// would says what all that is pending would do to what a filter has.
func (s *supposition) would(ctx context.Context, filter *push.Filter) (*keytreev1.PendingChanges, error) {
	changes, err := filter.Pending(ctx, s.pending)
	if err != nil {
		return nil, err
	}
	out := &keytreev1.PendingChanges{Unsure: changes.Unsure}
	reasons := new(keytreev1.Unconfirmed)
	for i, key := range changes.Keys {
		out.Changed = append(out.Changed, s.render().address(key))
		if i < mostAsked {
			txids, _, err := s.pending.WhyKey(ctx, key)
			if err != nil && !errors.Is(err, graph.ErrWork) {
				return nil, err
			}
			s.addReasons(reasons, txids)
		}
	}
	for i, id := range changes.IDs {
		out.ChangedIds = append(out.ChangedIds, id.String())
		if i < mostAsked {
			txids, _, _, err := s.pending.WhyIdentity(id)
			if err != nil {
				return nil, err
			}
			s.addReasons(reasons, txids)
		}
	}
	out.By = reasons.By
	return out, nil
}

// digestOf tells changes apart, but for when their reasons were seen; nil for none.
func digestOf(c *keytreev1.PendingChanges) []byte {
	if len(c.Changed)+len(c.ChangedIds) == 0 && !c.Unsure {
		return nil
	}
	h := sha256.New()
	for _, list := range [][]string{c.Changed, {""}, c.ChangedIds, {""}} {
		for _, one := range list {
			h.Write(append([]byte(one), 0))
		}
	}
	for _, by := range c.By {
		txid, _ := chainhash.NewHashFromStr(by.TxHash)
		h.Write(txid[:])
	}
	return h.Sum(nil)
}
