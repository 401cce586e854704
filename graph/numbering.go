package graph

import (
	"hash/maphash"

	"github.com/keytree-bch/keytree/graph/forest"
)

// none stands for no key or no action, where a number is expected.
const none = forest.None

// numbering gives values numbers from 0 on, in the order in which they come, and
// finds the number of a value in O(1). It takes the value and 8 bytes or so.
//
// Its hash has a seed of its own, so whoever chooses the values cannot make them
// collide. Owned by Graph.mu.
type numbering[V comparable] struct {
	values []V
	// slots is a hash table, open addressed, of number+1; 0 is free. A value stands
	// behind all that had come before it, so the last one can be taken out.
	slots []uint32
	seed  maphash.Seed
}

func newNumbering[V comparable]() numbering[V] {
	return numbering[V]{slots: make([]uint32, 1<<8), seed: maphash.MakeSeed()}
}

func (n *numbering[V]) len() int32 { return int32(len(n.values)) }

// slot returns where v is, or where it would be put.
func (n *numbering[V]) slot(v V) int {
	mask := len(n.slots) - 1
	at := int(maphash.Comparable(n.seed, v)) & mask
	for n.slots[at] != 0 && n.values[n.slots[at]-1] != v {
		at = (at + 1) & mask
	}
	return at
}

// find returns the number of v, none if it has none.
func (n *numbering[V]) find(v V) int32 { return int32(n.slots[n.slot(v)]) - 1 }

// add returns the number of v, a new one if it had none.
func (n *numbering[V]) add(v V) int32 {
	at := n.slot(v)
	if n.slots[at] != 0 {
		return int32(n.slots[at]) - 1
	}
	n.values = append(n.values, v)
	n.slots[at] = uint32(len(n.values))
	if 3*len(n.values) > 2*len(n.slots) {
		n.slots = make([]uint32, 2*len(n.slots))
		for number, v := range n.values {
			n.slots[n.slot(v)] = uint32(number + 1)
		}
	}
	return n.len() - 1
}

// drop forgets the value with the highest number.
func (n *numbering[V]) drop() {
	last := n.len() - 1
	n.slots[n.slot(n.values[last])] = 0
	n.values = n.values[:last]
}
