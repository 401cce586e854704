package keyserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/store"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// maxGroup is how many calls are committed together at most.
const maxGroup = 512

// change is one call on its way through the writer.
type change struct {
	ctx context.Context
	// apply decides the call and writes in tx; on an error its writes are dropped. It is
	// called again in a later group if they do not fit into this one.
	apply  func(*tx) error
	ahead  *ahead     // what apply reads; nil if it was not read ahead
	err    error      // what apply said
	result chan error // what the caller is told
}

// writer makes changes durable, in groups. One goroutine, run, decides calls; another
// one, storeAll, stores the group that was decided before. Server signatures are made
// beside both, as soon as positions are given.
type writer struct {
	db      store.Store
	room    func(bytes uint64) error  // of db; tests make it fail
	commit  func([]store.Write) error // of db; tests make it fail
	now     func() uint64             // the clock, in Unix seconds
	most    store.Weight              // of a group of several
	limit   store.Weight              // of any group
	far     bool                      // db is behind a network: calls read ahead of run
	running atomic.Bool               // run has begun; before, there are no changes
	landed  func(*state)              // is told what a commit has made, before its calls are answered

	changes chan *change
	groups  chan *group   // from run to storeAll, which has none then
	stored  chan error    // from storeAll to run: it has none any more, and why that one was refused
	quit    chan struct{} // closed to end run
	done    chan struct{} // closed when run and storeAll have ended

	shelves  *shelves
	state    atomic.Pointer[state] // what is on disk; replaced by storeAll alone
	deciding time.Duration         // how long run has decided; run's, until done is closed
	past     past                  // run's

	failing sync.Once
	failed  chan struct{} // closed when err is set
	err     error         // wraps ErrFailed; may be read once failed is closed
}

// group is calls that were decided one after the other and are stored together. run has
// it until it passes it to storeAll.
type group struct {
	now     uint64 // Unix seconds
	state   state  // after the members
	members []*change
	writes  []write
	taken   store.Weight // of writes
	decided decided      // writes, but for those whose values come later
	before  decided      // what the group before writes, which may not be on disk yet
	// UID messages that the members, and those of the group before, have entered; also some
	// that were not, which nothing names.
	messages, recent map[hashchain.Hash]*uid.Message
}

func newWriter(db store.Store, commit func([]store.Write) error, now func() uint64) *writer {
	limit := db.Limit()
	return &writer{
		db:      db,
		room:    db.Room,
		commit:  commit,
		now:     now,
		most:    store.Weight{Writes: limit.Writes / 2, Bytes: limit.Bytes / 2},
		limit:   limit,
		changes: make(chan *change),
		groups:  make(chan *group),
		stored:  make(chan error),
		quit:    make(chan struct{}),
		done:    make(chan struct{}),
		failed:  make(chan struct{}),
		shelves: newShelves(),
		landed:  func(*state) {},
	}
}

// do has a change made and returns when it is on disk, or refused. If ctx ends
// before, it may or may not be made.
func (w *writer) do(ctx context.Context, apply func(*tx) error) error {
	return w.submit(&change{ctx: ctx, apply: apply})
}

// submit is do for a change that may have been read ahead.
func (w *writer) submit(c *change) error {
	if !w.running.Load() {
		return ErrReadOnly
	}
	c.result = make(chan error, 1)
	if w.far && c.ahead == nil {
		c.ahead = w.readAhead(c.ctx, c.apply)
	}
	select {
	case w.changes <- c:
	case <-w.failed:
		return w.err
	case <-w.quit:
		return ErrClosed
	case <-c.ctx.Done():
		return c.ctx.Err()
	}
	select {
	case err := <-c.result:
		return err
	case <-c.ctx.Done():
		return fmt.Errorf("%w before the call was answered; it may have been stored", c.ctx.Err())
	}
}

// run decides calls until quit is closed. While a group is being stored the next one
// gathers, with whoever comes; else a group is what waits.
func (w *writer) run() {
	defer close(w.done)
	var storing sync.WaitGroup
	storing.Go(w.storeAll)
	defer storing.Wait()
	defer close(w.groups)

	g := w.begin(nil)
	busy := false // whether storeAll has a group
	for {
		left, refused, ended := w.gather(g, &busy)
		if ended {
			return
		}
		if busy {
			refused = <-w.stored
			busy = false
		}
		if refused != nil { // with what was decided on top of it
			g = w.refuse(g, refused)
		} else if len(g.members) > 0 {
			g, busy = w.pass(g)
		} else { // it was begun before the group before was stored
			g = w.begin(nil)
		}
		if left != nil {
			w.decide(g, left) // an empty group has room for it
		}
	}
}

// gather decides calls until the group is to be stored, and returns one that did not fit
// any more, or nil; or until the writer ends, or the group before was refused.
func (w *writer) gather(g *group, busy *bool) (left *change, refused error, ended bool) {
	for left == nil && len(g.members) < maxGroup {
		switch {
		case *busy:
			select {
			case c := <-w.changes:
				left = w.decide(g, c)
			case refused = <-w.stored:
				*busy = false
				if refused != nil || len(g.members) == 0 {
					return nil, refused, false
				}
			}
		case len(g.members) == 0:
			select {
			case c := <-w.changes:
				left = w.decide(g, c)
			case <-w.quit:
				return nil, nil, true
			case <-w.failed:
				return nil, nil, true
			}
		default:
			select {
			case c := <-w.changes:
				left = w.decide(g, c)
			default:
				return nil, nil, false
			}
		}
	}
	return left, nil, false
}

