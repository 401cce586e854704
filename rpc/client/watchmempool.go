package client

import (
	"context"
	"errors"
	"iter"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// MempoolPatience is for how long a server may not know its node's mempool, when a stream of
// WatchMempool begins, before Retrying is told: after each block it does not for a moment.
const MempoolPatience = 10 * time.Second

// PendingUpdate is what WatchMempool brings: one of its fields is set.
type PendingUpdate struct {
	// Pending has become pending, or something else would become of it now.
	Pending *PendingAction
	// Dropped is the txid of an action that was pending, and now is not, nor is it confirmed.
	Dropped string
}

// WatchMempool yields each action that is pending, and from then on what changes. An action that
// is confirmed just goes: Watch tells of it. It holds some 150 bytes for each action that is pending. Follow
// tells of the mempool and of blocks in one stream, and without that.
//
// It goes on until ctx ends or the loop does, over servers that go away, refuse, or do not know
// the mempool, as Watch does. The error is that of ctx if that has ended.
func (c *Client) WatchMempool(ctx context.Context) iter.Seq2[*PendingUpdate, error] {
	return func(yield func(*PendingUpdate, error) bool) {
		w := mempoolWatch{client: c, yield: yield, fates: make(map[string]string)}
		for m, err := range func(yield func(*Message, error) bool) { c.follow(ctx, Filter{Unconfirmed: true}, w.begin, yield) } {
			if err == nil {
				err = w.take(ctx, m)
			}
			if err != nil {
				if !errors.Is(err, errEnough) {
					yield(nil, err)
				}
				return
			}
		}
	}
}

// mempoolWatch is one iteration. One goroutine uses it.
type mempoolWatch struct {
	client *Client
	yield  func(*PendingUpdate, error) bool
	fates  map[string]string // what would become of each action that was yielded, by txid

	told  map[string]bool // those that this stream has told, until it has told all; nil then
	since time.Time       // when the stream began
}

// begin begins another stream.
func (w *mempoolWatch) begin() { w.told, w.since = make(map[string]bool), time.Now() }

// take yields what a message has of actions, but for what was yielded before.
func (w *mempoolWatch) take(ctx context.Context, m *Message) error {
	switch {
	case m.GetPending() != nil:
		txid, fate := m.Pending.GetTransaction().GetTxHash(), fateOf(m.Pending)
		if w.told != nil {
			w.told[txid] = true
		}
		if w.fates[txid] == fate {
			return nil
		}
		w.fates[txid] = fate
		return w.give(&PendingUpdate{Pending: m.Pending})
	case m.GetDropped() != "":
		if _, ok := w.fates[m.Dropped]; !ok { // an anchor, or of before
			return nil
		}
		delete(w.fates, m.Dropped)
		return w.give(&PendingUpdate{Dropped: m.Dropped})
	case m.GetAllPending():
		return w.compare(ctx)
	case m.GetBlock() != nil:
		for _, e := range m.Block.GetEvents() { // what is confirmed is pending no more
			delete(w.fates, e.GetTxHash())
		}
	case w.told != nil && time.Since(w.since) > MempoolPatience && w.client.retrying != nil:
		w.since = time.Now()
		w.client.retrying(ErrMempool, MempoolPatience)
	}
	return nil
}

// compare yields what has gone since an earlier stream, when this one has told all.
func (w *mempoolWatch) compare(ctx context.Context) error {
	told := w.told
	w.told = nil
	for txid := range w.fates {
		if told[txid] {
			continue
		}
		gone, err := w.isGone(ctx, txid)
		if err != nil {
			return err
		}
		delete(w.fates, txid)
		if !gone {
			continue
		}
		if err := w.give(&PendingUpdate{Dropped: txid}); err != nil {
			return err
		}
	}
	return nil
}

// fateOf is all of a pending action that can change.
func fateOf(a *PendingAction) string {
	fate := a.GetAction().GetState() + " " + a.GetAction().GetReason() + " " + a.GetAction().GetByTxHash()
	if a.GetTransaction().GetDoubleSpend() {
		fate += " spent twice"
	}
	return fate
}

// isGone tells whether an action that is not pending is not confirmed either.
func (w *mempoolWatch) isGone(ctx context.Context, txid string) (bool, error) {
	_, err := w.client.Action(ctx, txid)
	if status.Code(err) == codes.NotFound {
		return true, nil
	}
	return false, err
}

func (w *mempoolWatch) give(u *PendingUpdate) error {
	if !w.yield(u, nil) {
		return errEnough
	}
	return nil
}
