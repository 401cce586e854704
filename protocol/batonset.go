package protocol

import (
	"encoding/binary"
	"iter"
	"maps"
	"math/bits"
	"slices"

	"github.com/gcash/bchd/chaincfg/chainhash"
)

// BatonSet is a set of batons of anchor chains: the outputs 0 of transactions. Like
// KeySet it is made for asking about very many outputs of which few are in it. It
// never changes. A nil one is empty.
type BatonSet struct {
	// layers are the txids, each in one layer at least. A layer may be shared with
	// other sets, and is at least twice as large as the next, so that there are few.
	layers []map[chainhash.Hash]struct{}
	// filter has the bit set that the first bytes of each txid select.
	filter []uint64
	mask   uint64 // of the number of a bit
}

// minBatonBits is how many bits the filter has at least: few enough for the
// processor's first cache, and so many that a thousand batons cost nothing.
const minBatonBits = 1 << 16

// NewBatonSet returns the set of the outputs 0 of the given transactions. It holds
// some 60 bytes for each, and 8 kB.
func NewBatonSet(txids iter.Seq[chainhash.Hash]) *BatonSet {
	return (*BatonSet)(nil).With(txids)
}

// With returns the set that has the given ones as well. It is not made anew: adding
// n of them, in as many steps as one likes, moves each about log n times.
func (s *BatonSet) With(txids iter.Seq[chainhash.Hash]) *BatonSet {
	added := make(map[chainhash.Hash]struct{})
	for txid := range txids {
		added[txid] = struct{}{}
	}
	switch {
	case s == nil:
		s = new(BatonSet)
	case len(added) == 0:
		return s
	}
	larger := s.layers
	for n := len(larger); n > 0 && len(larger[n-1]) < 2*len(added); n = len(larger) {
		maps.Copy(added, larger[n-1])
		larger = larger[:n-1]
	}
	w := &BatonSet{layers: append(slices.Clip(larger), added)}
	count := 0
	for _, layer := range w.layers {
		count += len(layer)
	}
	size := uint64(1) << bits.Len(uint(max(minBatonBits, count*filterBitsPerKey)-1))
	w.mask = size - 1
	if w.mask == s.mask {
		w.filter = slices.Clone(s.filter)
		w.mark(added)
		return w
	}
	w.filter = make([]uint64, size/64)
	for _, layer := range w.layers {
		w.mark(layer)
	}
	return w
}

// mark sets the bits of txids in the filter.
func (s *BatonSet) mark(txids map[chainhash.Hash]struct{}) {
	for txid := range txids {
		bit := binary.LittleEndian.Uint64(txid[:]) & s.mask
		s.filter[bit/64] |= 1 << (bit % 64)
	}
}

// spentBy reports whether the input at b[off:], whose outpoint is in b, spends one
// of the batons.
func (s *BatonSet) spentBy(b []byte, off int) bool {
	bit := binary.LittleEndian.Uint64(b[off:]) & s.mask
	return s.filter[bit/64]>>(bit%64)&1 != 0 && s.has(b[off:off+outPointSize])
}

func (s *BatonSet) has(outPoint []byte) bool {
	if binary.LittleEndian.Uint32(outPoint[chainhash.HashSize:]) != 0 {
		return false
	}
	return s.hasTx(chainhash.Hash(outPoint[:chainhash.HashSize]))
}

func (s *BatonSet) hasTx(txid chainhash.Hash) bool {
	for _, layer := range s.layers {
		if _, ok := layer[txid]; ok {
			return true
		}
	}
	return false
}

// Has reports whether output 0 of a transaction is one of the batons.
func (s *BatonSet) Has(txid chainhash.Hash) bool { return s != nil && s.hasTx(txid) }

// Spent reports whether an input of the transaction spends one of the batons.
func (s *BatonSet) Spent(tx Tx) bool {
	if s == nil {
		return false
	}
	for _, spends := range tx.Inputs() {
		if spends.Index == 0 && s.hasTx(spends.Hash) {
			return true
		}
	}
	return false
}
