package links

import (
	"slices"

	"github.com/keytree-bch/keytree/graph/forest"
	"github.com/keytree-bch/keytree/protocol"
)

// Watch finds those of many watched keys that a step may have changed, at a cost that grows with these, and not
// with the identities that they are in. It is of one state at a time, which it follows from step to step. It belongs to
// one goroutine.
type Watch struct {
	state  *State
	counts *forest.Watch
}

// NewWatch returns a Watch of a state, without watched keys.
func NewWatch(s *State) *Watch { return &Watch{s, forest.NewWatch(s.forest)} }

// Add lets a key be watched that is not. Of one that was never in a link nothing is noted.
func (w *Watch) Add(key protocol.KeyHash) {
	if n := w.state.keys.Find(key); n != none {
		w.counts.Add(n)
	}
}

// Remove lets a key that is watched be watched no more.
func (w *Watch) Remove(key protocol.KeyHash) {
	if n := w.state.keys.Find(key); n != none {
		w.counts.Remove(n)
	}
}

// Moved lists, by number and in order, the watched keys that have another root, parent or identity in another
// state of the same graph, and others that are below such keys: it looks at no way up. Both states must have been published, or
// next has to be made of the Watch's. isWatched tells of a key that next has in a link for the first time.
func (w *Watch) Moved(next *State, isWatched func(protocol.KeyHash) bool) []int32 {
	var moved, fresh []int32
	for n := range next.places.Since(&w.state.places) {
		switch {
		case n >= w.state.keys.Len():
			if isWatched(next.keys.Key(n)) {
				fresh = append(fresh, n)
			}
		case next.places.Ref(n).name.tx != w.state.places.Ref(n).name.tx || next.forest.Parent(n) != w.state.forest.Parent(n):
			moved = append(moved, n)
		}
	}
	return append(w.counts.Below(moved), fresh...) // which have higher numbers
}

// Follow makes it a Watch of another state of the same graph that was published. isWatched is as with Moved.
func (w *Watch) Follow(next *State, isWatched func(protocol.KeyHash) bool) {
	known := w.state.keys.Len()
	w.state = next
	w.counts.Follow(next.forest)
	for n := known; n < next.keys.Len(); n++ {
		if isWatched(next.keys.Key(n)) {
			w.counts.Add(n)
		}
	}
}

// Changed leaves those of some keys, given by number, that have another root, parent or identity in a state than in another
// of the same graph.
func (s *State) Changed(before *State, keys []int32) []int32 {
	return slices.DeleteFunc(keys, func(n int32) bool { return s.answer(n) == before.answer(n) })
}

// answer is what Changed compares.
type answer struct {
	root, parent int32
	id           [32]byte
}

func (s *State) answer(n int32) answer {
	if n >= s.keys.Len() {
		return answer{root: n, parent: none}
	}
	root := s.forest.Root(n)
	return answer{root, s.forest.Parent(n), s.identity(root).tx}
}

// KeyOf returns the key with a number.
func (s *State) KeyOf(n int32) protocol.KeyHash { return s.keys.Key(n) }
