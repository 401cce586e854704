package statemap

import (
	"fmt"
	"sort"

	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/proof"
)

// Leaf is a record of the map, as far as it is held.
type Leaf struct {
	Ref  int32 // by which its owner finds it
	Hash [32]byte
}

// Find returns the leaf at which the search for a map key ends: that of its record; or if there is none, another, whose
// map key has the same bits as far as the nodes on the way ask. ok is false of a map without records. Errors are those of
// keyOf.
func (m *Map) Find(key protocol.MapKey, keyOf KeyByRef) (found Leaf, ok bool, err error) {
	n := m.root
	if n == nil {
		return found, false, nil
	}
	u := update{keyOf: keyOf}
	for depth := 0; !n.isPage(); depth++ {
		if side := n.sides[key.Bit(depth)]; side != nil {
			n = side
		} else { // the two are not told apart here
			n = n.sides[1-key.Bit(depth)]
		}
	}
	leaves := n.leaves
	for len(leaves) > 1 && u.err == nil {
		bit := u.differ(&leaves[0], &leaves[len(leaves)-1])
		right := u.firstWith(leaves, bit)
		if key.Bit(bit) == 0 {
			leaves = leaves[:right]
		} else {
			leaves = leaves[right:]
		}
	}
	if u.err != nil {
		return found, false, u.err
	}
	return Leaf{leaves[0].ref, leaves[0].hash}, true, nil
}

// Shown is a record of the map that a proof shows.
type Shown struct {
	Key    protocol.MapKey
	Record []byte
}

// Show adds to an empty tree what shows some records, which are sorted by their map keys and in the map. There is at least
// one, unless the map has none. Errors are those of keyOf.
func (m *Map) Show(t *proof.StateTree, records []Shown, keyOf KeyByRef) error {
	if m.root == nil {
		t.Empty()
		return nil
	}
	s := shower{update{keyOf: keyOf}, t}
	if err := s.node(m.root, 0, records); err != nil {
		return err
	}
	return s.err
}

// shower makes the tree of a proof.
type shower struct {
	update
	tree *proof.StateTree
}

// right returns the number of the first of sorted records whose map key has a bit set.
func right(records []Shown, bit int) int {
	return sort.Search(len(records), func(i int) bool { return records[i].Key.Bit(bit) == 1 })
}

// node adds a node that is at a depth, with the records below it.
func (s *shower) node(n *node, depth int, records []Shown) error {
	switch {
	case n.isPage():
		return s.leaves(n.leaves, records)
	case n.sides[0] == nil:
		return s.node(n.sides[1], depth+1, records)
	case n.sides[1] == nil:
		return s.node(n.sides[0], depth+1, records)
	}
	at := right(records, depth)
	return s.sides(depth, records, at, [2]func() [32]byte{n.sides[0].hashOf, n.sides[1].hashOf}, [2]func() error{
		func() error { return s.node(n.sides[0], depth+1, records[:at]) },
		func() error { return s.node(n.sides[1], depth+1, records[at:]) },
	})
}

// leaves adds what is made of some leaves of a page, with the records among them.
func (s *shower) leaves(leaves []leaf, records []Shown) error {
	last := len(leaves) - 1
	if last == 0 {
		if len(records) != 1 || protocol.MapLeafHash(records[0].Key, records[0].Record) != leaves[0].hash {
			return fmt.Errorf("expected the record of the leaf %x, got %d others", leaves[0].hash, len(records))
		}
		s.tree.Record(records[0].Record)
		return nil
	}
	bit := s.differ(&leaves[0], &leaves[last])
	first, at := s.firstWith(leaves, bit), right(records, bit)
	if s.err != nil || first == 0 || first > last {
		return s.err
	}
	return s.sides(bit, records, at, [2]func() [32]byte{
		func() [32]byte { return s.hash(leaves[:first]) },
		func() [32]byte { return s.hash(leaves[first:]) },
	}, [2]func() error{
		func() error { return s.leaves(leaves[:first], records[:at]) },
		func() error { return s.leaves(leaves[first:], records[at:]) },
	})
}

// sides adds a node whose sides differ in a bit, with the records below it, of which those from a number on are on the
// right.
func (s *shower) sides(bit int, records []Shown, at int, hash [2]func() [32]byte, add [2]func() error) error {
	switch at {
	case 0:
		s.tree.Right(bit, hash[0]())
		return add[1]()
	case len(records):
		return s.tree.Left(bit, hash[1](), add[0])
	}
	s.tree.Both(bit)
	if err := add[0](); err != nil {
		return err
	}
	return add[1]()
}
