package blockfile

import (
	"encoding/binary"
	"math/bits"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
)

// total is the work of a chain, as a number of 256 bits, lowest word first.
type total [4]uint64

// plus returns the total with the work of one more block, whose bits have been
// checked. It cannot overflow: no machine can do so much work.
func (t total) plus(compact uint32) (total, error) {
	header := protocol.Header{Bits: compact}
	work, err := header.Work()
	if err != nil {
		return total{}, err
	}
	var digits [32]byte
	work.FillBytes(digits[:])
	var carry uint64
	for i := range t {
		t[i], carry = bits.Add64(t[i], binary.BigEndian.Uint64(digits[24-8*i:]), carry)
	}
	return t, nil
}

func (t total) moreThan(u total) bool {
	for i := len(t) - 1; i >= 0; i-- {
		if t[i] != u[i] {
			return t[i] > u[i]
		}
	}
	return false
}

// Heights of blocks that have none.
const (
	unknown  = -1 // not looked at yet
	unlinked = -2 // an ancestor is missing
	foreign  = -3 // the block, or an ancestor, breaks a rule of the network
)

// linked is what became of the records of all files.
type linked struct {
	best     []int // the best chain: indices of records, from genesis on; empty without genesis
	unlinked int
	missing  chainhash.Hash // a parent of one of the unlinked
	foreign  int
	broken   error // by the first of the foreign
}

// linker links records whose hashes differ to chains of a network.
type linker struct {
	net     *chaincfg.Params
	now     time.Time
	records []record
	byHash  map[chainhash.Hash]int32 // of records

	parents []int32
	heights []int32
	totals  []total

	// The chain that was judged last, and the record that it ends with: the next one
	// mostly follows it.
	chain *protocol.HeaderChain
	last  int32
}

// link finds the best chain: of those that keep the network's rules and get to its
// highest pin, the one with the most work, of equal ones that whose last block
// comes first.
func (k *linker) link() (l linked, err error) {
	k.parents = make([]int32, len(k.records))
	k.heights = make([]int32, len(k.records))
	k.totals = make([]total, len(k.records))
	for i := range k.heights {
		k.heights[i] = unknown
	}
	tip := int32(-1)
	var path []int32 // from a block down to the first that has been looked at
	for i := range k.records {
		for at := int32(i); k.heights[at] == unknown; at = k.parents[at] {
			path = append(path, at)
			if k.records[at].hash == *k.net.GenesisHash {
				k.parents[at] = -1
				break
			}
			parent, ok := k.byHash[k.records[at].prev]
			if !ok {
				k.heights[at], l.missing = unlinked, k.records[at].prev
				break
			}
			k.parents[at] = parent
		}
		for ; len(path) > 0; path = path[:len(path)-1] {
			at := path[len(path)-1]
			if k.heights[at] == unknown {
				if broken := k.place(at); broken != nil && l.broken == nil {
					l.broken = broken
				}
			}
			switch k.heights[at] {
			case unlinked:
				l.unlinked++
				continue
			case foreign:
				l.foreign++
				continue
			}
			before := total{}
			if parent := k.parents[at]; parent >= 0 {
				before = k.totals[parent]
			}
			if k.totals[at], err = before.plus(k.records[at].bits); err != nil {
				return l, err
			}
		}
		if k.heights[i] >= 0 && (tip < 0 || k.better(int32(i), tip)) {
			tip = int32(i)
		}
	}
	if tip < 0 {
		return l, nil
	}
	l.best = make([]int, k.heights[tip]+1)
	for at := tip; at >= 0; at = k.parents[at] {
		l.best[k.heights[at]] = int(at)
	}
	return l, nil
}

// place gives a record its height, which is its parent's if this has none. The error
// says which rule the record breaks.
func (k *linker) place(at int32) (broken error) {
	parent := k.parents[at]
	switch {
	case parent < 0:
		k.heights[at] = 0
		return nil
	case k.heights[parent] < 0:
		k.heights[at] = k.heights[parent]
		return nil
	}
	if k.chain == nil || k.last != parent {
		k.chain, k.last = protocol.NewHeaderChain(k.net, uint32(k.heights[parent]), k.records[parent].header(), k.timesBefore(parent)), parent
	}
	if err := k.chain.AddWorked(k.records[at].header(), k.now); err != nil {
		k.heights[at] = foreign
		return err
	}
	k.heights[at], k.last = k.heights[parent]+1, at
	return nil
}

// timesBefore returns the times of the blocks before a record's, the oldest first.
func (k *linker) timesBefore(at int32) []uint32 {
	var times [protocol.TimesBefore]uint32
	first := len(times)
	for at = k.parents[at]; at >= 0 && first > 0; at = k.parents[at] {
		first--
		times[first] = k.records[at].time
	}
	return times[first:]
}

// better tells whether the chain to a is better than that to b. Work counts only
// among chains that get to the same pin: those that do not get to the highest are
// not the network's.
func (k *linker) better(a, b int32) bool {
	pinA, _ := protocol.PinBelow(k.net, uint32(k.heights[a]))
	pinB, _ := protocol.PinBelow(k.net, uint32(k.heights[b]))
	if pinA != pinB {
		return pinA > pinB
	}
	return k.totals[a].moreThan(k.totals[b])
}
