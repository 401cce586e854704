package sigkey_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/keyserver/sigkey"
)

func TestCheck(t *testing.T) {
	good := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize)).Public().(ed25519.PublicKey)
	const (
		ff = "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"
		oo = "000000000000000000000000000000000000000000000000000000000000"
	)
	for name, test := range map[string]struct {
		public string
		text   string // in the error; "" if the key is good
	}{
		"a key":            {hex.EncodeToString(good), ""},
		"the base point":   {"58" + strings.Repeat("66", 31), ""},
		"empty":            {"", "expected 32 bytes, got 0"},
		"short":            {hex.EncodeToString(good[:31]), "got 31"},
		"long":             {hex.EncodeToString(good) + "00", "got 33"},
		"off the curve":    {"02" + oo + "00", "not on the curve"},
		"order 1":          {"01" + oo + "00", "small order"},
		"order 2":          {"ec" + ff + "7f", "small order"},
		"order 4":          {"00" + oo + "00", "small order"},
		"order 4, other":   {"00" + oo + "80", "small order"},
		"order 8":          {"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05", "small order"},
		"order 8, second":  {"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85", "small order"},
		"order 8, third":   {"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a", "small order"},
		"order 8, fourth":  {"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa", "small order"},
		"order 1, sign":    {"01" + oo + "80", "canonical"},
		"order 2, sign":    {"ec" + ff + "ff", "canonical"},
		"y = p":            {"ed" + ff + "7f", "canonical"},
		"y = p + 1":        {"ee" + ff + "7f", "canonical"},
		"y = p + 1, sign":  {"ee" + ff + "ff", "canonical"},
		"y = p + 3, large": {"f0" + ff + "7f", "canonical"}, // a point of large order
	} {
		public, err := hex.DecodeString(test.public)
		if err != nil {
			t.Fatal(err)
		}
		err = sigkey.Check(public)
		if test.text == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if !errors.Is(err, sigkey.ErrKey) || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%s: got %v, expected %v: %s", name, err, sigkey.ErrKey, test.text)
		}
	}
}

// TestVerify has a signature that crypto/ed25519 takes and nobody made: R and the key
// are the neutral point, and s is 0.
func TestVerify(t *testing.T) {
	neutral := make([]byte, ed25519.PublicKeySize)
	neutral[0] = 1
	forged := append(bytes.Clone(neutral), make([]byte, 32)...)
	message := []byte("whatever")
	if !ed25519.Verify(neutral, message, forged) {
		t.Fatal("crypto/ed25519 refuses it by now: is this package still needed?")
	}
	if sigkey.Verify(neutral, message, forged) {
		t.Error("a signature that nobody made is good")
	}
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	public, signature := key.Public().(ed25519.PublicKey), ed25519.Sign(key, message)
	if !sigkey.Verify(public, message, signature) {
		t.Error("a good signature is refused")
	}
	if sigkey.Verify(public, []byte("another"), signature) || sigkey.Verify(public[:31], message, signature) {
		t.Error("a signature of another message, or by half a key, is good")
	}
}
