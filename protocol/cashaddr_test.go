package protocol

import (
	"strings"
	"testing"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchutil"
	"github.com/gcash/bchutil/bech32"
	"pgregory.net/rapid"
)

// TestParseKeyAddress compares the fast way to read an address with the library's, on
// addresses of every type with some of their characters changed.
func TestParseKeyAddress(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		prefix := rapid.SampledFrom(networks()).Draw(t, "network").CashAddressPrefix
		key := KeyHash(rapid.SliceOfN(rapid.Byte(), len(KeyHash{}), len(KeyHash{})).Draw(t, "key"))
		valid := strings.TrimPrefix(FormatAddress(key, &chaincfg.Params{CashAddressPrefix: prefix}), prefix+":")
		if got, ok := parseKeyAddress(prefix, valid); !ok || got != key {
			t.Fatalf("%s is read as %x, %v", valid, got, ok)
		}
		payload := []byte(valid)
		for range rapid.IntRange(0, 4).Draw(t, "changes") {
			payload[rapid.IntRange(0, len(payload)-1).Draw(t, "at")] = rapid.SampledFrom([]byte(cashAddrAlphabet+"b1A:\x7f\xf1")).Draw(t, "to")
		}
		resum(payload, prefix, rapid.Bool().Draw(t, "checksum made right"))
		checkParsed(t, prefix, string(payload))
	})
}

// FuzzParseKeyAddress does the same with whatever the fuzzer finds.
func FuzzParseKeyAddress(f *testing.F) {
	for _, net := range networks() {
		f.Add(net.CashAddressPrefix, strings.TrimPrefix(FormatAddress(KeyHash{0xff, 19: 1}, net), net.CashAddressPrefix+":"))
	}
	f.Fuzz(func(t *testing.T, prefix, payload string) {
		if notLower := func(r rune) bool { return r < 'a' || r > 'z' }; prefix == "" || strings.ContainsFunc(prefix, notLower) || len(payload) != cashAddrKey {
			return // which parseCashAddr never asks for, or is refused by its length
		}
		sum := []byte(payload)
		resum(sum, prefix, true)
		checkParsed(t, prefix, payload)
		checkParsed(t, prefix, string(sum))
	})
}

// checkParsed compares the fast way to read one address with the library's.
func checkParsed(t rapid.TB, prefix, payload string) {
	t.Helper()
	got, ok := parseKeyAddress(prefix, payload)
	_, groups, err := bchutil.DecodeCashAddress(prefix + ":" + payload)
	var decoded []byte
	if err == nil {
		decoded, err = bech32.ConvertBits(groups, 5, 8, false)
	}
	if want := err == nil && decoded[0] == 0; ok != want || ok && got != KeyHash(decoded[1:]) {
		t.Fatalf("%s is read as %x, %v; the library has %x, %v", payload, got, ok, decoded, err)
	}
}

// resum makes the checksum of a payload right, if it is to be and can be.
func resum(payload []byte, prefix string, wanted bool) {
	if !wanted {
		return
	}
	sum := uint64(1)
	for i := range len(prefix) {
		sum = cashAddrStep(sum, prefix[i]&31)
	}
	sum = cashAddrStep(sum, 0)
	for _, c := range payload[:len(payload)-cashAddrSum] {
		group := strings.IndexByte(cashAddrAlphabet, c)
		if group < 0 {
			return
		}
		sum = cashAddrStep(sum, byte(group))
	}
	for range cashAddrSum {
		sum = cashAddrStep(sum, 0)
	}
	sum ^= 1
	for i := range cashAddrSum {
		payload[len(payload)-cashAddrSum+i] = cashAddrAlphabet[sum>>(5*(cashAddrSum-1-i))&31]
	}
}

func BenchmarkParseAddress(b *testing.B) {
	for b.Loop() {
		if _, err := ParseAddress(specPlain, &chaincfg.MainNetParams); err != nil {
			b.Fatal(err)
		}
	}
}
