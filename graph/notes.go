package graph

import (
	"context"
	"errors"
	"slices"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/protocol"
)

// mostNotes is how many notes are kept at most.
const mostNotes = 32

// note is what a step has changed of the followings.
type note struct {
	step    uint64 // its number
	height  uint32 // of the block that was connected, or taken back
	hash    chainhash.Hash
	undone  bool     // it was taken back
	pending *pending // not nil: what is pending instead of a block

	hits  map[*Following]*hits
	bytes int64 // that hits takes, about
}

// hits are places in the lists of a following, in no particular order.
type hits struct{ keys, ids []uint16 }

func (n *note) of(f *Following) *hits {
	h := n.hits[f]
	if h == nil {
		h = new(hits)
		n.hits[f] = h
		n.bytes += 150
	}
	n.bytes += 3
	return h
}

// watch looks at what steps change of the followings, until ctx ends.
func (g *Graph) watch(ctx context.Context) {
	defer g.followers.end()
	for {
		s := g.current.Load()
		step, pending := s.changed, s.pending.Load().changed
		if err := g.followers.look(g); err != nil {
			g.opt.Log.Warn().Err(err).Msg("what the last step changed of the keys that are followed is found once it is asked for")
		}
		select {
		case <-ctx.Done():
			return
		case <-step:
		case <-pending:
		case <-g.followers.come:
		}
	}
}

