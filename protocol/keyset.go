package protocol

import (
	"encoding/binary"
	"iter"
	"math/bits"
)

// KeySet is a set of keys, made for asking about very many keys of which few are
// in it. It never changes.
type KeySet struct {
	keys map[KeyHash]struct{}
	// filter has the bit set that each key in the set selects. Key hashes are as
	// good as random, so that their own bytes are the hash.
	filter []uint64
	mask   uint64 // of the number of a bit
}

// Bits of the filter: so many for each key that one question in 32 at most gets
// to the map, and no fewer than are free to look at, 4 kB.
const (
	filterBitsPerKey = 32
	minFilterBits    = 1 << 15
)

// NewKeySet returns the set of keys, which holds some 60 bytes for each.
func NewKeySet(keys iter.Seq[KeyHash]) *KeySet {
	s := &KeySet{keys: make(map[KeyHash]struct{})}
	for key := range keys {
		s.keys[key] = struct{}{}
	}
	size := uint64(1) << bits.Len(uint(max(minFilterBits, len(s.keys)*filterBitsPerKey)-1))
	s.filter, s.mask = make([]uint64, size/64), size-1
	for key := range s.keys {
		bit := binary.LittleEndian.Uint64(key[:]) & s.mask
		s.filter[bit/64] |= 1 << (bit % 64)
	}
	return s
}

// Len returns how many keys are in the set.
func (s *KeySet) Len() int { return len(s.keys) }

// Has reports whether key is in the set.
func (s *KeySet) Has(key KeyHash) bool {
	_, ok := s.keys[key]
	return ok
}

// paid reports whether b has at off, where an output script of that size is
// said to begin, P2PKH of a key in the set.
func (s *KeySet) paid(b []byte, off int) bool {
	const keyAt = 3 // in the script
	if off+p2pkhSize > len(b) {
		return false
	}
	bit := binary.LittleEndian.Uint64(b[off+keyAt:]) & s.mask
	if s.filter[bit/64]>>(bit%64)&1 == 0 {
		return false
	}
	key, ok := P2PKHKey(b[off : off+p2pkhSize])
	return ok && s.Has(key)
}

// Payments checks the form of a serialized block, like ReadBlock, whose error it
// returns, and iterates over the transactions with an output, token prefix
// stripped, that is P2PKH of a key in the set. They alias raw. No txid is
// computed, which costs ten times as much as this walk.
func (s *KeySet) Payments(raw []byte) (iter.Seq[Tx], error) {
	b, err := (&Walk{keys: s}).Read(raw)
	if err != nil {
		return nil, err
	}
	return func(yield func(Tx) bool) {
		for _, t := range b.found {
			if !yield(raw[t.start:t.end:t.end]) {
				return
			}
		}
	}, nil
}
