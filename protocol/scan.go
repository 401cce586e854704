package protocol

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/gcash/bchd/txscript"
	"github.com/gcash/bchd/wire"
)

// ErrMalformed is wrapped by every error about bytes that are not a serialized
// block or transaction. Whoever sent them is broken or hostile: use nothing of
// them.
var ErrMalformed = errors.New("malformed serialization")

// fault says what is wrong with serialized bytes at some offset. It stands in
// for an error where making one would be too dear.
type fault uint8

const (
	wellFormed   fault = iota
	truncated          // the bytes end before what must follow, or what a count or length announces
	notCanonical       // a CompactSize that is longer than it needs to be
)

// at returns the fault, which lies at offset off, as an error about what, which
// is size bytes long.
func (f fault) at(off, size int, what string) error {
	if f == notCanonical {
		return fmt.Errorf("%w: %s: the CompactSize at byte %d is not the shortest encoding", ErrMalformed, what, off)
	}
	return fmt.Errorf("%w: %s: ends at byte %d, expected to go on at byte %d", ErrMalformed, what, size, off)
}

// wideSize is the first byte from which on a CompactSize takes more bytes than
// one.
const wideSize = 0xfd

// Sizes in bytes.
const (
	versionSize  = 4
	outPointSize = 36
	sequenceSize = 4
	valueSize    = 8
	lockTimeSize = 4
)

// compactSize reads the CompactSize at b[off:] and returns its value and the
// offset behind it. Only the shortest encoding of a value is well-formed.
func compactSize(b []byte, off int) (n uint64, next int, f fault) {
	if off >= len(b) {
		return 0, off, truncated
	}
	if b[off] < wideSize {
		return uint64(b[off]), off + 1, wellFormed
	}
	return wideCompactSize(b, off)
}

// wideLength reads a CompactSize whose first byte b[off] is wideSize or more,
// as the length of what follows it in b.
func wideLength(b []byte, off int) (size, next int, f fault) {
	n, next, f := wideCompactSize(b, off)
	if f == wellFormed && n > uint64(len(b)-next) {
		return 0, off, truncated
	}
	return int(n), next, f
}

// wideCompactSize reads a CompactSize whose first byte b[off] is wideSize or
// more.
func wideCompactSize(b []byte, off int) (n uint64, next int, f fault) {
	var size int
	var least uint64
	switch b[off] {
	case 0xfd:
		size, least = 2, 0xfd
	case 0xfe:
		size, least = 4, 0x10000
	default:
		size, least = 8, 0x100000000
	}
	digits := b[off+1:]
	if len(digits) < size {
		return 0, off, truncated
	}
	switch size {
	case 2:
		n = uint64(binary.LittleEndian.Uint16(digits))
	case 4:
		n = uint64(binary.LittleEndian.Uint32(digits))
	default:
		n = binary.LittleEndian.Uint64(digits)
	}
	if n < least {
		return 0, off, notCanonical
	}
	return n, off + 1 + size, wellFormed
}

// scanTx walks over the transaction that starts at b[off] and returns the
// offset behind it, and whether it is one that is looked for: an output is an
// action or an anchor, or, if keys is not nil, P2PKH of one of them; or P2PKH of one
// of payees; or an input spends one of batons. In case of a fault, end says where.
//
// This is the loop that an index of the whole chain spends its time in, so it
// touches only what it must: two counts, the length of each script, and the
// first byte of each output script. Whether a script fits into b is left to the
// next step, which checks its own offset before it looks. No count is trusted
// either: every input and output moves off onwards, so a transaction that
// announces more of them than can follow ends in truncated after as many as do.
func scanTx(b []byte, off int, keys *KeySet, batons *BatonSet, payees *KeyFilter) (end int, hit bool, f fault) {
	off += versionSize
	if uint(off) >= uint(len(b)) {
		return off, false, truncated
	}
	inputs := uint64(b[off])
	off++
	if inputs >= wideSize {
		if inputs, off, f = wideCompactSize(b, off-1); f != wellFormed {
			return off, false, f
		}
	}
	for ; inputs > 0; inputs-- {
		off += outPointSize
		if uint(off) >= uint(len(b)) {
			return off, false, truncated
		}
		if batons != nil && !hit {
			hit = batons.spentBy(b, off-outPointSize)
		}
		size := int(b[off])
		off++
		if size >= wideSize {
			if size, off, f = wideLength(b, off-1); f != wellFormed {
				return off, false, f
			}
		}
		off += size + sequenceSize
	}

	if uint(off) >= uint(len(b)) {
		return off, false, truncated
	}
	outputs := uint64(b[off])
	off++
	if outputs >= wideSize {
		if outputs, off, f = wideCompactSize(b, off-1); f != wellFormed {
			return off, false, f
		}
	}
	for ; outputs > 0; outputs-- {
		off += valueSize
		if uint(off) >= uint(len(b)) {
			return off, false, truncated
		}
		size := int(b[off])
		off++
		if size >= wideSize {
			if size, off, f = wideLength(b, off-1); f != wellFormed {
				return off, false, f
			}
		}
		if uint(off) >= uint(len(b)) {
			return off, false, truncated
		}
		// An empty script shows the byte behind it, which isRecord sorts out.
		if first := b[off]; first == txscript.OP_RETURN || first == wire.PREFIX_BYTE {
			hit = hit || isRecord(b, off, size, keys)
		}
		if size == p2pkhSize {
			if keys != nil && !hit {
				hit = keys.paid(b, off)
			}
			if payees != nil && !hit {
				hit = payees.paid(b, off)
			}
			// Most are of this size. As a branch, which the processor predicts,
			// the next offset need not wait for the size to arrive from memory.
			off += p2pkhSize
		} else {
			off += size
		}
	}

	off += lockTimeSize
	if off > len(b) {
		return off, false, truncated
	}
	return off, hit, wellFormed
}

// isRecord reports whether the walk has to stop at the output script, token
// prefix included, of size bytes at b[off:]; never if it does not fit there.
func isRecord(b []byte, off, size int, keys *KeySet) bool {
	if size > len(b)-off {
		return false
	}
	script := StripTokenPrefix(b[off : off+size])
	if keys != nil {
		key, ok := P2PKHKey(script)
		return ok && keys.Has(key)
	}
	if actionKind(script) != 0 {
		return true
	}
	if !isAnchor(script) {
		return false
	}
	_, ok := DecodeAnchor(script)
	return ok
}
