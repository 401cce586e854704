package protocol

import (
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchutil"
	"github.com/gcash/bchutil/base58"
	"github.com/gcash/bchutil/bech32"
)

// Vectors of the CashAddr specification and of the CashTokens CHIP
// (test-vectors/cashaddr.json).
const (
	specHash   = "76a04053bda0a88bda5177b86a15c3b29f559873"
	specPlain  = "bitcoincash:qpm2qsznhks23z7629mms6s4cwef74vcwvy22gdx6a"
	specToken  = "bitcoincash:zpm2qsznhks23z7629mms6s4cwef74vcwvrqekrq9w"
	specLegacy = "1BpEi6DfDAUFd7GtittLSdBeYJvcoaVggu"

	chipHash  = "f5bf48b397dae70be82b3cca4793f8eb2b6cdac9"
	chipPlain = "bitcoincash:qr6m7j9njldwwzlg9v7v53unlr4jkmx6eylep8ekg2"
	chipToken = "bitcoincash:zr6m7j9njldwwzlg9v7v53unlr4jkmx6eycnjehshe"
)

func TestParseAddress(t *testing.T) {
	mainnet, testnet, regtest := &chaincfg.MainNetParams, &chaincfg.TestNet3Params, &chaincfg.RegressionNetParams
	testHash := KeyHash(unhex(t, chipHash))
	tests := []struct {
		name    string
		address string
		net     *chaincfg.Params
		want    string // the key, in hex
		says    string // or what the error contains
	}{
		{"plain", specPlain, mainnet, specHash, ""},
		{"without prefix", bare(specPlain), mainnet, specHash, ""},
		{"upper case", strings.ToUpper(specPlain), mainnet, specHash, ""},
		{"upper case without prefix", strings.ToUpper(bare(specPlain)), mainnet, specHash, ""},
		{"token-aware", specToken, mainnet, specHash, ""},
		{"token-aware without prefix", bare(specToken), mainnet, specHash, ""},
		{"token-aware upper case", strings.ToUpper(bare(specToken)), mainnet, specHash, ""},
		{"legacy", specLegacy, mainnet, specHash, ""},
		{"plain, of the CHIP", chipPlain, mainnet, chipHash, ""},
		{"token-aware, of the CHIP", chipToken, mainnet, chipHash, ""},
		{"spec, second", "bitcoincash:qr95sy3j9xwd2ap32xkykttr4cvcu7as4y0qverfuy", mainnet, "cb481232299cd5743151ac4b2d63ae198e7bb0a9", ""},
		{"spec, second, legacy", "1KXrWXciRDZUpQwQmuM1DbwsKDLYAYsVLR", mainnet, "cb481232299cd5743151ac4b2d63ae198e7bb0a9", ""},
		{"spec, third", "bitcoincash:qqq3728yw0y47sqn6l2na30mcw6zm78dzqre909m2r", mainnet, "011f28e473c95f4013d7d53ec5fbc3b42df8ed10", ""},
		{"spec, third, legacy", "16w1D5WRVKJuZUsSRzdLp9w3YGcgoxDXb", mainnet, "011f28e473c95f4013d7d53ec5fbc3b42df8ed10", ""},
		{"shortest legacy", "1111111111111111111114oLvT2", mainnet, strings.Repeat("00", 20), ""},
		{"testnet", FormatAddress(testHash, testnet), testnet, chipHash, ""},
		{"testnet3 on testnet4", FormatAddress(testHash, testnet), &chaincfg.TestNet4Params, chipHash, ""},
		{"testnet3 on chipnet", FormatAddress(testHash, testnet), &chaincfg.ChipNetParams, chipHash, ""},
		{"regtest", FormatAddress(testHash, regtest), regtest, chipHash, ""},
		{"testnet legacy on regtest", base58.CheckEncode(testHash[:], 0x6f), regtest, chipHash, ""},

		{"nothing", "", mainnet, "", "got nothing"},
		{"overlong", strings.Repeat("q", 101), mainnet, "", "at most 100 characters, got 101"},
		{"a megabyte", strings.Repeat("z", 1<<20), mainnet, "", "at most 100 characters"},
		{"one wrong character", specPlain[:53] + "q", mainnet, "", "checksum"},
		{"two swapped", "bitcoincash:qpm2qsznhks23z7629mms6s4cwef74vcwvy22gd6xa", mainnet, "", "checksum"},
		{"one too short", specPlain[:53], mainnet, "", "expected 42 characters after the prefix, got 41"},
		{"one too long", specPlain + "q", mainnet, "", "checksum"},
		{"prefix only", "bitcoincash:", mainnet, "", "expected 42 characters after the prefix, got 0"},
		{"colon only", ":", mainnet, "", `expected prefix "bitcoincash"`},
		{"no prefix before the colon", ":" + bare(specPlain), mainnet, "", `got ""`},
		{"prefix twice", "bitcoincash:" + specPlain, mainnet, "", "separator"},
		{"mixed case", "bitcoincash:Qpm2qsznhks23z7629mms6s4cwef74vcwvy22gdx6a", mainnet, "", "got both"},
		{"mixed case, prefix", "Bitcoincash:" + bare(specPlain), mainnet, "", "got both"},
		{"mixed case without prefix", "qpm2qsznhks23z7629mms6s4cwef74vcwvy22gdx6A", mainnet, "", "got both"},
		{"upper case prefix only", "BITCOINCASH:" + bare(specPlain), mainnet, "", "got both"},
		{"letter that is not in the alphabet", strings.Replace(specPlain, "qpm2", "qpb2", 1), mainnet, "", "invalid character"},
		{"Kelvin sign for k", strings.Replace(specPlain, "hks", "h\u212as", 1), mainnet, "", "expected letters, digits"},
		{"space before", " " + specPlain, mainnet, "", "expected letters, digits"},
		{"newline behind", specPlain + "\n", mainnet, "", "expected letters, digits"},
		{"query behind", specPlain + "?amount=1", mainnet, "", "expected letters, digits"},
		{"zero bytes", strings.Repeat("\x00", 42), mainnet, "", "expected letters, digits"},

		{"P2SH", "bitcoincash:ppm2qsznhks23z7629mms6s4cwef74vcwvn0h829pq", mainnet, "", "that of a script (P2SH, 20 bytes)"},
		{"P2SH token-aware", encodeCashAddr(t, "bitcoincash", 3<<3, unhex(t, specHash)), mainnet, "", "that of a script"},
		{"P2SH legacy", "3CWFddi6m4ndiGyKqzYvsFYagqDLPVMTzC", mainnet, "", "that of a script"},
		{"P2SH32", "bitcoincash:pvqqqqqqqqqqqqqqqqqqqqqqzg69v7ysqqqqqqqqqqqqqqqqqqqqqpkp7fqn0", mainnet, "", "that of a script (P2SH, 32 bytes)"},
		{"P2SH32 token-aware", "bitcoincash:rvqqqqqqqqqqqqqqqqqqqqqqzg69v7ysqqqqqqqqqqqqqqqqqqqqqn9alsp2y", mainnet, "", "that of a script (P2SH, 32 bytes)"},
		{"key hash of 32 bytes", encodeCashAddr(t, "bitcoincash", 0<<3|3, make([]byte, 32)), mainnet, "", "expected a hash of 20 bytes, got 32"},
		{"key hash of 24 bytes", "bitcoincash:q9adhakpwzztepkpwp5z0dq62m6u5v5xtyj7j3h2ws4mr9g0", mainnet, "", "expected a hash of 20 bytes, got 24"},
		{"reserved bit", encodeCashAddr(t, "bitcoincash", 0x80, unhex(t, specHash)), mainnet, "", "reserved bit"},
		{"type 4", encodeCashAddr(t, "bitcoincash", 4<<3, unhex(t, specHash)), mainnet, "", "unknown type 4"},
		{"type 15", encodeCashAddr(t, "bitcoincash", 15<<3, unhex(t, specHash)), mainnet, "", "unknown type 15"},
		{"size bits of 32 bytes", encodeCashAddr(t, "bitcoincash", 3, unhex(t, specHash)), mainnet, "", "announces a hash of 32 bytes, got 20"},
		{"size bits of 20 bytes before 32", encodeCashAddr(t, "bitcoincash", 0, make([]byte, 32)), mainnet, "", "announces a hash of 20 bytes, got 32"},
		{"padding not zero", encodeGroups(t, "bitcoincash", func() []byte {
			groups := append(make([]byte, 33), 1)
			return groups
		}()), mainnet, "", "padding"},

		{"testnet on mainnet", FormatAddress(testHash, testnet), mainnet, "", `got "bchtest" (testnet3, testnet4, chipnet)`},
		{"testnet on mainnet without prefix", bare(FormatAddress(testHash, testnet)), mainnet, "", `the checksum is that of prefix "bchtest"`},
		{"mainnet on regtest", specPlain, regtest, "", `expected prefix "bchreg" of regtest, got "bitcoincash" (mainnet)`},
		{"mainnet on regtest without prefix", bare(specPlain), regtest, "", `that of prefix "bitcoincash" (mainnet)`},
		{"regtest on testnet", FormatAddress(testHash, regtest), testnet, "", `got "bchreg" (regtest)`},
		{"mainnet legacy on testnet", specLegacy, testnet, "", "expected version byte 0x6f of testnet3, got 0x00"},
		{"testnet legacy on mainnet", base58.CheckEncode(testHash[:], 0x6f), mainnet, "", "expected version byte 0x00 of mainnet, got 0x6f"},
		{"testnet P2SH on regtest", base58.CheckEncode(testHash[:], 0xc4), regtest, "", "that of a script"},
		{"SLP", encodeCashAddr(t, "simpleledger", 0, unhex(t, specHash)), mainnet, "", `got "simpleledger" (SLP)`},
		{"SLP without prefix", bare(encodeCashAddr(t, "simpleledger", 0, unhex(t, specHash))), mainnet, "", `that of prefix "simpleledger" (SLP)`},
		{"ecash", encodeCashAddr(t, "ecash", 0, unhex(t, specHash)), mainnet, "", `got "ecash"`},

		{"legacy, wrong character", specLegacy[:33] + "v", mainnet, "", "checksum"},
		{"legacy, not base58", specLegacy[:33] + "0", mainnet, "", "neither a CashAddr nor a legacy address"},
		{"legacy of 19 bytes", base58.CheckEncode(make([]byte, 19), 0), mainnet, "", "expected a hash of 20 bytes, got 19"},
		{"bech32 of Bitcoin", "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4", mainnet, "", "invalid character"},
		{"public key", "02" + strings.Repeat("ab", 32), mainnet, "", "invalid character"},
		{"words", "alice", mainnet, "", "neither a CashAddr nor a legacy address"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			key, err := ParseAddress(tt.address, tt.net)
			if tt.says == "" {
				if err != nil {
					t.Fatal(err)
				}
				if got := hex.EncodeToString(key[:]); got != tt.want {
					t.Errorf("got %s, expected %s", got, tt.want)
				}
				return
			}
			if !errors.Is(err, ErrAddress) || key != (KeyHash{}) {
				t.Fatalf("taken for %x: %v", key, err)
			}
			if !strings.Contains(err.Error(), tt.says) || len(err.Error()) > 400 {
				t.Errorf("the error does not say %q: %v", tt.says, err)
			}
		})
	}
}

