package protocol

import (
	"encoding/binary"
	"fmt"

	"github.com/gcash/bchd/txscript"
)

// nextPush splits the first push off script, which must not be empty. It takes
// every push opcode, minimal or not (protocol/SPEC.md §1): direct pushes,
// OP_PUSHDATA1/2/4, OP_0, OP_1NEGATE, OP_1 to OP_16. The item aliases script
// where the bytes stand in it; it is never nil.
func nextPush(script []byte) (item, rest []byte, err error) {
	op, rest := script[0], script[1:]
	sizeBytes, size := 0, uint64(0)
	switch {
	case op == txscript.OP_0:
		return []byte{}, rest, nil
	case op <= txscript.OP_DATA_75:
		size = uint64(op)
	case op == txscript.OP_PUSHDATA1:
		sizeBytes = 1
	case op == txscript.OP_PUSHDATA2:
		sizeBytes = 2
	case op == txscript.OP_PUSHDATA4:
		sizeBytes = 4
	case op == txscript.OP_1NEGATE:
		return []byte{0x81}, rest, nil
	case op >= txscript.OP_1 && op <= txscript.OP_16:
		return []byte{op - txscript.OP_1 + 1}, rest, nil
	default:
		return nil, nil, fmt.Errorf("expected a push, got opcode 0x%02x", op)
	}
	if sizeBytes > 0 {
		if len(rest) < sizeBytes {
			return nil, nil, fmt.Errorf("truncated push: opcode 0x%02x needs a length of %d bytes, %d left", op, sizeBytes, len(rest))
		}
		var length [8]byte
		copy(length[:], rest[:sizeBytes])
		size, rest = binary.LittleEndian.Uint64(length[:]), rest[sizeBytes:]
	}
	if size > uint64(len(rest)) {
		return nil, nil, fmt.Errorf("truncated push: expected %d bytes, %d left", size, len(rest))
	}
	return rest[:size:size], rest[size:], nil
}

// appendPush appends the shortest push of item, which holds at most 255 bytes.
// (txscript's builder is not used: it writes a single zero byte as OP_0, which
// reads as an empty item.)
func appendPush(script, item []byte) []byte {
	switch n := len(item); {
	case n == 0:
		return append(script, txscript.OP_0)
	case n == 1 && item[0] >= 1 && item[0] <= 16:
		return append(script, txscript.OP_1-1+item[0])
	case n == 1 && item[0] == 0x81:
		return append(script, txscript.OP_1NEGATE)
	case n <= txscript.OP_DATA_75:
		script = append(script, byte(n))
	default:
		script = append(script, txscript.OP_PUSHDATA1, byte(n))
	}
	return append(script, item...)
}

// p2pkhSize is the size of a P2PKH locking script in bytes.
const p2pkhSize = 25

// P2PKHScript returns the locking script of key, without token prefix.
func P2PKHScript(key KeyHash) []byte {
	script := make([]byte, 0, p2pkhSize)
	script = append(script, txscript.OP_DUP, txscript.OP_HASH160, byte(len(key)))
	script = append(script, key[:]...)
	return append(script, txscript.OP_EQUALVERIFY, txscript.OP_CHECKSIG)
}

// P2PKHKey returns the key that script, without token prefix, is exactly P2PKH
// of.
func P2PKHKey(script []byte) (key KeyHash, ok bool) {
	if len(script) != p2pkhSize || script[0] != txscript.OP_DUP || script[1] != txscript.OP_HASH160 ||
		script[2] != byte(len(key)) || script[23] != txscript.OP_EQUALVERIFY || script[24] != txscript.OP_CHECKSIG {
		return KeyHash{}, false
	}
	return KeyHash(script[3:23]), true
}
