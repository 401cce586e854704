package statemap

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"
	"sort"

	"github.com/keytree-bch/keytree/protocol"
)

// Map is a version of the map. It never changes: any number of goroutines may read it. The zero Map has no
// records.
type Map struct {
	root *node
	len  int
	// replaced is the size of all nodes that Apply has replaced, in this version and those before it.
	replaced int64
}

// pageLeaves is how many leaves a page has at most. A change of one copies its page, and hashes what is in
// it: few are quick, many take less room beside the leaves.
const pageLeaves = 16

// node is what is below some bits of a map key: more leaves than a page has, by the next bit; or a
// page. nil has none.
type node struct {
	hash   [32]byte
	sides  [2]*node
	leaves []leaf // of a page, in order of map keys
}

// leaf is a record, as far as it is held.
type leaf struct {
	head [8]byte // of its map key
	ref  int32   // by which its owner finds it
	hash [32]byte
}

// Change is what becomes of a record: another leaf, or none.
type Change struct {
	Key  protocol.MapKey
	Ref  int32    // by which its owner finds the record, always the same; of one that is gone it means nothing
	Hash [32]byte // of the leaf
	Gone bool     // there is no record any more
}

// NewChange returns the change to a record, which its owner finds by a number.
func NewChange(key protocol.MapKey, ref int32, record []byte) Change {
	return Change{Key: key, Ref: ref, Hash: protocol.MapLeafHash(key, record)}
}

func (c *Change) leaf() leaf { return leaf{[8]byte(c.Key[:]), c.Ref, c.Hash} }

// KeyByRef returns the map key of a record that its owner finds by a number. It is asked only of records whose
// map keys begin with the same eight bytes.
type KeyByRef func(ref int32) (protocol.MapKey, error)

// Root returns the hash of the map: the state root.
func (m *Map) Root() [32]byte { return m.root.hashOf() }

// Len returns how many records there are.
func (m *Map) Len() int { return m.len }

// Apply returns the version in which some records, each listed once, are others. It sorts the list. Errors are
// those of keyOf.
func (m *Map) Apply(changes []Change, keyOf KeyByRef) (Map, error) {
	slices.SortFunc(changes, func(a, b Change) int { return bytes.Compare(a.Key[:], b.Key[:]) })
	u := update{keyOf: keyOf, len: m.len, replaced: m.replaced, merged: make([]leaf, 0, pageLeaves+1)}
	root := u.apply(m.root, 0, changes)
	return Map{root, u.len, u.replaced}, u.err
}

// Beside returns about how many bytes it takes to hold a version from which, step by step, Apply has made m, beside m: at
// most what the nodes take that they do not share.
func (m *Map) Beside(before *Map) int64 { return min(m.replaced-before.replaced, before.Bytes()) }

// Bytes returns about how many bytes the map takes.
func (m *Map) Bytes() int64 {
	const record = 60 // with its share of pages and nodes
	return record * int64(m.len)
}

// update makes a version of another.
type update struct {
	keyOf    KeyByRef
	len      int
	replaced int64  // Map.replaced
	merged   []leaf // space for merge
	err      error  // the first of keyOf; what follows it does not count
}

// apply returns what is below a node, or a place without one, after changes that are below it as well. depth is
// how many bits their map keys have in common with its place.
func (u *update) apply(n *node, depth int, changes []Change) *node {
	switch {
	case len(changes) == 0:
		return n
	case n == nil || n.isPage():
		var before []leaf
		if n != nil {
			before = n.leaves
		}
		leaves, changed := u.merge(before, changes)
		if !changed {
			return n
		}
		u.len += len(leaves) - len(before)
		u.replace(n)
		return u.build(leaves, depth)
	}
	right := sort.Search(len(changes), func(i int) bool { return changes[i].Key.Bit(depth) == 1 })
	sides := [2]*node{u.apply(n.sides[0], depth+1, changes[:right]), u.apply(n.sides[1], depth+1, changes[right:])}
	if sides == n.sides {
		return n
	}
	u.replace(n)
	joined := u.join(sides, depth)
	for i, side := range sides {
		if side != nil && side == n.sides[i] && joined != nil && joined.isPage() {
			u.replace(side) // its leaves are in one page with the others
		}
	}
	return joined
}

// replace counts a node that is replaced, nil for none, as the heap has it.
func (u *update) replace(n *node) {
	if n != nil {
		const itself, leaf = 80, 48 // unsafe.Sizeof, rounded up as the allocator does
		u.replaced += itself + leaf*int64(len(n.leaves))
	}
}

// join returns what has two sides, by the bit of a number: a page if they fit into one.
func (u *update) join(sides [2]*node, depth int) *node {
	if small, fits := pagesThatFit(sides); fits {
		return u.page(small)
	}
	n := &node{sides: sides}
	switch {
	case sides[0] == nil:
		n.hash = sides[1].hash
	case sides[1] == nil:
		n.hash = sides[0].hash
	default:
		n.hash = protocol.MapNodeHash(depth, sides[0].hash, sides[1].hash)
	}
	return n
}

// pagesThatFit returns the leaves of two sides, if they fit into one page.
func pagesThatFit(sides [2]*node) (leaves []leaf, fits bool) {
	count := 0
	for _, side := range sides {
		if side == nil {
			continue
		}
		if count += len(side.leaves); !side.isPage() || count > pageLeaves {
			return nil, false
		}
	}
	for _, side := range sides {
		if side != nil {
			leaves = append(leaves, side.leaves...)
		}
	}
	return leaves, true
}

// build returns what has some leaves, which are sorted and have so many bits in common. It keeps
// none of the list.
func (u *update) build(leaves []leaf, depth int) *node {
	if len(leaves) <= pageLeaves || u.err != nil {
		return u.page(leaves)
	}
	right := u.firstWith(leaves, depth)
	return u.join([2]*node{u.build(leaves[:right], depth+1), u.build(leaves[right:], depth+1)}, depth)
}

func (n *node) isPage() bool { return n.leaves != nil }

func (n *node) hashOf() [32]byte {
	if n == nil {
		return protocol.EmptyMapHash()
	}
	return n.hash
}

// headBits is how many bits of a map key are held.
const headBits = 64

// number returns the head as a number, in whose order map keys are.
func (l *leaf) number() uint64 { return binary.BigEndian.Uint64(l.head[:]) }

// order compares the map key of a leaf with that of a change. A record keeps its number: so what is changed
// is mostly found without a question to its owner, who may have to read.
func (u *update) order(l *leaf, c *Change) int {
	if l.ref == c.Ref && !c.Gone {
		return 0
	}
	return u.compare(l, &c.Key)
}

// compare compares the map key of a leaf with another.
func (u *update) compare(l *leaf, key *protocol.MapKey) int {
	if order := cmp.Compare(l.number(), binary.BigEndian.Uint64(key[:])); order != 0 {
		return order
	}
	own := u.key(l)
	return bytes.Compare(own[:], key[:])
}

// key returns the map key of a leaf.
func (u *update) key(l *leaf) (key protocol.MapKey) {
	if u.err == nil {
		key, u.err = u.keyOf(l.ref)
	}
	return key
}
