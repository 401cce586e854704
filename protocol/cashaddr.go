package protocol

import "github.com/gcash/bchd/chaincfg"

// cashAddrAlphabet has the 32 characters of a CashAddr, by the five bits that
// each stands for.
const cashAddrAlphabet = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"

// cashAddrGroups has, by character, the five bits that it stands for, 0xff for none:
// cashAddrAlphabet the other way round.
const cashAddrGroups = "" +
	"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff" +
	"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff" +
	"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff" +
	"\x0f\xff\x0a\x11\x15\x14\x1a\x1e\x07\x05\xff\xff\xff\xff\xff\xff" +
	"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff" +
	"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff" +
	"\xff\x1d\xff\x18\x0d\x19\x09\x08\x17\xff\x12\x16\x1f\x1b\x13\xff" +
	"\x01\x00\x03\x10\x0b\x1c\x0c\x0e\x06\x04\x02\xff\xff\xff\xff\xff"

// cashAddrSum is how many of a CashAddr's characters are its checksum.
const cashAddrSum = 8

// FormatAddress returns key as CashAddr of net, prefix included.
//
// An answer about thousands of keys consists of addresses, so this does not use
// bchutil, which takes some ten times as long (BenchmarkFormatAddress).
func FormatAddress(key KeyHash, net *chaincfg.Params) string {
	prefix := net.CashAddressPrefix
	address := make([]byte, 0, len(prefix)+1+cashAddrKey)
	address = append(append(address, prefix...), ':')

	// The checksum covers the low five bits of each character of the prefix, a
	// zero, the payload, and eight zeros in its own place.
	sum := uint64(1)
	for i := range len(prefix) {
		sum = cashAddrStep(sum, prefix[i]&31)
	}
	sum = cashAddrStep(sum, 0)

	emit := func(group byte) {
		sum = cashAddrStep(sum, group)
		address = append(address, cashAddrAlphabet[group])
	}
	// The payload is the version byte, 0 for P2PKH of 20 bytes, and the hash, in
	// groups of five bits, the last one filled up with zeros.
	bits, held := uint(0), 8
	for _, b := range key {
		bits, held = bits<<8|uint(b), held+8
		for ; held >= 5; held -= 5 {
			emit(byte(bits>>(held-5)) & 31)
		}
	}
	emit(byte(bits<<(5-held)) & 31)
	for range cashAddrSum {
		sum = cashAddrStep(sum, 0)
	}
	sum ^= 1
	for i := range cashAddrSum {
		address = append(address, cashAddrAlphabet[sum>>(5*(cashAddrSum-1-i))&31])
	}
	return string(address)
}

// cashAddrStep adds five bits to a CashAddr's checksum: the BCH code of the
// CashAddr specification.
func cashAddrStep(sum uint64, group byte) uint64 {
	top := sum >> 35
	sum = (sum&0x07ffffffff)<<5 ^ uint64(group)
	// The bits are as good as random: masks are faster than branches.
	sum ^= 0x98f2bc8e61 & -(top & 1)
	sum ^= 0x79b76d99e2 & -(top >> 1 & 1)
	sum ^= 0xf33e5fb3c4 & -(top >> 2 & 1)
	sum ^= 0xae2eabe2a8 & -(top >> 3 & 1)
	sum ^= 0x1e4f43e470 & -(top >> 4 & 1)
	return sum
}

// parseKeyAddress reads the commonest address fast: a CashAddr of a key, in lower case, whose
// checksum is right under the prefix. ok is false for any other, also for those that
// are addresses.
func parseKeyAddress(prefix, payload string) (key KeyHash, ok bool) {
	if len(payload) != cashAddrKey {
		return key, false
	}
	sum := uint64(1)
	for i := range len(prefix) {
		sum = cashAddrStep(sum, prefix[i]&31)
	}
	sum = cashAddrStep(sum, 0)
	// As FormatAddress writes it: a version byte of 0, the hash, and two bits of zeros,
	// before the checksum.
	bits, held, filled := uint(0), 0, -1
	for i := range len(payload) {
		group := byte(0xff)
		if c := payload[i]; int(c) < len(cashAddrGroups) {
			group = cashAddrGroups[c]
		}
		if group == 0xff {
			return key, false
		}
		sum = cashAddrStep(sum, group)
		if i >= cashAddrKey-cashAddrSum {
			continue
		}
		bits, held = bits<<5|uint(group), held+5
		if held < 8 {
			continue
		}
		held -= 8
		switch b := byte(bits >> held); {
		case filled >= 0:
			key[filled] = b
		case b != 0:
			return key, false
		}
		filled++
	}
	return key, sum == 1 && bits&(1<<held-1) == 0
}
