package protocol

import (
	"bytes"
	"strings"
	"testing"

	"github.com/gcash/bchd/wire"
)

func TestStripTokenPrefix(t *testing.T) {
	category := hash32
	lock := "76a914" + key20 + "88ac"
	tests := []struct {
		name   string
		prefix string // hex, without 0xef and category
		valid  bool
	}{
		{"fungible, 1", "1001", true},
		{"fungible, 252", "10fc", true},
		{"fungible, 253", "10fdfd00", true},
		{"fungible, 65536", "10fe00000100", true},
		{"fungible, 2^63-1", "10ffffffffffffffff7f", true},
		{"NFT", "20", true},
		{"mutable NFT", "21", true},
		{"minting NFT", "22", true},
		{"NFT with commitment", "6001cc", true},
		{"NFT with commitment of 40", "6128" + strings.Repeat("cc", 40), true},
		{"NFT with commitment of 128, since May 2026", "6280" + strings.Repeat("cc", 128), true},
		{"NFT with commitment and amount", "7202cccc05", true},
		{"NFT and amount", "3005", true},

		{"no tokens", "00", false},
		{"only commitment length", "4001cc", false},
		{"reserved bit", "9001", false},
		{"capability 3", "23", false},
		{"fungible with capability", "1101", false},
		{"fungible with commitment", "5001cc01", false},
		{"amount 0", "1000", false},
		{"amount 2^63", "10ff0000000000000080", false},
		{"amount not minimal", "10fdfc00", false},
		{"empty commitment", "6000", false},
		{"commitment of 129", "6081" + strings.Repeat("cc", 129), false},
		{"commitment length not minimal", "60fd0100cc", false},
		{"commitment length huge", "60ffffffffffffffffff", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			script := unhex(t, "ef"+category+tt.prefix+lock)
			want := script
			if tt.valid {
				want = unhex(t, lock)
			}
			if got := StripTokenPrefix(script); !bytes.Equal(got, want) {
				t.Errorf("got %x, expected %x", got, want)
			}
			if got := HasTokenPrefix(script); got != tt.valid {
				t.Errorf("HasTokenPrefix %v", got)
			}
			if !panicsBchd(script) {
				if got := bchdScript(t, script); !bytes.Equal(got, want) {
					t.Errorf("bchd reads %x, expected %x", got, want)
				}
			}
			// No cut through the prefix is a prefix, nor does it panic.
			for n := range len(script) - len(want) {
				if tt.valid && HasTokenPrefix(script[:n]) {
					t.Errorf("the first %d bytes are taken for a prefix", n)
				}
			}
		})
	}
	// Without its amount a prefix swallows the first byte of the script.
	if got := StripTokenPrefix(unhex(t, "ef"+category+"10"+lock)); !bytes.Equal(got, unhex(t, lock[2:])) {
		t.Errorf("amount missing: got %x", got)
	}
	for _, script := range []string{"", "ef", "ef" + category, lock, "6a026d20"} {
		if HasTokenPrefix(unhex(t, script)) || len(StripTokenPrefix(unhex(t, script))) != len(script)/2 {
			t.Errorf("%q is taken for a prefix", script)
		}
	}
	if empty := unhex(t, "ef"+category+"20"); len(StripTokenPrefix(empty)) != 0 {
		t.Error("a prefix before an empty script is a prefix")
	}
}

// panicsBchd reports whether b may hold, anywhere, a token prefix that announces
// a commitment of 64 kB or more. bchd's decoder (v0.22.2) allocates as much as
// is announced, and panics if that is more than there can be.
func panicsBchd(b []byte) bool {
	for i, c := range b {
		if c == wire.PREFIX_BYTE && len(b) > i+wire.BASE_TOKEN_DATA_LENGTH &&
			b[i+wire.BASE_TOKEN_DATA_LENGTH-1]&wire.HAS_COMMITMENT_LENGTH != 0 && b[i+wire.BASE_TOKEN_DATA_LENGTH] >= 0xfe {
			return true
		}
	}
	return false
}

// bchdScript is the locking script that bchd reads out of an output's script
// field.
func bchdScript(t testing.TB, field []byte) []byte {
	t.Helper()
	raw := append(appendCompactSize(make([]byte, 8), len(field)), field...)
	var out wire.TxOut
	if _, err := wire.ReadTxOut(bytes.NewReader(raw), 0, 1, &out); err != nil {
		t.Fatal(err)
	}
	return out.PkScript
}
