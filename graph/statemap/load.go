package statemap

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"io"
	"iter"
	"runtime"
	"slices"
	"sort"
	"sync"

	"github.com/keytree-bch/keytree/protocol"
)

// LeafSize is how many bytes a leaf has that is encoded: what is held of its map key, the number by which its owner
// finds the record, big-endian, and its hash.
const LeafSize = 8 + 4 + 32

// ErrLeaves says that leaves are not those of a map: they are not in order of their map keys, or one comes twice.
var ErrLeaves = errors.New("the leaves are not those of a map")

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

// Add adds a leaf, in any order.
func (b *Builder) Add(c Change) { b.leaves = append(b.leaves, c.leaf()) }

// Len returns how many leaves were added.
func (b *Builder) Len() int { return len(b.leaves) }

// Map returns the map, which it builds on all processors; it calls keyOf on one at a time. The builder has no leaves
// afterwards. Errors are those of keyOf; ErrLeaves if a map key comes twice.
func (b *Builder) Map(keyOf KeyByRef) (Map, error) {
	leaves := b.leaves
	b.leaves = nil
	return build(unsorted(leaves), len(leaves), partLeaves, keyOf)
}

// Read reads so many leaves as Leaves encodes them, one behind the other and in its order, and makes a map of them, as
// Builder.Map does. Few of them are held beside the map. ErrLeaves if they are not in that order.
func Read(from io.ReaderAt, leaves int, keyOf KeyByRef) (Map, error) {
	return build(encoded{from}, leaves, partLeaves, keyOf)
}

// leaves are those that a map is built of. Several goroutines may have ranges of them, each from one number up to
// before another, that do not overlap.
type leaves interface {
	// split returns the number that divides a range into those whose map keys have a bit clear, and those that have
	// it set. All have the bits before it in common; it is less than headBits.
	split(from, to, bit int) (int, error)
	// take returns a range in order of map keys, unless they are in none. It may put that into a space, and is good until
	// this is used again.
	take(from, to int, space *partSpace, u *update) ([]leaf, error)
}

// building is how a map is built.
type building struct {
	of     leaves
	most   int             // leaves that are built by one goroutine
	keyOf  KeyByRef        // is not called by two at once
	spaces chan *partSpace // one for each processor; who builds a part has one of them
}

// partLeaves is how many leaves are worth a goroutine.
const partLeaves = 8 << 10

// partSpace has room for the leaves of a part.
type partSpace struct {
	leaves  []leaf
	encoded []byte
}

func build(of leaves, count, most int, keyOf KeyByRef) (Map, error) {
	var asking sync.Mutex
	b := building{of: of, most: most, keyOf: func(ref int32) (protocol.MapKey, error) {
		asking.Lock()
		defer asking.Unlock()
		return keyOf(ref)
	}}
	b.spaces = make(chan *partSpace, runtime.GOMAXPROCS(0))
	for range cap(b.spaces) {
		b.spaces <- &partSpace{}
	}
	root, err := b.node(0, count, 0, 0)
	if err != nil {
		return Map{}, err
	}
	return Map{root: root, len: count}, nil
}

// node builds what a range of leaves makes below the first bits of a number, so many.
func (b *building) node(from, to int, bits uint64, depth int) (*node, error) {
	if to-from <= b.most || depth == headBits {
		return b.part(from, to, bits, depth)
	}
	right, err := b.of.split(from, to, depth)
	if err != nil {
		return nil, err
	}
	var sides [2]*node
	var failed [2]error
	var left sync.WaitGroup
	left.Go(func() { sides[0], failed[0] = b.node(from, right, bits, depth+1) })
	sides[1], failed[1] = b.node(right, to, bits|1<<(headBits-1-depth), depth+1)
	left.Wait()
	if err := cmp.Or(failed[0], failed[1]); err != nil {
		return nil, err
	}
	u := update{keyOf: b.keyOf}
	n := u.join(sides, depth)
	return n, u.err
}

// part is node for few leaves.
func (b *building) part(from, to int, bits uint64, depth int) (*node, error) {
	space := <-b.spaces
	defer func() { b.spaces <- space }()
	u := update{keyOf: b.keyOf}
	leaves, err := b.of.take(from, to, space, &u)
	if err != nil {
		return nil, err
	}
	for i := range leaves {
		if (leaves[i].number()^bits)>>(headBits-depth) != 0 || i > 0 && u.inOrder(&leaves[i-1], &leaves[i]) >= 0 {
			return nil, cmp.Or(u.err, ErrLeaves)
		}
	}
	n := u.build(leaves, depth)
	return n, u.err
}

// inOrder compares the map keys of two leaves.
func (u *update) inOrder(a, b *leaf) int {
	if order := cmp.Compare(a.number(), b.number()); order != 0 {
		return order
	}
	p, q := u.key(a), u.key(b)
	return bytes.Compare(p[:], q[:])
}

// unsorted are leaves in any order.
type unsorted []leaf

func (all unsorted) split(from, to, bit int) (int, error) {
	for {
		for from < to && !all[from].has(bit) {
			from++
		}
		for from < to && all[to-1].has(bit) {
			to--
		}
		if from == to {
			return from, nil
		}
		all[from], all[to-1] = all[to-1], all[from]
	}
}

func (all unsorted) take(from, to int, _ *partSpace, u *update) ([]leaf, error) {
	slices.SortFunc(all[from:to], func(x, y leaf) int { return u.inOrder(&x, &y) })
	return all[from:to], nil
}

// has tells whether a bit of the head is set.
func (l *leaf) has(bit int) bool { return l.number()>>(headBits-1-bit)&1 == 1 }

// encoded are leaves in order, as Leaves encodes them.
type encoded struct{ io.ReaderAt }

func (r encoded) split(from, to, bit int) (int, error) {
	var l leaf
	var err error
	right := sort.Search(to-from, func(i int) bool {
		if err == nil {
			err = r.read(l.head[:], from+i)
		}
		return l.has(bit)
	})
	return from + right, err
}

// read reads what begins with a leaf.
func (r encoded) read(b []byte, leaf int) error {
	n, err := r.ReadAt(b, int64(leaf)*LeafSize)
	if n == len(b) {
		return nil
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func (r encoded) take(from, to int, space *partSpace, _ *update) ([]leaf, error) {
	count := to - from
	space.leaves = slices.Grow(space.leaves[:0], count)
	space.encoded = slices.Grow(space.encoded[:0], count*LeafSize)[:count*LeafSize]
	if err := r.read(space.encoded, from); err != nil {
		return nil, err
	}
	for b := range slices.Chunk(space.encoded, LeafSize) {
		space.leaves = append(space.leaves, leaf{[8]byte(b), int32(binary.BigEndian.Uint32(b[8:])), [32]byte(b[12:])})
	}
	return space.leaves, nil
}
