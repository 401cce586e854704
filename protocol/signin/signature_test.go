package signin

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"os"
	"strings"
	"testing"

	"github.com/gcash/bchd/bchec"
	"github.com/gcash/bchd/chaincfg"

	"github.com/keytree-bch/keytree/protocol"
)

// vector is one of testdata/signatures.json. signatures.mjs beside it says what made it.
type vector struct {
	By, Address, Message, Signature string
	Key                             int // of testKey
	Repeat                          int // of Message, if it is not 0
}

func vectors(t *testing.T) []vector {
	t.Helper()
	text, err := os.ReadFile("testdata/signatures.json")
	if err != nil {
		t.Fatal(err)
	}
	var all []vector
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	for i, v := range all {
		if v.Repeat != 0 {
			all[i].Message = strings.Repeat(v.Message, v.Repeat)
		}
	}
	return all
}

// TestSigner reads what the code of wallets has signed, under each header byte.
func TestSigner(t *testing.T) {
	headers := make(map[byte]bool)
	for _, v := range vectors(t) {
		key, err := Signer(v.Message, v.Signature)
		if got := protocol.FormatAddress(key, &chaincfg.MainNetParams); err != nil || got != v.Address {
			t.Errorf("%s, %d bytes, signed by %s: got %s, %v", v.Signature, len(v.Message), v.Address, got, err)
		}
		headers[decode(t, v.Signature)[0]] = true
	}
	for header := byte(firstHeader); header <= lastHeader; header++ {
		if !headers[header] {
			t.Errorf("no vector has the header byte %d", header)
		}
	}
}

// TestSign finds that Sign does what wallets do: their nonces are those of RFC 6979, too.
func TestSign(t *testing.T) {
	for _, v := range vectors(t) {
		if v.By == "none" {
			continue
		}
		got, err := Sign(v.Message, protocol.WIF{Private: testKey(v.Key), Uncompressed: v.By == "libauth"})
		if err != nil || got != v.Signature {
			t.Errorf("%d bytes, key %d: got %s, %v, want %s as by %s", len(v.Message), v.Key, got, err, v.Signature, v.By)
		}
	}
}

func TestSignerRefuses(t *testing.T) {
	message := sampleMessage(t).Text()
	good, err := Sign(message, protocol.WIF{Private: testKey(1)})
	if err != nil {
		t.Fatal(err)
	}
	raw := decode(t, good)
	order := bchec.S256().Params().N
	r, s := raw[1:33], raw[33:]
	number := func(n *big.Int) []byte { return n.FillBytes(make([]byte, 32)) }
	small := func(n int64) []byte { return number(big.NewInt(n)) }
	half := new(big.Int).Rsh(order, 1)
	encode := func(header byte, r, s []byte) string {
		return base64.StdEncoding.EncodeToString(append(append([]byte{header}, r...), s...))
	}
	type test struct{ signature, reason string }
	tests := map[string]test{
		"nothing":                 {"", "88 characters"},
		"without the header":      {base64.StdEncoding.EncodeToString(raw[1:]), "base64 of 65 bytes"},
		"a byte more":             {base64.StdEncoding.EncodeToString(append(raw, 0)), "base64 of 65 bytes"},
		"without padding":         {good[:87], "88 characters"},
		"a line feed behind":      {good + "\n", "88 characters"},
		"line feeds within":       {good[:84] + "\n\n\n\n", "base64 of 65 bytes"},
		"nothing but line feeds":  {strings.Repeat("\n", 88), "base64 of 65 bytes"},
		"other last bits":         {good[:86] + nextLetter(good[86]) + "=", "base64 of 65 bytes"},
		"hex":                     {fmt.Sprintf("%x", raw[:44]), "base64 of 65 bytes"},
		"r of 0":                  {encode(raw[0], small(0), s), "expected r"},
		"r of the order":          {encode(raw[0], number(order), s), "expected r"},
		"r of all ones":           {encode(raw[0], []byte(strings.Repeat("\xff", 32)), s), "expected r"},
		"s of 0":                  {encode(raw[0], r, small(0)), "expected s"},
		"s of the order":          {encode(raw[0], r, number(order)), "expected s"},
		"s above the half":        {encode(raw[0], r, number(new(big.Int).Add(half, big.NewInt(1)))), "expected s"},
		"malleated":               {encode(((raw[0]-firstHeader)^1)+firstHeader, r, number(new(big.Int).Sub(order, new(big.Int).SetBytes(s)))), "expected s"},
		"r + order out of bounds": {encode(raw[0]+2, r, s), "no point has x = r + order"},
		"no point has r":          {encode(raw[0], small(5), s), "no key made it"}, // 5³ + 7 has no root
		"point at infinity":       {encode(infinity(message)), "no key made it"},
	}
	for header := range 256 {
		if header < firstHeader || header > lastHeader {
			tests[fmt.Sprintf("header byte %d", header)] = test{encode(byte(header), r, s), "header byte of 27 to 34"}
		}
	}
	for name, test := range tests {
		key, err := Signer(message, test.signature)
		if !errors.Is(err, protocol.ErrSignature) || !strings.Contains(err.Error(), test.reason) || key != (protocol.KeyHash{}) {
			t.Errorf("%s: got %x, %v, want it refused for %q", name, key, err, test.reason)
		}
	}
	if _, err := Signer(message, encode(raw[0], r, number(half))); err != nil {
		t.Errorf("s of the half: got %v, want a key", err)
	}
}

// infinity returns a signature of which recovery makes the point at infinity: its s·R is
// e·G.
func infinity(message string) (header byte, r, s []byte) {
	curve := bchec.S256()
	order := curve.Params().N
	e := digest(message)
	k := big.NewInt(7)
	sign := new(big.Int).ModInverse(k, order)
	sign.Mul(sign, new(big.Int).SetBytes(e[:])).Mod(sign, order)
	if sign.Cmp(new(big.Int).Rsh(order, 1)) > 0 {
		sign.Sub(order, sign)
		k.Sub(order, k)
	}
	x, y := curve.ScalarBaseMult(k.Bytes())
	return firstCompressed + byte(y.Bit(0)), x.FillBytes(make([]byte, 32)), sign.FillBytes(make([]byte, 32))
}

// nextLetter returns the letter of base64 that differs from another in its last bit.
func nextLetter(c byte) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	return alphabet[strings.IndexByte(alphabet, c)^1:][:1]
}

func decode(t *testing.T, signature string) []byte {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(signature)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// testKey returns the private key that signatures.mjs gives a number.
func testKey(i int) *bchec.PrivateKey {
	secret := sha256.Sum256(fmt.Appendf(nil, "key %d", i))
	key, _ := bchec.PrivKeyFromBytes(bchec.S256(), secret[:])
	return key
}
