package protocol

import "github.com/gcash/bchd/wire"

// maxTokenAmount is the highest token amount of CHIP-2022-02, 2^63-1.
const maxTokenAmount = wire.MAX_FT_AMOUNT

// StripTokenPrefix returns the locking script of an output whose serialized
// script field is given: what follows the CashTokens prefix (CHIP-2022-02) if
// there is a valid one, otherwise all of it. The result aliases script.
//
// A prefix that breaks a rule of the CHIP is no prefix, just as in bchd and
// BCHN: the output is one whose script begins with the undefined opcode 0xef,
// which nobody can ever spend. Blocks from before the CHIP's activation (May
// 2023) are read by the same rules, so that what a script means does not depend
// on its height. A commitment may hold up to 128 bytes, the limit since May
// 2026; consensus kept it at 40 before.
func StripTokenPrefix(script []byte) []byte {
	return script[tokenPrefixSize(script):]
}

// HasTokenPrefix reports whether script starts with a valid CashTokens prefix,
// in other words whether the output carries tokens.
func HasTokenPrefix(script []byte) bool {
	return tokenPrefixSize(script) > 0
}

// tokenPrefixSize returns the size of the token prefix in bytes, 0 if there is
// no valid one: 0xef, category (32), bitfield (1), then, where the bitfield says
// so, commitment length and commitment, and amount, both CompactSize.
func tokenPrefixSize(script []byte) int {
	if len(script) < wire.BASE_TOKEN_DATA_LENGTH || script[0] != wire.PREFIX_BYTE {
		return 0
	}
	bits := script[wire.BASE_TOKEN_DATA_LENGTH-1]
	if !validTokenBits(bits) {
		return 0
	}
	off := wire.BASE_TOKEN_DATA_LENGTH
	if bits&wire.HAS_COMMITMENT_LENGTH != 0 {
		size, next, f := compactSize(script, off)
		if f != wellFormed || size < 1 || size > wire.MAX_COMMITMENT_LENGTH || size > uint64(len(script)-next) {
			return 0
		}
		off = next + int(size)
	}
	if bits&wire.HAS_AMOUNT != 0 {
		amount, next, f := compactSize(script, off)
		if f != wellFormed || amount < 1 || amount > maxTokenAmount {
			return 0
		}
		off = next
	}
	return off
}

// validTokenBits checks the CHIP's rules for the bitfield: the reserved bit is
// clear, there is an NFT or an amount, only an NFT has a commitment or a
// capability, and the capability is none, mutable or minting.
func validTokenBits(bits byte) bool {
	capability := bits & 0x0f
	nft := bits&wire.HAS_NFT != 0
	switch {
	case bits&wire.RESERVED_BIT != 0, capability > wire.MINTING:
		return false
	case !nft:
		return bits == wire.HAS_AMOUNT
	}
	return true
}
