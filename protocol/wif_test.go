package protocol

import (
	"bytes"
	"strings"
	"testing"

	"github.com/gcash/bchd/bchec"
	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchutil"
)

// TestParseWIF reads keys of both kinds, and says of others what is wrong without
// repeating them.
func TestParseWIF(t *testing.T) {
	regtest := &chaincfg.RegressionNetParams
	key, _ := bchec.PrivKeyFromBytes(bchec.S256(), bytes.Repeat([]byte{7}, 32))
	format := func(net *chaincfg.Params, compressed bool) string {
		t.Helper()
		wif, err := bchutil.NewWIF(key, net, compressed)
		if err != nil {
			t.Fatal(err)
		}
		return wif.String()
	}
	for compressed, public := range map[bool][]byte{true: key.PubKey().SerializeCompressed(), false: key.PubKey().SerializeUncompressed()} {
		got, err := ParseWIF(format(regtest, compressed), regtest)
		if err != nil || got.Key != KeyHash(bchutil.Hash160(public)) || got.Uncompressed == compressed || !bytes.Equal(got.Private.Serialize(), key.Serialize()) {
			t.Errorf("compressed %v: got the key %x, uncompressed %v (%v)", compressed, got.Key, got.Uncompressed, err)
		}
	}
	good := format(regtest, true)
	typo := good[:51] + map[bool]string{true: "3", false: "4"}[good[51] != '3']
	for name, test := range map[string]struct{ text, want string }{
		"nothing":         {"", "got nothing"},
		"a typo":          {typo, "checksum does not match"},
		"cut":             {good[:40], "expected a WIF"},
		"another network": {format(&chaincfg.MainNetParams, true), "expected a WIF of regtest"},
	} {
		if _, err := ParseWIF(test.text, regtest); err == nil || !strings.Contains(err.Error(), test.want) || test.text != "" && strings.Contains(err.Error(), test.text[5:15]) {
			t.Errorf("%s: got %v, want an error with %q and nothing of the key", name, err, test.want)
		}
	}
}
