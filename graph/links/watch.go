package links

import (
	"iter"
	"slices"

	"github.com/gcash/bchd/chaincfg/chainhash"

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

// Moved lists, by number, the watched keys that have another root, parent or identity in another
// state of the same graph, and others that are below such keys: it looks at no way up. Both states must have been published, or
// next has to be made of the Watch's. isWatched tells of a key that next has in a link for the first time.
func (w *Watch) Moved(next *State, isWatched func(protocol.KeyHash) bool) []int32 {
	var moved, fresh []int32
	for n := range next.movedSince(w.state) {
		if n < w.state.keys.Len() {
			moved = append(moved, n)
		} else if isWatched(next.keys.Key(n)) {
			fresh = append(fresh, n)
		}
	}
	return append(w.counts.Below(moved), fresh...)
}

// Below tells which of the watched keys may have had another root, parent or identity in another state, which came of the one
// as of a height, if no others had another link of their own or another name there than some: those that are below one of
// these, or at it, and those that are not known to be where they were as of the height.
func (w *Watch) Below(keys []protocol.KeyHash, watched []protocol.KeyHash, height uint32) []protocol.KeyHash {
	var numbers []int32
	is := make(map[protocol.KeyHash]bool, len(keys))
	for _, key := range keys {
		is[key] = true
		if n := w.state.keys.Find(key); n != none {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	numbers = slices.Compact(numbers)
	for _, n := range w.counts.Below(numbers) {
		is[w.state.keys.Key(n)] = true
	}
	return slices.DeleteFunc(slices.Clone(watched), func(key protocol.KeyHash) bool {
		_, stayed := w.state.stayed(key, height)
		return stayed && !is[key]
	})
}

// stayedWork is how many nodes of the forest stayed looks at.
const stayedWork = 1000

// stayed tells whether the way from a key to its root is what it has been since a height, and what its identity is named now;
// a zero name if it was never in one. It looks at memory alone, and not at much: whatever it does not find out
// has not stayed.
func (s *State) stayed(key protocol.KeyHash, height uint32) (name chainhash.Hash, ok bool) {
	n := s.keys.Find(key)
	if n == none {
		return name, true
	}
	if newer, _, ok := s.forest.Newer(n, height, stayedWork); newer != none || !ok {
		return name, false
	}
	root := s.forest.Root(n)
	return s.identity(root).tx, s.places.Ref(root).version < s.versions.upTo(height)
}

// Stayed tells whether the way from a key to its root is what it was as of the view, and has been since, and what its
// identity is named by the tip; a zero name if it was never in one. ok may be false of one that has stayed: in doubt. It reads nothing of the store.
func (v *Identities) Stayed(key protocol.KeyHash) (name chainhash.Hash, ok bool) {
	return v.state.stayed(key, v.height)
}

// MovedSince lists the keys that have another parent, link or name of their own in a state than in another of the same graph.
func (s *State) MovedSince(other *State) (keys []protocol.KeyHash) {
	for n := range s.movedSince(other) {
		keys = append(keys, s.keys.Key(n))
	}
	return keys
}

func (s *State) movedSince(other *State) iter.Seq[int32] {
	return func(yield func(int32) bool) {
		for n := range s.places.Since(&other.places) {
			known := n < other.keys.Len()
			if known && s.namedBy.Ref(n).tx == other.namedBy.Ref(n).tx && s.forest.Parent(n) == other.forest.Parent(n) {
				continue
			}
			if !yield(n) {
				return
			}
		}
	}
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
	id           chainhash.Hash
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
