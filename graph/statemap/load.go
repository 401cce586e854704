package statemap

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"iter"
	"slices"
)

// LeafSize is how many bytes AppendLeaf appends.
const LeafSize = 8 + 4 + 32

// Leaves visits the leaves in order of map keys, encoded, LeafSize bytes each, which are good until the next one.
func (m *Map) Leaves() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		b := make([]byte, 0, LeafSize)
		m.root.each(func(l *leaf) bool {
			b = binary.BigEndian.AppendUint32(append(b[:0], l.head[:]...), uint32(l.ref))
			return yield(append(b, l.hash[:]...))
		})
	}
}

// each visits the leaves below a node, until visit returns false.
func (n *node) each(visit func(*leaf) bool) bool {
	if n == nil {
		return true
	}
	for i := range n.leaves {
		if !visit(&n.leaves[i]) {
			return false
		}
	}
	return n.sides[0].each(visit) && n.sides[1].each(visit)
}

// Builder makes a map of all its leaves.
type Builder struct{ leaves []leaf }

// NewBuilder returns a builder with room for so many leaves.
func NewBuilder(leaves int) *Builder { return &Builder{make([]leaf, 0, leaves)} }

// Add adds a leaf, in any order. No map key may come twice.
func (b *Builder) Add(c Change) { b.leaves = append(b.leaves, c.leaf()) }

// AddEncoded adds a leaf as Leaves encodes it.
func (b *Builder) AddEncoded(encoded []byte) {
	b.leaves = append(b.leaves, leaf{[8]byte(encoded), int32(binary.BigEndian.Uint32(encoded[8:])), [32]byte(encoded[12:])})
}

// Len returns how many leaves were added.
func (b *Builder) Len() int { return len(b.leaves) }

// Map returns the map. The builder has no leaves afterwards. Errors are those of keyOf.
func (b *Builder) Map(keyOf KeyByRef) (Map, error) {
	u := update{keyOf: keyOf}
	slices.SortFunc(b.leaves, func(x, y leaf) int {
		if order := cmp.Compare(x.number(), y.number()); order != 0 {
			return order
		}
		p, q := u.key(&x), u.key(&y)
		return bytes.Compare(p[:], q[:])
	})
	m := Map{root: u.build(b.leaves, 0), len: len(b.leaves)}
	b.leaves = nil
	return m, u.err
}
