package keyserver

import (
	"bytes"
	"context"
	"errors"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/store"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// Where the store is behind a network, the writer's goroutine run must not wait for it: it decides
// one call after the other. So a call is decided twice. First by who makes it, beside all others, on
// what is on disk: of that only what it has read is kept (a call that has looked at all that before
// need not). Then by run, which reads that again, with what was decided since over it. It asks the store only for what the first decision has not read,
// which is seldom.

// mostPast is how many groups may be decided while a call reads ahead.
const mostPast = 6

// ahead is what a call has read before it is decided. It implements store.Getter, for one
// goroutine at a time.
type ahead struct {
	group uint64 // all that was read is as this group has left it, at least
	read  map[string]found
	disk  store.Getter // nil when reading has ended
}

// found is what a key had.
type found struct {
	value []byte
	ok    bool
}

// errNotRead says that a call was not read ahead, or not far enough.
var errNotRead = errors.New("not read ahead")

// Get implements store.Getter.
func (a *ahead) Get(key []byte) (value []byte, ok bool, err error) {
	if f, known := a.read[string(key)]; known {
		return f.value, f.ok, nil
	}
	if a.disk == nil {
		return nil, false, errNotRead
	}
	if value, ok, err = a.disk.Get(key); err == nil {
		a.read[string(key)] = found{bytes.Clone(value), ok}
	}
	return value, ok, err
}

// ahead begins to read what is on disk, in this state or a later one.
func (s *state) ahead() *ahead { return &ahead{group: s.group, read: make(map[string]found)} }

// lookAhead is view for a call that the writer decides later: it need not ask for what read reads.
func (s *Service) lookAhead(ctx context.Context, read func(store.Getter) error) (*ahead, error) {
	if !s.writer.far {
		return nil, s.view(ctx, func(view store.Reader) error { return read(view) })
	}
	a := s.writer.state.Load().ahead()
	err := s.view(ctx, func(view store.Reader) error {
		a.disk = view
		return read(a)
	})
	a.disk = nil
	return a, err
}

// readAhead decides a call on what is on disk, to see what it reads. What it decides counts for
// nothing.
func (w *writer) readAhead(ctx context.Context, apply func(*tx) error) *ahead {
	known := w.state.Load() // before the View, which may see more
	a := known.ahead()
	_ = w.db.View(ctx, func(view store.Reader) error {
		a.disk = view
		t := w.begun(ctx, a)
		t.now, t.state, t.messages = w.now(), *known, make(map[hashchain.Hash]*uid.Message)
		return apply(t)
	}) // run decides anew, and meets the same error if it is one
	a.disk = nil
	return a
}

// past are the last groups that were passed and write something, ascending. It is run's.
type past struct {
	groups    []pastGroup
	forgotten uint64 // the last group that is stored and not among them
}

type pastGroup struct {
	number  uint64
	decided decided
}

// add adds a group that is passed.
func (p *past) add(g *group) {
	if len(g.writes) == 0 {
		return
	}
	if len(p.groups) == mostPast {
		p.forget(p.groups[0].number)
		p.groups = append([]pastGroup(nil), p.groups[1:]...)
	}
	p.groups = append(p.groups, pastGroup{g.state.group, g.decided})
}

// forget says that nothing is known of the groups up to one that is stored.
func (p *past) forget(stored uint64) { p.forgotten = max(p.forgotten, stored) }

// since returns what was decided that a call may not have seen ahead, the newer first; ok is
// false if that is not known any more.
func (p *past) since(a *ahead) (over []decided, ok bool) {
	if a == nil || a.group < p.forgotten {
		return nil, false
	}
	for n := len(p.groups) - 1; n >= 0 && p.groups[n].number > a.group; n-- {
		over = append(over, p.groups[n].decided)
	}
	return over, true
}

// begun is a change in the making that reads from view.
func (w *writer) begun(ctx context.Context, view store.Getter) *tx {
	return &tx{
		view:    view,
		shelf:   func(hash sigKeyHash) ([]heldKeyInit, error) { return w.shelf(ctx, hash) },
		shelved: make(map[sigKeyHash][]heldKeyInit),
	}
}