func TestFormatAddress(t *testing.T) {
	for hash, want := range map[string]string{specHash: specPlain, chipHash: chipPlain} {
		key := KeyHash(unhex(t, hash))
		if got := FormatAddress(key, &chaincfg.MainNetParams); got != want {
			t.Errorf("got %s, expected %s", got, want)
		}
	}
	for _, net := range networks() {
		key := KeyHash{}
		for i := range 256 {
			key[i%len(key)] += byte(i * 37)
			got := FormatAddress(key, net)
			if want := byLibrary(t, key, net); got != want {
				t.Errorf("%s: got %s, expected %s", net.Name, got, want)
			}
		}
	}
}

func byLibrary(t testing.TB, key KeyHash, net *chaincfg.Params) string {
	t.Helper()
	address, err := bchutil.NewAddressPubKeyHash(key[:], net)
	if err != nil {
		t.Fatal(err)
	}
	return net.CashAddressPrefix + ":" + address.EncodeAddress()
}

// BenchmarkFormatAddress stands beside the library's way to the same string.
func BenchmarkFormatAddress(b *testing.B) {
	key, net := KeyHash{1, 2, 3}, &chaincfg.MainNetParams
	b.Run("keytree", func(b *testing.B) {
		for b.Loop() {
			FormatAddress(key, net)
		}
	})
	b.Run("bchutil", func(b *testing.B) {
		for b.Loop() {
			byLibrary(b, key, net)
		}
	})
}

