package protocol

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"

	"github.com/gcash/bchd/chaincfg/chainhash"
)

// HeaderSize is the size of a block header in bytes.
const HeaderSize = 80

// ErrWork says that a header does not carry the work that it must: its target is
// none or easier than the network allows, or its hash misses the target. Whoever
// made it did not do the work: use nothing of the block.
var ErrWork = errors.New("proof of work does not hold")

// Header is a block header, as it was read.
type Header struct {
	Hash       chainhash.Hash // of the 80 bytes: the block's name
	Version    int32
	PrevBlock  chainhash.Hash
	MerkleRoot chainhash.Hash
	Time       uint32 // seconds since 1970, as the miner says
	Bits       uint32 // the target, in compact form
	Nonce      uint32
}

// ParseHeader reads the header at the start of raw, the serialization of a block
// or of a header alone. The error, which wraps ErrMalformed, says that raw is
// shorter than HeaderSize; any 80 bytes have the form of a header. See CheckWork.
func ParseHeader(raw []byte) (Header, error) {
	if len(raw) < HeaderSize {
		return Header{}, truncated.at(0, len(raw), "block header")
	}
	return Header{
		Hash:       chainhash.DoubleHashH(raw[:HeaderSize]),
		Version:    int32(binary.LittleEndian.Uint32(raw)),
		PrevBlock:  chainhash.Hash(raw[4:36]),
		MerkleRoot: chainhash.Hash(raw[36:68]),
		Time:       binary.LittleEndian.Uint32(raw[68:]),
		Bits:       binary.LittleEndian.Uint32(raw[72:]),
		Nonce:      binary.LittleEndian.Uint32(raw[76:]),
	}, nil
}

// The compact form of a target is a floating-point number to base 256: an
// exponent of 8 bits, a sign, and a mantissa of 23 bits.
const (
	compactSign     = 0x00800000
	compactMantissa = 0x007fffff
	compactDigits   = 3 // of the mantissa, to base 256
)

// Target returns the number that the block's hash may not exceed. The error,
// which wraps ErrWork, says that Bits is none: negative, zero, or more than 256
// bits.
func (h *Header) Target() (*big.Int, error) {
	exponent := uint(h.Bits >> 24)
	target := big.NewInt(int64(h.Bits & compactMantissa))
	if exponent > compactDigits {
		target.Lsh(target, 8*(exponent-compactDigits))
	} else {
		target.Rsh(target, 8*(compactDigits-exponent))
	}
	switch {
	case target.Sign() == 0:
		return nil, fmt.Errorf("%w: block %v: its target, bits %08x, is zero", ErrWork, h.Hash, h.Bits)
	case h.Bits&compactSign != 0:
		return nil, fmt.Errorf("%w: block %v: its target, bits %08x, is negative", ErrWork, h.Hash, h.Bits)
	case target.BitLen() > 256:
		return nil, fmt.Errorf("%w: block %v: its target, bits %08x, has %d bits, expected at most 256", ErrWork, h.Hash, h.Bits, target.BitLen())
	}
	return target, nil
}

// CheckWork checks that the header carries the work that it claims: that its
// hash is at most its target, and this at most limit, the network's easiest
// (chaincfg.Params.PowLimit), without which a claim is worth nothing. The error
// wraps ErrWork. Whether the target is the one that the network asked for at
// this height cannot be seen from one header.
func (h *Header) CheckWork(limit *big.Int) error {
	target, err := h.Target()
	if err != nil {
		return err
	}
	if target.Cmp(limit) > 0 {
		return fmt.Errorf("%w: block %v: its target, bits %08x, is easier than the network allows", ErrWork, h.Hash, h.Bits)
	}
	reversed := reversed(h.Hash)
	if new(big.Int).SetBytes(reversed[:]).Cmp(target) > 0 {
		return fmt.Errorf("%w: block %v: the hash is above the target, bits %08x", ErrWork, h.Hash, h.Bits)
	}
	return nil
}

// Work returns how many hashes it takes on average to find one that is at most
// the target: 2^256 / (target+1). A chain's work is the sum over its blocks, and
// the best chain has the most. The error is Target's.
func (h *Header) Work() (*big.Int, error) {
	target, err := h.Target()
	if err != nil {
		return nil, err
	}
	all := new(big.Int).Lsh(big.NewInt(1), 256)
	return all.Div(all, target.Add(target, big.NewInt(1))), nil
}