// begin begins a group behind the one before, which is about to be stored; nil if all is
// on disk. Nothing may be being stored.
func (w *writer) begin(before *group) *group {
	g := &group{decided: make(decided), messages: make(map[hashchain.Hash]*uid.Message)}
	if before == nil {
		g.state = *w.state.Load()
		g.state.group++
		return g
	}
	g.state, g.recent, g.before = before.state, before.messages, before.decided
	g.state.group++
	return g
}

// add adds what a member writes.
func (g *group) add(writes []write) {
	g.writes = append(g.writes, writes...)
	for _, write := range writes {
		if write.later == nil {
			g.decided[string(write.Key)] = write.Write
		}
	}
}

// decide decides a call as the group's next one. It returns the call if the group has no
// room for it, and it is to be decided again in the next one.
func (w *writer) decide(g *group, c *change) (left *change) {
	start := time.Now()
	defer func() { w.deciding += time.Since(start) }()
	if len(g.members) == 0 {
		g.now = w.now()
	}
	g.members = append(g.members, c)
	if c.err = c.ctx.Err(); c.err != nil {
		return nil
	}
	var t *tx
	on := func(over []decided, disk store.Getter) error {
		t = w.begun(c.ctx, overlay{append([]decided{g.decided}, over...), disk})
		t.now, t.state, t.messages, t.recent = g.now, g.state, g.messages, g.recent
		return c.apply(t)
	}
	c.err = errNotRead
	if over, ok := w.past.since(c.ahead); ok {
		c.err = on(over, c.ahead)
	}
	if errors.Is(c.err, errNotRead) {
		c.err = w.db.View(c.ctx, func(view store.Reader) error { return on([]decided{g.before}, view) })
	}
	if errors.Is(c.err, ErrDamaged) {
		w.fail(c.err) // so that the group is refused
		return nil
	}
	if c.err != nil || len(t.writes) == 0 {
		return nil
	}
	both := g.taken.Plus(weigh(t.writes))
	if len(g.writes) > 0 && !both.Within(w.most) {
		g.members = g.members[:len(g.members)-1]
		return c
	}
	if !both.Within(w.limit) {
		c.err = fmt.Errorf("%w: %d writes of %d bytes", ErrTooBig, both.Writes, both.Bytes)
		return nil
	}
	g.add(t.writes)
	for _, write := range t.writes {
		if write.later != nil {
			go write.later()
		}
	}
	for hash, held := range t.shelved {
		w.shelves.change(hash, held, g.state.group, w.state.Load().group)
	}
	g.state, g.taken = t.state, both
	return nil
}

// pass has a group stored, and begins the next one on top of it, before it is. If the disk
// is full it refuses the group, and the next one begins on what is on disk: busy is false
// then. Nothing may be being stored.
func (w *writer) pass(g *group) (next *group, busy bool) {
	if len(g.writes) > 0 {
		if full := w.room(uint64(g.taken.Bytes)); full != nil {
			return w.refuse(g, full), false
		}
	}
	if w.far {
		w.past.add(g)
	}
	next = w.begin(g)
	w.groups <- g
	return next, true
}

// refuse refuses a group of which nothing is stored, and begins the next one on what is. Nothing
// may be being stored.
func (w *writer) refuse(g *group, why error) (next *group) {
	stored := w.state.Load().group
	w.shelves.refuse(stored)
	w.past.groups = nil // the next ones get the numbers of those that were refused
	w.past.forget(stored)
	g.answer(why)
	return w.begin(nil)
}

// storeAll stores groups, one after the other, and answers their calls, until there are
// no more.
func (w *writer) storeAll() {
	for g := range w.groups {
		err := w.store(g)
		g.answer(err)
		if !passing(err) {
			err = nil // the writer has failed, if it is one
		}
		w.stored <- err
	}
}

// passing tells whether a commit has failed with nothing stored, for what passes: a disk that is
// full, a database that is away.
func passing(err error) bool {
	return (errors.Is(err, ErrDiskFull) || errors.Is(err, store.ErrUnavailable)) && !errors.Is(err, ErrFailed)
}

// store puts on disk what a group writes. If that fails for what passes, the group is refused, and
// so is what was decided on top of it. If it fails otherwise, or something has failed before,
// nobody may rely on what was decided: the writer fails, and so do all groups that come later.
func (w *writer) store(g *group) error {
	select {
	case <-w.failed:
		return w.err
	default:
	}
	if len(g.writes) == 0 {
		return nil
	}
	if err := w.commitAll(g.writes); passing(err) {
		return err
	} else if err != nil {
		return w.fail(err)
	}
	// Readers see it already: a state is never newer than what is read after it.
	w.state.Store(&g.state)
	w.landed(&g.state)
	return nil
}

// commitAll makes writes in one commit.
func (w *writer) commitAll(writes []write) error {
	whole := make([]store.Write, len(writes))
	for i, write := range writes {
		if write.later != nil {
			write.Value = write.later()
		}
		whole[i] = write.Write
	}
	return w.commit(whole)
}

// answer tells the members how it ended: as each was decided, unless nothing of the group
// is stored. Then also those that were refused are told so: perhaps they were because of
// what is not stored now.
func (g *group) answer(err error) {
	for _, c := range g.members {
		c.err = cmp.Or(err, c.err)
		c.result <- c.err
	}
}

// start begins run, once there is a state.
func (w *writer) start() {
	w.running.Store(true)
	go w.run()
}

// stop ends run.
func (w *writer) stop() {
	close(w.quit)
	if w.running.Load() {
		<-w.done
	}
}

// fail makes the writer refuse everything from now on.
func (w *writer) fail(cause error) error {
	w.failing.Do(func() {
		w.err = fmt.Errorf("%w: %w", ErrFailed, cause)
		close(w.failed)
	})
	return w.err
}