// TestShortPayload: bchutil.DecodeCashAddress cuts the checksum's 8 characters
// off without asking whether there are so many, and must not get fewer.
func TestShortPayload(t *testing.T) {
	for _, net := range networks() {
		for _, payload := range []string{"", "q", "qqqqqqq", "qqqqqqqq", "qqqqqqqqq"} {
			for _, prefix := range []string{net.CashAddressPrefix + ":", "p:", ""} {
				if _, err := ParseAddress(prefix+payload, net); !errors.Is(err, ErrAddress) {
					t.Errorf("%q: %v", prefix+payload, err)
				}
			}
		}
	}
}

func TestNetwork(t *testing.T) {
	for name, start := range map[string]uint32{"mainnet": 547_000, "testnet3": 0, "testnet4": 0, "chipnet": 0, "regtest": 0} {
		net, err := Network(name)
		if err != nil || net.Name != name {
			t.Errorf("%s: %v, %v", name, net, err)
			continue
		}
		if got := StartHeight(net); got != start {
			t.Errorf("%s starts at %d, expected %d", name, got, start)
		}
	}
	for _, name := range []string{"", "main", "Mainnet", "simnet", "testnet"} {
		if _, err := Network(name); err == nil || !strings.Contains(err.Error(), "mainnet, testnet3, testnet4, chipnet, regtest") {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{specPlain, specToken, specLegacy, chipToken, strings.ToUpper(bare(chipPlain)), "bitcoincash:", "bchtest:qqqqqqqqq", ":"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, net := range networks() {
			key, err := ParseAddress(s, net)
			if err != nil {
				if !errors.Is(err, ErrAddress) {
					t.Fatalf("the error wraps nothing: %v", err)
				}
				continue
			}
			again, err := ParseAddress(FormatAddress(key, net), net)
			if err != nil || again != key {
				t.Fatalf("%x became %x, %v", key, again, err)
			}
			// bchutil takes more, but what is taken here means the same there.
			address, err := bchutil.DecodeAddress(strings.ToLower(s), net)
			if len(s) <= maxLegacy {
				address, err = bchutil.DecodeAddress(s, net)
			}
			if err != nil || KeyHash(address.ScriptAddress()) != key {
				t.Fatalf("%q: bchutil says %v, %v", s, address, err)
			}
		}
	})
}

func bare(address string) string {
	_, payload, _ := strings.Cut(address, ":")
	return payload
}

// encodeCashAddr encodes any version byte and hash, valid or not, by the
// CashAddr specification, independently of bchutil.
func encodeCashAddr(t testing.TB, prefix string, version byte, hash []byte) string {
	t.Helper()
	groups, err := bech32.ConvertBits(append([]byte{version}, hash...), 8, 5, true)
	if err != nil {
		t.Fatal(err)
	}
	return encodeGroups(t, prefix, groups)
}

// encodeGroups encodes a payload given in groups of five bits.
func encodeGroups(t testing.TB, prefix string, groups []byte) string {
	t.Helper()
	values := make([]byte, 0, 128)
	for _, c := range []byte(prefix) {
		values = append(values, c&0x1f)
	}
	values = append(append(append(values, 0), groups...), 0, 0, 0, 0, 0, 0, 0, 0)
	sum := uint64(1)
	for _, v := range values {
		top := byte(sum >> 35)
		sum = sum&0x07ffffffff<<5 ^ uint64(v)
		for i, g := range []uint64{0x98f2bc8e61, 0x79b76d99e2, 0xf33e5fb3c4, 0xae2eabe2a8, 0x1e4f43e470} {
			if top>>i&1 == 1 {
				sum ^= g
			}
		}
	}
	sum ^= 1
	const alphabet = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
	address := []byte(prefix + ":")
	for _, g := range groups {
		address = append(address, alphabet[g])
	}
	for i := range 8 {
		address = append(address, alphabet[sum>>(5*(7-i))&0x1f])
	}
	return string(address)
}
