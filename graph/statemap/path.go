package statemap

import (
	"slices"

	"github.com/keytree-bch/keytree/protocol"
)

// Path is the way from a leaf up to the root: what proves that the record is in the map, or,
// if the map key that was looked for is another's, that none is with that.
type Path struct {
	Found bool  // the leaf is that of the map key that was looked for
	Ref   int32 // by which the leaf's owner finds its record
	Leaf  [32]byte
	Steps []Step // from the leaf up
}

// Step is a node on the way up.
type Step struct {
	Bit     int      // in which the map keys on its two sides differ
	Sibling [32]byte // of the side that the leaf is not in
}

// Path returns the way to the leaf of a map key; or, if there is none, to that where the search for it ends,
// whose map key has the same bits as far as the nodes on the way ask. ok is false of a map without records. Errors
// are those of keyOf.
func (m *Map) Path(key protocol.MapKey, keyOf KeyByRef) (path Path, ok bool, err error) {
	n := m.root
	if n == nil {
		return path, false, nil
	}
	u := update{keyOf: keyOf}
	for depth := 0; !n.isPage(); depth++ {
		side := key.Bit(depth)
		other := n.sides[1-side]
		switch {
		case n.sides[side] == nil: // the two are not told apart here
			n = other
			continue
		case other != nil:
			path.Steps = append(path.Steps, Step{depth, other.hash})
		}
		n = n.sides[side]
	}
	leaves := n.leaves
	for len(leaves) > 1 && u.err == nil {
		bit := u.differ(&leaves[0], &leaves[len(leaves)-1])
		left, right := leaves[:u.firstWith(leaves, bit)], leaves[u.firstWith(leaves, bit):]
		if key.Bit(bit) == 1 {
			left, right = right, left
		}
		if u.err == nil {
			path.Steps, leaves = append(path.Steps, Step{bit, u.hash(right)}), left
		}
	}
	path.Found = u.compare(&leaves[0], &key) == 0
	path.Ref, path.Leaf = leaves[0].ref, leaves[0].hash
	slices.Reverse(path.Steps)
	return path, true, u.err
}

// Root returns the root that a path leads to from the leaf of a map key, whose hash is given.
func (p *Path) Root(key protocol.MapKey, leaf [32]byte) [32]byte {
	for _, s := range p.Steps {
		if key.Bit(s.Bit) == 0 {
			leaf = protocol.MapNodeHash(s.Bit, leaf, s.Sibling)
		} else {
			leaf = protocol.MapNodeHash(s.Bit, s.Sibling, leaf)
		}
	}
	return leaf
}
