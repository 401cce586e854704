package client

import (
	"context"
	"errors"
	"iter"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// MempoolPause is how long WatchMempool waits before it asks again, at least: it waits ten
	// times as long as the answer took, so that a large mempool is asked for less often.
	MempoolPause = time.Second
	// MempoolPatience is for how long a server may not know its node's mempool before Retrying
	// is told: after each block it does not for a moment.
	MempoolPatience = 10 * time.Second
)

// PendingUpdate is what WatchMempool brings: one of its fields is set.
type PendingUpdate struct {
	// Pending has become pending, or something else would become of it now.
	Pending *PendingAction
	// Dropped is the txid of an action that was pending, and now is not, nor is it confirmed.
	Dropped string
}

// WatchMempool yields each action that is pending, and from then on what changes. An action that
// is confirmed just goes: Watch tells of it. It asks the server again and again, and holds some 150
// bytes for each action that is pending.
//
// It goes on until ctx ends or the loop does, over servers that go away, refuse, or do not know
// the mempool, as Watch does. The error is that of ctx if that has ended.
func (c *Client) WatchMempool(ctx context.Context) iter.Seq2[*PendingUpdate, error] {
	return func(yield func(*PendingUpdate, error) bool) {
		w := mempoolWatch{client: c, yield: yield, fates: make(map[string]string)}
		if err := w.run(ctx); !errors.Is(err, errEnough) {
			yield(nil, err)
		}
	}
}

// mempoolWatch is one iteration. One goroutine uses it.
type mempoolWatch struct {
	client *Client
	yield  func(*PendingUpdate, error) bool
	fates  map[string]string // what would become of each action that was yielded, by txid
}

// run asks until there is a reason not to.
func (w *mempoolWatch) run(ctx context.Context) error {
	pause := newPause()
	known := time.Now() // when the mempool was, last
	for {
		start := time.Now()
		err := w.compare(ctx)
		after := max(MempoolPause, 10*time.Since(start))
		switch {
		case errors.Is(err, errEnough):
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			known = time.Now()
			pause.Reset()
		case errors.Is(err, ErrMempool):
			pause.Reset()
			if time.Since(known) > MempoolPatience && w.client.retrying != nil {
				known = time.Now()
				w.client.retrying(err, after)
			}
		case final(err):
			return err
		default:
			after = w.client.longer(pause, err)
		}
		if err := w.client.sleep(ctx, after); err != nil {
			return err
		}
	}
}

// compare yields how the mempool differs from what was yielded.
func (w *mempoolWatch) compare(ctx context.Context) error {
	listed := make(map[string]bool)
	for a, err := range w.client.Mempool(ctx) {
		if err != nil {
			return err
		}
		txid, fate := a.GetTransaction().GetTxHash(), fateOf(a)
		listed[txid] = true
		if w.fates[txid] == fate {
			continue
		}
		if err := w.give(&PendingUpdate{Pending: a}); err != nil {
			return err
		}
		w.fates[txid] = fate
	}
	for txid := range w.fates {
		if listed[txid] {
			continue
		}
		gone, err := w.isGone(ctx, txid)
		if err != nil {
			return err
		}
		if gone {
			if err := w.give(&PendingUpdate{Dropped: txid}); err != nil {
				return err
			}
		}
		delete(w.fates, txid)
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

// isGone tells whether an action is neither pending nor confirmed. The list may have missed it.
func (w *mempoolWatch) isGone(ctx context.Context, txid string) (bool, error) {
	for _, ask := range []func(context.Context, string) (*Action, error){w.client.Pending, w.client.Action} {
		if _, err := ask(ctx, txid); status.Code(err) != codes.NotFound {
			return false, err
		}
	}
	return true, nil
}

func (w *mempoolWatch) give(u *PendingUpdate) error {
	if !w.yield(u, nil) {
		return errEnough
	}
	return nil
}
