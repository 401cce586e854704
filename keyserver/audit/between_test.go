package audit

import (
	"context"
	"errors"
	"iter"
	"slices"
	"testing"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// between stands between a keyserver and its auditor, who gets from it what is not nil.
type between struct {
	Keyserver
	entries   []hashchain.Entry
	cutAfter  int // entries; 0: never
	positions func() ([]uint64, error)
	reply     func(index hashchain.Hash) (*uid.Reply, error)
	head      func() (*hashchain.SignedHead, error)
}

func (b *between) of(k Keyserver) *between { b.Keyserver = k; return b }

// Entries implements Keyserver.
func (b *between) Entries(ctx context.Context, from uint64) iter.Seq2[[]hashchain.Entry, error] {
	if b.entries == nil {
		return b.Keyserver.Entries(ctx, from)
	}
	return func(yield func([]hashchain.Entry, error) bool) {
		end := uint64(len(b.entries))
		if b.cutAfter > 0 {
			end = uint64(b.cutAfter)
		}
		if from < end && !yield(b.entries[from:end], nil) {
			return
		}
		if b.cutAfter > 0 {
			yield(nil, errCut)
		}
	}
}

var errCut = errors.New("the connection was cut")

// Positions implements Keyserver.
func (b *between) Positions(ctx context.Context, identity string) ([]uint64, error) {
	if b.positions == nil {
		return b.Keyserver.Positions(ctx, identity)
	}
	return b.positions()
}

// Reply implements Keyserver.
func (b *between) Reply(ctx context.Context, index hashchain.Hash) (*uid.Reply, error) {
	if b.reply == nil {
		return b.Keyserver.Reply(ctx, index)
	}
	return b.reply(index)
}

// Head implements Keyserver.
func (b *between) Head(ctx context.Context) (*hashchain.SignedHead, error) {
	if b.head == nil {
		return b.Keyserver.Head(ctx)
	}
	return b.head()
}

// stranger is a keyserver with keys of its own that goes on from the first size entries
// of another, whose it claims to be.
func stranger(w *world, size, grow int) *server {
	s := w.server.twin(size)
	s.key = newKey(99)
	s.grow(grow)
	return s
}

// places are where somebody can stand.
var places = map[string]func(w *world, known int) *between{
	"appends an entry": func(w *world, _ int) *between {
		return &between{entries: stranger(w, len(w.server.entries), 1).entries}
	},
	"appends an entry, and signs it": func(w *world, _ int) *between {
		s := stranger(w, len(w.server.entries), 1)
		return &between{entries: s.entries, reply: func(i hashchain.Hash) (*uid.Reply, error) { return s.Reply(context.Background(), i) }, head: func() (*hashchain.SignedHead, error) { return s.head(testTime), nil }}
	},
	"appends a key of the keyserver's": func(w *world, _ int) *between {
		s := stranger(w, len(w.server.entries), 0)
		s.rotate(newKey(98))
		return &between{
			entries: s.entries, positions: func() ([]uint64, error) { return s.own, nil },
			reply: func(i hashchain.Hash) (*uid.Reply, error) { return s.Reply(context.Background(), i) },
		}
	},
	"changes an entry": func(w *world, known int) *between {
		entries := slices.Clone(w.server.entries)
		entries[known][60] ^= 1
		return &between{entries: entries}
	},
	"changes the last known one": func(w *world, known int) *between { return &between{entries: stranger(w, known-1, 5).entries} },
	"shows another history":      func(w *world, _ int) *between { return &between{entries: stranger(w, 3, 20).entries} },
	"shows another keyserver": func(w *world, _ int) *between {
		s := newServer(w.t, newKey(99))
		s.grow(30)
		return &between{Keyserver: s}
	},
	"removes the last":     func(w *world, _ int) *between { return &between{entries: w.server.entries[:len(w.server.entries)-1]} },
	"shows an older state": func(w *world, known int) *between { return &between{entries: w.server.entries[:known-2]} },
	"answers for another": func(w *world, _ int) *between {
		return &between{reply: func(hashchain.Hash) (*uid.Reply, error) { return w.server.replies[w.server.entries[1].UIDIndex()], nil }}
	},
	"signs heads itself": func(w *world, _ int) *between {
		return &between{head: func() (*hashchain.SignedHead, error) { return stranger(w, 3, 20).head(testTime), nil }}
	},
	"refuses": func(*world, int) *between { return &between{Keyserver: deadKeyserver{errors.New("keyserver refuses")}} },
	"refuses messages": func(*world, int) *between {
		return &between{reply: func(hashchain.Hash) (*uid.Reply, error) { return nil, errors.New("keyserver refuses") }}
	},
	"cuts the connection": func(w *world, known int) *between { return &between{entries: w.server.entries, cutAfter: known + 1} },
	"makes up an entry and cuts the connection": func(w *world, known int) *between {
		return &between{entries: stranger(w, known, 3).entries, cutAfter: known + 2}
	},
}

// TestBetween has somebody stand between an honest keyserver and its auditor, in every
// place. Afterwards all is as it would be without, and nobody was convicted.
func TestBetween(t *testing.T) {
	for name, place := range places {
		for _, seen := range []bool{false, true} {
			for _, watched := range []bool{false, true} { // the process goes on
				w := newWorld(t)
				w.server.grow(5)
				w.anchor()
				w.server.grow(4)
				dir := t.TempDir()
				if seen {
					w.audit(dir).want(t, Sound, "")
				}
				known := len(w.server.entries)
				w.server.grow(3)
				b := place(w, known)
				if b.Keyserver == nil {
					b.of(w.server)
				}
				from := w.sources()
				from.Keyserver = b
				a := w.open(dir)
				for range 2 {
					r, err := a.Audit(t.Context(), from)
					if err != nil {
						t.Fatal(err)
					}
					if r.Verdict == Misbehaviour {
						t.Errorf("%s: %+v", name, r.Findings)
					}
				}
				if w := a.state.Waiting; len(w) > 0 && w[len(w)-1].Size > a.copy.kept {
					t.Errorf("%s: %d entries wait for an anchor, %d are kept", name, w[len(w)-1].Size, a.copy.kept)
				}
				if !watched {
					if err := a.Close(); err != nil {
						t.Fatal(err)
					}
					a = w.open(dir)
				}
				w.server.grow(1)
				want := w.audit(t.TempDir())
				r, err := a.Audit(t.Context(), w.sources())
				if err := errors.Join(err, a.Close()); err != nil {
					t.Fatal(err)
				}
				if r.Verdict != Sound || r.Entries != want.Entries || r.Covered != want.Covered || !slices.Equal(r.NotCovered, want.NotCovered) || !slices.Equal(r.Notes, want.Notes) {
					t.Errorf("%s, seen before %v, watched %v: %+v, expected %+v", name, seen, watched, r, want)
				}
				w.audit(dir).want(t, Sound, "")
				if again := w.open(dir); again.copy.kept != uint64(len(w.server.entries)) {
					t.Errorf("%s: %d entries are kept", name, again.copy.kept)
				} else if err := again.Close(); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// TestDroppedForGood: what was made up, and is not shown any more, does not come back when
// the keyserver is away.
func TestDroppedForGood(t *testing.T) {
	w := newWorld(t)
	dir, from := t.TempDir(), w.sources()
	from.Keyserver = places["appends an entry"](w, 0).of(w.server)
	if r := w.auditOf(dir, from); r.Entries != 6 {
		t.Errorf("made up: %d entries, expected 6", r.Entries)
	}
	w.audit(dir).want(t, Sound, "")
	from.Keyserver = deadKeyserver{errors.New("away")}
	if r := w.auditOf(dir, from); r.Entries != 5 {
		t.Errorf("away: %d entries, expected 5", r.Entries)
	}
}

// TestShownIsSaid: what nothing covers is in the report, and said to be so; and what was
// shown is not fetched again while it is still shown.
func TestShownIsSaid(t *testing.T) {
	w := newWorld(t)
	w.server.grow(2500)
	w.server.signs, w.server.answers = false, false
	dir := t.TempDir()
	r := w.audit(dir)
	r.want(t, Sound, "")
	if r.Entries != 2505 || !slices.ContainsFunc(r.NotCovered, func(s string) bool {
		return s == "2500 entries, from position 5 on: they were shown, but nothing that is signed or anchored covers them, and somebody between may have made them up"
	}) {
		t.Errorf("%d entries, not covered %q", r.Entries, r.NotCovered)
	}
	w.server.fetched = 0
	w.audit(dir).want(t, Sound, "")
	if w.server.fetched != 1 {
		t.Errorf("%d entries were fetched again", w.server.fetched)
	}
	a := w.open(dir)
	if a.state.Size != 5 || a.copy.Size() != 2505 {
		t.Errorf("%d entries are kept, %d were shown", a.state.Size, a.copy.Size())
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	w.server.signs = true
	w.audit(dir).want(t, Sound, "")
	if a = w.open(dir); a.copy.kept != 2505 {
		t.Errorf("%d entries are kept", a.copy.kept)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
}
