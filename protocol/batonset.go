package protocol

import (
	"encoding/binary"
	"iter"
	"math/bits"

	"github.com/gcash/bchd/chaincfg/chainhash"
)

// BatonSet is a set of batons of anchor chains: the outputs 0 of transactions. Like
// KeySet it is made for asking about very many outputs of which few are in it. It
// never changes. A nil one is empty.
type BatonSet struct {
	txids map[chainhash.Hash]struct{}
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
	s := &BatonSet{txids: make(map[chainhash.Hash]struct{})}
	for txid := range txids {
		s.txids[txid] = struct{}{}
	}
	size := uint64(1) << bits.Len(uint(max(minBatonBits, len(s.txids)*filterBitsPerKey)-1))
	s.filter, s.mask = make([]uint64, size/64), size-1
	for txid := range s.txids {
		bit := binary.LittleEndian.Uint64(txid[:]) & s.mask
		s.filter[bit/64] |= 1 << (bit % 64)
	}
	return s
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
	_, ok := s.txids[chainhash.Hash(outPoint[:chainhash.HashSize])]
	return ok
}

// Spent reports whether an input of the transaction spends one of the batons.
func (s *BatonSet) Spent(tx Tx) bool {
	if s == nil {
		return false
	}
	for _, spends := range tx.Inputs() {
		if _, ok := s.txids[spends.Hash]; ok && spends.Index == 0 {
			return true
		}
	}
	return false
}
