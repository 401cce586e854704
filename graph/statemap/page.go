package statemap

import (
	"math/bits"
	"slices"
	"sort"

	"github.com/keytree-bch/keytree/protocol"
)

// page returns the page of some leaves, which are sorted and of which it keeps a copy; nil for none.
func (u *update) page(leaves []leaf) *node {
	if len(leaves) == 0 {
		return nil
	}
	return &node{hash: u.hash(leaves), leaves: slices.Clone(leaves)}
}

// merge returns the leaves of a page after changes, which are sorted as they are; changed tells whether
// they are others. They are good until the next call.
func (u *update) merge(before []leaf, changes []Change) (leaves []leaf, changed bool) {
	leaves = u.merged[:0]
	for i := range changes {
		c := &changes[i]
		was := false
		for len(before) > 0 {
			order := u.order(&before[0], c)
			if was = order == 0; order >= 0 {
				break
			}
			leaves, before = append(leaves, before[0]), before[1:]
		}
		changed = changed || was != !c.Gone || was && before[0] != c.leaf()
		if was {
			before = before[1:]
		}
		if !c.Gone {
			leaves = append(leaves, c.leaf())
		}
	}
	u.merged = append(leaves, before...)
	return u.merged, changed
}

// hash returns the hash of one or more leaves, which are sorted. Only the lowest bit in which they differ
// counts, wherever they are.
func (u *update) hash(leaves []leaf) [32]byte {
	last := len(leaves) - 1
	if last == 0 || u.err != nil {
		return leaves[0].hash
	}
	bit := u.differ(&leaves[0], &leaves[last])
	right := u.firstWith(leaves, bit)
	if right == 0 || right > last { // of an error: what comes of it is dropped
		return leaves[0].hash
	}
	return protocol.MapNodeHash(bit, u.hash(leaves[:right]), u.hash(leaves[right:]))
}

// differ returns the lowest bit in which the map keys of two leaves differ.
func (u *update) differ(a, b *leaf) int {
	if in := a.number() ^ b.number(); in != 0 {
		return bits.LeadingZeros64(in)
	}
	x, y := u.key(a), u.key(b)
	for n := headBits; n < 8*len(x); n++ {
		if x.Bit(n) != y.Bit(n) {
			return n
		}
	}
	return 8*len(x) - 1 // of an error
}

// firstWith returns the number of the first of sorted leaves whose map key has a bit set; those before it have the
// bits before in common.
func (u *update) firstWith(leaves []leaf, bit int) int {
	return sort.Search(len(leaves), func(i int) bool {
		if bit < headBits {
			return leaves[i].number()>>(headBits-1-bit)&1 == 1
		}
		key := u.key(&leaves[i])
		return key.Bit(bit) == 1
	})
}
