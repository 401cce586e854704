package protocol

import (
	"encoding/binary"

	"github.com/gcash/bchd/chaincfg"
)

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

// cashAddrWord is how many characters of a CashAddr are read and written at once, and
// their bits: as many as its checksum has.
const (
	cashAddrWord     = cashAddrSum
	cashAddrWordBits = 5 * cashAddrWord
)

// FormatAddress returns key as CashAddr of net, prefix included.
func FormatAddress(key KeyHash, net *chaincfg.Params) string {
	return string(AppendAddress(make([]byte, 0, maxAddress), key, net))
}

// AppendAddress appends what FormatAddress returns.
//
// An answer about thousands of keys consists of addresses, so this does not use
// bchutil, which takes some twenty times as long (BenchmarkFormatAddress).
func AppendAddress(b []byte, key KeyHash, net *chaincfg.Params) []byte {
	prefix := net.CashAddressPrefix
	b = append(append(b, prefix...), ':')
	sum := cashAddrPrefixSum(prefix)

	// The payload is the version byte, 0 for P2PKH of 20 bytes, and the hash, in
	// groups of five bits, the last one filled up with zeros: two groups, which have two
	// bits of the hash, and four words.
	sum = cashAddrStep(cashAddrStep(sum, 0), key[0]>>6)
	b = append(b, cashAddrAlphabet[0], cashAddrAlphabet[key[0]>>6])
	var bytes [len(key) + 8]byte // those behind the hash are zeros
	copy(bytes[:], key[:])
	for i := 0; i < len(key); i += cashAddrWordBits / 8 {
		word := binary.BigEndian.Uint64(bytes[i:]) << 2 >> (64 - cashAddrWordBits)
		sum = cashAddrStepWord(sum, word)
		b = appendCashAddrWord(b, word)
	}
	return appendCashAddrWord(b, cashAddrStepWord(sum, 1))
}

func appendCashAddrWord(b []byte, word uint64) []byte {
	return append(b,
		cashAddrAlphabet[word>>35&31], cashAddrAlphabet[word>>30&31], cashAddrAlphabet[word>>25&31], cashAddrAlphabet[word>>20&31],
		cashAddrAlphabet[word>>15&31], cashAddrAlphabet[word>>10&31], cashAddrAlphabet[word>>5&31], cashAddrAlphabet[word&31])
}

// cashAddrPrefixSum returns a CashAddr's checksum up to its payload: of the low five bits of
// each character of the prefix, and a zero.
func cashAddrPrefixSum(prefix string) uint64 {
	sum := uint64(1)
	for ; len(prefix) >= cashAddrWord; prefix = prefix[cashAddrWord:] {
		word := uint64(0)
		for i := range cashAddrWord {
			word = word<<5 | uint64(prefix[i]&31)
		}
		sum = cashAddrStepWord(sum, word)
	}
	for i := range len(prefix) {
		sum = cashAddrStep(sum, prefix[i]&31)
	}
	return cashAddrStep(sum, 0)
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

// cashAddrStepWord is cashAddrStep of the groups of a word, the highest first. The code is linear:
// what becomes of the groups of a checksum, one by one, adds up, and the word has just
// taken their places.
func cashAddrStepWord(sum, word uint64) uint64 {
	for i := range cashAddrWord {
		word ^= cashAddrAhead[i][sum>>(5*i)&31]
	}
	return word
}

// cashAddrAhead has, by its place, counted from the lowest, and its value, what becomes of a
// group of a checksum after a word of zeros.
var cashAddrAhead = func() (ahead [cashAddrWord][32]uint64) {
	for i := range ahead {
		for group := range ahead[i] {
			sum := uint64(group) << (5 * i)
			for range cashAddrWord {
				sum = cashAddrStep(sum, 0)
			}
			ahead[i][group] = sum
		}
	}
	return ahead
}()

// parseKeyAddress reads the commonest address fast: a CashAddr of a key, in lower case, whose
// checksum is right under the prefix. ok is false for any other, also for those that
// are addresses.
func parseKeyAddress(prefix, payload string) (key KeyHash, ok bool) {
	if len(payload) != cashAddrKey {
		return key, false
	}
	// As AppendAddress writes it: two groups, of which all but two bits are zeros, four
	// words, of which the last two bits are, and the checksum.
	first, second, words := payload[0], payload[1], payload[2:]
	if first != cashAddrAlphabet[0] || second >= 0x80 || cashAddrGroups[second] > 3 {
		return key, false
	}
	bits := uint64(cashAddrGroups[second])
	sum := cashAddrStep(cashAddrStep(cashAddrPrefixSum(prefix), 0), byte(bits))
	for i := 0; i < len(key); i += cashAddrWordBits / 8 {
		word, ok := parseCashAddrWord(words[:cashAddrWord])
		if !ok {
			return key, false
		}
		sum = cashAddrStepWord(sum, word)
		bits, words = bits<<cashAddrWordBits|word, words[cashAddrWord:]
		whole := bits >> 2
		key[i] = byte(whole >> 32)
		binary.BigEndian.PutUint32(key[i+1:], uint32(whole))
		bits &= 3
	}
	last, ok := parseCashAddrWord(words)
	return key, ok && bits == 0 && cashAddrStepWord(sum, last) == 1
}

// parseCashAddrWord returns the bits of a word. ok is false if it has another character than a
// CashAddr.
func parseCashAddrWord(s string) (word uint64, ok bool) {
	var other byte // its highest bit is set by a character that stands for none, or is not ASCII
	for i := range cashAddrWord {
		c := s[i]
		group := cashAddrGroups[c&0x7f]
		other |= c | group
		word = word<<5 | uint64(group&31)
	}
	return word, other < 0x80
}
