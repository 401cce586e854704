package links

import (
	"fmt"
	"maps"
	"math"

	"github.com/keytree-bch/keytree/graph/cow"
	"github.com/keytree-bch/keytree/protocol"
)

// Empty returns a state that is new, and can be compared with s once it has been loaded.
func (s *State) Empty() *State {
	empty := NewState()
	empty.waiting.secret = s.waiting.secret
	if s.records != nil {
		empty.KeepRecords()
	}
	return empty
}

func sameMap[K, V comparable](a, b *cow.Map[K, V]) bool {
	return maps.Equal(maps.Collect(a.All()), maps.Collect(b.All()))
}

func sameSpans(a, b *cow.Array[blockSpan]) bool {
	if a.Len() != b.Len() {
		return false
	}
	for n := range a.Len() {
		if a.At(n) != b.At(n) {
			return false
		}
	}
	return true
}

// Differs says in what two states are not the same, "" if they are. The numbers of keys
// may differ.
func (s *State) Differs(t *State) string {
	inIdentities := int32(0)
	for n := range s.places.Len() {
		if !s.places.Ref(n).named {
			continue // taken back
		}
		inIdentities++
		key := s.keys.Key(n)
		m := t.inIdentity(key)
		if m == none {
			return fmt.Sprintf("keys: %x is missing", key)
		}
		if s.forest.Depth(n) != t.forest.Depth(m) || s.forest.Size(n) != t.forest.Size(m) ||
			s.keys.Key(s.forest.Root(n)) != t.keys.Key(t.forest.Root(m)) || s.record(n) != t.record(m) || !s.dated(n) {
			return fmt.Sprintf("links of key %x", key)
		}
		p, q := s.places.Ref(n), t.places.Ref(m)
		if s.keyOr(p.last) != t.keyOr(q.last) || s.keyOr(p.previous) != t.keyOr(q.previous) ||
			p.mentioned != q.mentioned || p.since != q.since || p.version != q.version || p.nth != q.nth {
			return fmt.Sprintf("places of key %x", key)
		}
	}
	for n := range t.places.Len() {
		if t.places.Ref(n).named {
			inIdentities--
		}
	}
	if inIdentities != 0 {
		return "keys"
	}
	if s.actions != t.actions || !sameSpans(&s.blocks, &t.blocks) {
		return "actions"
	}
	if s.versions.count != t.versions.count || !sameSpans(&s.versions.blocks, &t.versions.blocks) {
		return "versions of keys"
	}
	if !sameMap(&s.waiting.counts, &t.waiting.counts) {
		return "waiting actions"
	}
	if s.records != nil && t.records != nil && s.StateRoot() != t.StateRoot() {
		return fmt.Sprintf("records of the state root, %x against %x,", s.StateRoot(), t.StateRoot())
	}
	return ""
}

// dated reports whether the forest has it right since when a key is linked.
func (s *State) dated(n int32) bool {
	is := func(height uint32) bool { // that it is linked since a later one
		key, _, _ := s.forest.Newer(n, height, math.MaxInt)
		return key == n
	}
	since := uint32(0)
	if s.forest.Parent(n) != none {
		since = s.places.Ref(n).stands
	}
	return !is(since) && (since == 0 || is(since-1))
}

// keyOr returns the key with a number, a zero one if that is none.
func (s *State) keyOr(n int32) (key protocol.KeyHash) {
	if n == none {
		return key
	}
	return s.keys.Key(n)
}