// look makes notes of what has come since the last ones. It may pass over a step if another one has come: what
// the notes do not have is found when it is asked for.
func (f *followers) look(g *Graph) error {
	next, err := g.hold()
	if err != nil {
		return nil // it says so to every question
	}
	defer next.release()
	p := next.pending.Load()
	if !p.known {
		p = nil
	}
	err = f.lookAtStep(g, next)
	if err == nil && p != nil {
		err = f.lookAtPending(next, p)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.base == next {
		f.pending = p
	}
	close(f.changed)
	f.changed = make(chan struct{})
	return err
}

// isFollowed tells whether somebody follows a key. Called with mu held.
func (f *followers) isFollowed(key protocol.KeyHash) bool { return f.keys.has(key) }

// lookAtStep notes what a snapshot has changed since the last one, and goes on from there.
func (f *followers) lookAtStep(g *Graph, next *snapshot) error {
	f.mu.Lock()
	last := f.base
	if last == nil || last == next || !last.hold() {
		f.mu.Unlock()
		return nil
	}
	defer last.release()
	f.steps++
	n := stepBetween(g, last, next)
	n.step = f.steps
	var moved []int32
	if n.hits != nil {
		moved = f.watch.Moved(next.state.Links, f.isFollowed)
	}
	ids := f.ids.names.Len() > 0
	f.mu.Unlock()

	moved = next.state.Links.Changed(last.state.Links, moved)
	var touched touchedIDs
	known, err := true, error(nil)
	if ids {
		touched, known, err = n.touched(g, last, next)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.base != last {
		return err // all have left meanwhile
	}
	f.watch.Follow(next.state.Links, f.isFollowed)
	f.base = next
	next.hold() // it is held by the caller
	last.release()
	f.pending = nil
	if err != nil || !known {
		return errors.Join(err, f.relist(next, f.ids.all()))
	}
	if n.hits != nil {
		f.put(n, next.state.Links, moved, touched.ids)
	}
	return f.relist(next, touched.merged)
}

// stepBetween returns a note of what came between two snapshots, which has no hits if that is not one block.
func stepBetween(g *Graph, last, next *snapshot) *note {
	follows := func(a, b *snapshot) bool { // b is one block more than a
		switch {
		case b.tip == nil:
			return false
		case a.tip == nil:
			return b.tip.Height == g.params.StartHeight
		}
		return b.tip.Height == a.tip.Height+1 && b.block.Prev == a.tip.Hash
	}
	switch {
	case next.taken == last.taken && follows(last, next):
		return &note{height: next.tip.Height, hash: next.tip.Hash, hits: make(map[*Following]*hits)}
	case next.taken == last.taken+1 && follows(next, last):
		return &note{height: last.tip.Height, hash: last.tip.Hash, undone: true, hits: make(map[*Following]*hits)}
	}
	return &note{}
}

// touched returns what the blocks between two snapshots have touched; known is false if some were connected and others
// taken back.
func (n *note) touched(g *Graph, last, next *snapshot) (t touchedIDs, known bool, err error) {
	if n.undone {
		t, err = last.touched(last.tip.Height)
		return t, true, err
	}
	if next.taken != last.taken {
		return t, false, nil
	}
	from := g.params.StartHeight
	if last.tip != nil {
		from = last.tip.Height + 1
	}
	for height := from; height <= next.tip.Height && err == nil; height++ {
		var more touchedIDs
		more, err = next.touched(height)
		t.ids, t.merged = append(t.ids, more.ids...), append(t.merged, more.merged...)
	}
	return t, true, err
}

// lookAtPending notes what is pending after a snapshot.
func (f *followers) lookAtPending(next *snapshot, p *pending) error {
	f.mu.Lock()
	if f.base != next || f.pending == p {
		f.mu.Unlock()
		return nil
	}
	f.steps++
	n := &note{step: f.steps, pending: p, hits: make(map[*Following]*hits)}
	moved := f.watch.Moved(p.state.Links, f.isFollowed)
	f.mu.Unlock()

	moved = p.state.Links.Changed(next.state.Links, moved)
	ids := p.touchedIDs()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.base == next {
		f.notes = slices.DeleteFunc(f.notes, func(n *note) bool { return n.pending != nil }) // which is pending no more
		f.put(n, p.state.Links, moved, ids)
	}
	return nil
}

// put makes a note of the keys that a state has changed, given by number, and of the identities touched, and forgets old
// notes. Called with mu held.
func (f *followers) put(n *note, state *links.State, changed []int32, touched []chainhash.Hash) {
	for _, key := range changed {
		for _, e := range f.keys.of(state.KeyOf(key)) {
			h := n.of(f.all[e.following])
			h.keys = append(h.keys, e.at)
		}
	}
	for _, id := range touched {
		for _, e := range f.ids.of(id) {
			h := n.of(f.all[e.following])
			h.ids = append(h.ids, e.at)
		}
	}
	f.notes = append(f.notes, n)
	bytes := int64(0) // of those before
	for i, old := range slices.Backward(f.notes[:len(f.notes)-1]) {
		if bytes += old.bytes; bytes > notesMemory || len(f.notes)-i > mostNotes {
			f.notes = slices.Delete(f.notes, 0, i+1)
			break
		}
	}
}

// noted returns what the notes have of a step for a following. ok is false if they do not have it: it came before the
// following, long ago, or together with others. While there are to be notes of what is current, noted waits for them, and for
// little more: steps may come without end.
func (f *followers) noted(ctx context.Context, g *Graph, following *Following, is func(n *note) bool) (c Changes, ok bool, err error) {
	for range 3 { // the second time they are of what was current the first time
		f.mu.Lock()
		if following.number == none || f.ended {
			f.mu.Unlock()
			return c, false, nil
		}
		for _, n := range slices.Backward(f.notes) {
			if n.step > following.since && is(n) {
				if h := n.hits[following]; h != nil {
					c = following.changes(h)
				}
				f.mu.Unlock()
				return c, true, nil
			}
		}
		s := g.current.Load()
		p := s.pending.Load()
		upToDate := s.broken != nil || f.base == s && (f.pending == p || !p.known)
		changed := f.changed
		f.mu.Unlock()
		if upToDate {
			return c, false, nil
		}
		select {
		case <-ctx.Done():
			return c, false, ctx.Err()
		case <-changed:
		}
	}
	return c, false, nil
}
