package keyserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"

	"github.com/keytree-bch/keytree/graph/badgerfiles"
)

// maxGroup is how many calls are committed together at most.
const maxGroup = 512

// change is one call on its way through the writer.
type change struct {
	ctx context.Context
	// apply decides the call and writes in tx; on an error its writes are dropped. It is
	// called again in the next group if they do not fit into this one.
	apply  func(*tx) error
	err    error      // what apply said
	result chan error // what the caller is told
}

// writer makes changes durable, in groups: while one group is being synced, the
// next one gathers.
type writer struct {
	db     *badger.DB
	disk   badgerfiles.Disk
	commit func(*badger.Txn) error // Commit; tests make it fail
	now    func() uint64           // the clock, in Unix seconds
	most   weight                  // of a group of several
	limit  weight                  // of any group, which stays below it
	look   bool                    // Options.Look: there are no changes

	changes chan *change
	quit    chan struct{} // closed to end run
	done    chan struct{} // closed when run has ended

	state atomic.Pointer[state] // what is on disk; replaced by run alone

	failing sync.Once
	failed  chan struct{} // closed when err is set
	err     error         // wraps ErrFailed; may be read once failed is closed
}

func newWriter(db *badger.DB, disk badgerfiles.Disk, commit func(*badger.Txn) error, now func() uint64) *writer {
	limit := weight{db.MaxBatchCount() - endWeight().count, db.MaxBatchSize() - endWeight().bytes}
	return &writer{
		db:      db,
		disk:    disk,
		commit:  commit,
		now:     now,
		most:    weight{limit.count / 2, limit.bytes / 2},
		limit:   limit,
		changes: make(chan *change),
		quit:    make(chan struct{}),
		done:    make(chan struct{}),
		failed:  make(chan struct{}),
	}
}

// do has a change made and returns when it is on disk, or refused. If ctx ends
// before, it may or may not be made.
func (w *writer) do(ctx context.Context, apply func(*tx) error) error {
	if w.look {
		return ErrLook
	}
	c := &change{ctx: ctx, apply: apply, result: make(chan error, 1)}
	select {
	case w.changes <- c:
	case <-w.failed:
		return w.err
	case <-w.quit:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-c.result:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w before the call was answered; it may have been stored", ctx.Err())
	}
}

// run is the writer's goroutine. It ends when quit is closed, after the group
// that it is at.
func (w *writer) run() {
	defer close(w.done)
	var next *change
	for {
		if next == nil {
			select {
			case next = <-w.changes:
			case <-w.quit:
				return
			case <-w.failed:
				return
			}
		}
		next = w.group(next)
	}
}

// stop ends run.
func (w *writer) stop() {
	close(w.quit)
	<-w.done
}

// fail makes the writer refuse everything from now on.
func (w *writer) fail(cause error) error {
	w.failing.Do(func() {
		w.err = fmt.Errorf("%w: %w", ErrFailed, cause)
		close(w.failed)
	})
	return w.err
}

// group decides first and what else is waiting, commits all that, and answers. It
// returns the change that did not fit any more, or nil.
func (w *writer) group(first *change) (left *change) {
	txn := w.db.NewTransaction(true)
	defer txn.Discard()
	var (
		state   = *w.state.Load()
		now     = w.now()
		members []*change
		taken   weight // of what members write
		wrote   bool
		err     error // the service fails with
		full    error // the group is refused with
	)
	for c := first; c != nil; c = w.waiting(len(members)) {
		members = append(members, c)
		if c.err = c.ctx.Err(); c.err != nil {
			continue
		}
		t := &tx{txn: txn, now: now, state: state}
		c.err = c.apply(t)
		if errors.Is(c.err, ErrDamaged) {
			err = c.err
			break
		}
		if c.err != nil || len(t.writes) == 0 {
			continue
		}
		both := taken.plus(t.weight())
		if wrote && !both.below(w.most) {
			members, left = members[:len(members)-1], c
			break
		}
		if !both.plus(stampWeight()).below(w.limit) {
			c.err = fmt.Errorf("%w: %d writes of %d bytes", ErrTooBig, both.count, both.bytes)
			continue
		}
		if err = t.flush(); err != nil {
			break
		}
		state, taken, wrote = t.state, both, true
	}
	if err == nil && wrote {
		if full = w.disk.Room(uint64(taken.bytes)); full == nil {
			// Every transaction writes this key, so that the versions which Badger gives to
			// transactions have no gaps and it can be told that some are missing.
			if err = txn.Set([]byte{prefixStamp}, nil); err == nil {
				err = w.commit(txn)
			}
		}
	}
	switch {
	case err != nil:
		err = w.fail(err)
	case full == nil:
		w.state.Store(&state)
	}
	for _, c := range members {
		// Also a call that was refused: perhaps because of what is not stored now.
		c.err = cmp.Or(err, full, c.err)
		c.result <- c.err
	}
	if left != nil && err != nil {
		left.result <- err
		left = nil
	}
	return left
}

// waiting returns a change that waits, or nil if there is none or the group is
// full.
func (w *writer) waiting(members int) *change {
	if members >= maxGroup {
		return nil
	}
	select {
	case c := <-w.changes:
		return c
	default:
		return nil
	}
}
