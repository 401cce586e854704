package blockfile

import (
	"encoding/binary"
	"math/bits"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
)

// total is the work of a chain, as a number of 256 bits, lowest word first.
type total [4]uint64

// plus returns the total with the work of one more block, whose bits have been
// checked. That it does not overflow is a matter of physics.
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
	foreign  = -3 // the block, or an ancestor, contradicts a checkpoint
)

// linked is what became of the records of all files.
type linked struct {
	best     []int // the best chain: indices of records, from genesis on; empty without genesis
	unlinked int
	missing  chainhash.Hash // a parent of one of the unlinked
	foreign  int
}

// link finds the best chain of net among records whose hashes differ: the one
// with the most work, of equal ones that whose last block comes first.
func link(records []record, byHash map[chainhash.Hash]int32, net *chaincfg.Params) (l linked, err error) {
	checkpoints := make(map[int32]chainhash.Hash)
	for _, c := range net.Checkpoints {
		checkpoints[c.Height] = *c.Hash
	}
	parents := make([]int32, len(records))
	heights := make([]int32, len(records))
	totals := make([]total, len(records))
	for i := range heights {
		heights[i] = unknown
	}
	last := int32(-1)
	var path []int32 // from a block down to the first that has been looked at
	for i := range records {
		for at := int32(i); heights[at] == unknown; at = parents[at] {
			path = append(path, at)
			if records[at].hash == *net.GenesisHash {
				parents[at] = -1
				break
			}
			parent, ok := byHash[records[at].prev]
			if !ok {
				heights[at], l.missing = unlinked, records[at].prev
				break
			}
			parents[at] = parent
		}
		for ; len(path) > 0; path = path[:len(path)-1] {
			at := path[len(path)-1]
			before := total{}
			if parent := parents[at]; heights[at] == unknown {
				heights[at] = 0
				if parent >= 0 {
					before, heights[at] = totals[parent], heights[parent]+1
					if heights[parent] < 0 {
						heights[at] = heights[parent]
					}
				}
			}
			if want, ok := checkpoints[heights[at]]; ok && want != records[at].hash {
				heights[at] = foreign
			}
			switch heights[at] {
			case unlinked:
				l.unlinked++
				continue
			case foreign:
				l.foreign++
				continue
			}
			if totals[at], err = before.plus(records[at].bits); err != nil {
				return l, err
			}
		}
		if heights[i] >= 0 && (last < 0 || totals[i].moreThan(totals[last])) {
			last = int32(i)
		}
	}
	if last < 0 {
		return l, nil
	}
	l.best = make([]int, heights[last]+1)
	for at := last; at >= 0; at = parents[at] {
		l.best[heights[at]] = int(at)
	}
	return l, nil
}
