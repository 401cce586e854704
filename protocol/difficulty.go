package protocol

import (
	"fmt"
	"math/big"
	"time"

	"github.com/gcash/bchd/chaincfg"
)

const blockTime = 600 // seconds that ASERT aims at between blocks

// hasASERT tells whether the network's rule for difficulty is ASERT at a height.
// Those before it, until November 2020 on mainnet, are not known here.
func hasASERT(net *chaincfg.Params, height uint32) bool {
	return !net.NoDifficultyAdjustment && int64(height) > int64(net.AxionActivationHeight)
}

// checkDifficulty checks that a header, whose parent is the block at a height, has the
// target that the network asks for, where it is known what that is. The error wraps
// ErrWork.
func checkDifficulty(net *chaincfg.Params, height uint32, parent, h *Header) error {
	if !hasASERT(net, height+1) {
		return nil
	}
	want := ASERTBits(net, height, parent.Time)
	if late := int64(net.MinDiffReductionTime / time.Second); net.ReduceMinDifficulty && int64(h.Time) > int64(parent.Time)+late {
		want = net.PowLimitBits // test networks have easy blocks after a pause
	}
	if h.Bits != want {
		return fmt.Errorf("%w: block %v: its target is %08x, the difficulty rule asks for %08x", ErrWork, h.Hash, h.Bits, want)
	}
	return nil
}

// ASERTBits returns the target, in compact form, of the block behind the one at a
// height and time, in seconds since 1970, by aserti3-2d (Bitcoin Cash upgrade of
// 2020-11-15): the anchor block's, times 2 to the power of how late the chain is in
// half-lives, computed with 16 bits behind the point and a cubic for the fraction.
func ASERTBits(net *chaincfg.Params, height, parentTime uint32) uint32 {
	const radixBits = 16
	late := int64(parentTime) - net.AsertDifficultyAnchorParentTimestamp -
		blockTime*(int64(height)-int64(net.AsertDifficultyAnchorHeight)+1)
	exponent := late * (1 << radixBits) / net.AsertDifficultyHalflife // towards zero, as in C
	shifts := exponent >> radixBits
	fraction := uint64(exponent - shifts<<radixBits)
	factor := 1<<radixBits + (195766423245049*fraction+971821376*fraction*fraction+5127*fraction*fraction*fraction+1<<47)>>(3*radixBits)

	anchor := Header{Bits: net.AsertDifficultyAnchorBits}
	target, err := anchor.Target()
	if err != nil {
		panic(err) // the network's parameters
	}
	target.Mul(target, new(big.Int).SetUint64(factor))
	if shifts < 0 {
		target.Rsh(target, uint(-shifts))
	} else {
		target.Lsh(target, uint(min(shifts, 512)))
	}
	target.Rsh(target, radixBits)
	switch {
	case target.Sign() == 0:
		target.SetInt64(1)
	case target.Cmp(net.PowLimit) > 0:
		return net.PowLimitBits
	}
	return toBits(target)
}

// toBits is the compact form of a positive target (Header.Bits).
func toBits(target *big.Int) uint32 {
	size := uint(target.BitLen()+7) / 8
	var mantissa uint32
	if size <= 3 {
		mantissa = uint32(target.Uint64()) << (8 * (3 - size))
	} else {
		mantissa = uint32(new(big.Int).Rsh(target, 8*(size-3)).Uint64())
	}
	if mantissa&0x00800000 != 0 { // that bit is the sign
		mantissa >>= 8
		size++
	}
	return uint32(size)<<24 | mantissa
}
