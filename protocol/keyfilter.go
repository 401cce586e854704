package protocol

import (
	"encoding/binary"
	"sync/atomic"
)

// KeyFilter is a set of keys that may hold others as well: of 32 that are not in it,
// it takes at most about one for one that is. It has a fixed size, 256 kB, and room
// for 65,536 keys; the next one empties it first, so that it holds those that were
// added last. Unlike KeySet it can be added to while blocks are walked over. The
// zero value is empty.
type KeyFilter struct {
	bits [filterBitsPerKey * filterKeys / 64]atomic.Uint64
	left atomic.Int64 // keys that there is room for, less filterKeys
}

const filterKeys = 1 << 16

// Add adds a key. It may be called concurrently with everything.
func (f *KeyFilter) Add(key KeyHash) {
	word, bit := f.place(key[:])
	if word.Or(bit)&bit != 0 {
		return
	}
	if f.left.Add(-1) > -filterKeys {
		return
	}
	f.left.Store(0)
	for i := range f.bits {
		f.bits[i].Store(0)
	}
	word.Or(bit)
}

// MayHave reports whether the key is in the set, or is taken for one that is.
func (f *KeyFilter) MayHave(key KeyHash) bool {
	word, bit := f.place(key[:])
	return word.Load()&bit != 0
}

// place is the bit that a key selects. Key hashes are as good as random.
func (f *KeyFilter) place(key []byte) (word *atomic.Uint64, bit uint64) {
	n := binary.LittleEndian.Uint64(key)
	return &f.bits[n/64%uint64(len(f.bits))], 1 << (n % 64)
}

// paid reports whether b has at off, where an output script of that size is said to
// begin, P2PKH of a key that the set may have.
func (f *KeyFilter) paid(b []byte, off int) bool {
	const keyAt = 3 // in the script
	if off+p2pkhSize > len(b) {
		return false
	}
	word, bit := f.place(b[off+keyAt:])
	if word.Load()&bit == 0 {
		return false
	}
	_, ok := P2PKHKey(b[off : off+p2pkhSize])
	return ok
}
