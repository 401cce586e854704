package signin

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchutil"

	"github.com/keytree-bch/keytree/protocol"
)

func newVerifier(t *testing.T, key byte, net *chaincfg.Params) *Verifier {
	t.Helper()
	v, err := NewVerifier(bytes.Repeat([]byte{key}, NonceKeySize), net)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// signIn returns a request, the answer of the key that it is for, and when it was issued.
func signIn(t *testing.T, v *Verifier, uncompressed bool) (Request, Answer, time.Time) {
	t.Helper()
	wif := protocol.WIF{Private: testKey(1), Uncompressed: uncompressed}
	publicKey := wif.Private.PubKey().SerializeCompressed()
	if uncompressed {
		publicKey = wif.Private.PubKey().SerializeUncompressed()
	}
	r := Request{Domain: "memo.cash", URI: "https://memo.cash/login", Key: protocol.KeyHash(bchutil.Hash160(publicKey))}
	issued := sampleMessage(t).IssuedAt
	m, err := v.Challenge(r, issued.Add(999*time.Millisecond)) // cut to the second
	if err != nil {
		t.Fatal(err)
	}
	return r, Answer{Text: m.Text(), Signature: sign(t, m.Text(), wif), Domain: r.Domain}, issued
}

func sign(t *testing.T, text string, wif protocol.WIF) string {
	t.Helper()
	signature, err := Sign(text, wif)
	if err != nil {
		t.Fatal(err)
	}
	return signature
}

// TestVerify has two servers with one key verify each other's challenges.
func TestVerify(t *testing.T) {
	for _, net := range []*chaincfg.Params{&chaincfg.MainNetParams, &chaincfg.ChipNetParams, &chaincfg.RegressionNetParams} {
		for _, uncompressed := range []bool{false, true} {
			r, answer, issued := signIn(t, newVerifier(t, 1, net), uncompressed)
			for after, wraps := range map[time.Duration]error{
				-MaxSkew - 1: ErrFuture,
				-MaxSkew:     nil,
				0:            nil,
				Lifetime - 1: nil,
				Lifetime:     ErrExpired,
				time.Hour:    ErrExpired,
			} {
				m, err := newVerifier(t, 1, net).Verify(answer, issued.Add(after))
				switch {
				case !errors.Is(err, wraps):
					t.Errorf("%s, %v after its issue: got %v, want %v", net.Name, after, err, wraps)
				case err == nil && (m.Domain != r.Domain || m.URI != r.URI || m.Key != r.Key || m.IssuedAt != issued || m.Expires() != issued.Add(Lifetime)):
					t.Errorf("%s: got %+v for %+v", net.Name, m, r)
				}
			}
		}
	}
}

// sampleNonce is that of sample, by a key whose bytes are all 1. Python's hmac has made it:
//
//	hmac.digest(b"\1"*32, b"memo.cash\nhttps://memo.cash/login\nbitcoincash:qpm2…\n2026-11-26T20:00:00Z", "sha256")[:8]
const sampleNonce = "7b787b3bc53b8710"

func TestNonce(t *testing.T) {
	v, want := newVerifier(t, 1, &chaincfg.MainNetParams), sampleMessage(t)
	m, err := v.Challenge(Request{Domain: want.Domain, URI: want.URI, Key: want.Key}, want.IssuedAt)
	if err != nil || m.Nonce.String() != sampleNonce {
		t.Errorf("got %v, %v, want %s", m.Nonce, err, sampleNonce)
	}
}

func TestVerifyRefuses(t *testing.T) {
	v := newVerifier(t, 1, &chaincfg.MainNetParams)
	_, good, issued := signIn(t, v, false)
	wif := protocol.WIF{Private: testKey(1)}
	// resigned is another text, with a good signature over it.
	resigned := func(old, new string) Answer {
		a := good
		a.Text = strings.Replace(a.Text, old, new, 1)
		if a.Text == good.Text {
			t.Fatalf("the text has no %q", old)
		}
		a.Signature = sign(t, a.Text, wif)
		return a
	}
	signature := func(s string) Answer { return Answer{Text: good.Text, Signature: s, Domain: good.Domain} }
	nonce := strings.Split(good.Text, "\n")[6]
	_, foreign, _ := signIn(t, newVerifier(t, 2, &chaincfg.MainNetParams), false)
	_, testnet, _ := signIn(t, newVerifier(t, 1, &chaincfg.TestNet3Params), false)
	_, other, _ := signIn(t, v, true)

	for _, test := range []struct {
		name   string
		answer Answer
		wraps  error
	}{
		{"another verifier's domain", Answer{Text: good.Text, Signature: good.Signature, Domain: "evil.cash"}, ErrDomain},
		{"a domain above", Answer{Text: good.Text, Signature: good.Signature, Domain: "cash"}, ErrDomain},
		{"a domain below", Answer{Text: good.Text, Signature: good.Signature, Domain: "www.memo.cash"}, ErrDomain},
		{"a verifier without a domain", Answer{Text: good.Text, Signature: good.Signature}, ErrDomain},
		{"another host in the URI", resigned("https://memo.cash", "https://evil.cash"), ErrDomain},
		{"another server's challenge", foreign, ErrNonce},
		{"another nonce", resigned(nonce, "Nonce: 0123456789abcdef"), ErrNonce},
		{"another path", resigned("/login", "/logon"), ErrNonce},
		{"another time", resigned(":00Z", ":01Z"), ErrNonce},
		{"another address", resigned(strings.Split(good.Text, "\n")[1], strings.Split(other.Text, "\n")[1]), ErrNonce},
		{"no nonce", resigned(nonce+"\n", ""), ErrNoNonce},
		{"half a nonce", resigned(nonce, nonce[:len(nonce)-8]), ErrNoNonce},
		{"another chain", testnet, ErrChain},
		{"too long", resigned("/login", "/login/"+strings.Repeat("x", MaxText)), ErrTooLong},
		{"no signature", signature(""), protocol.ErrSignature},
		{"another key's signature", signature(sign(t, good.Text, protocol.WIF{Private: testKey(2)})), protocol.ErrSignature},
		{"the key's other address", signature(other.Signature), protocol.ErrSignature},
		{"a signature over another text", signature(sign(t, good.Text+" ", wif)), protocol.ErrSignature},
	} {
		if m, err := v.Verify(test.answer, issued); !errors.Is(err, test.wraps) || m != (Message{}) {
			t.Errorf("%s: got %+v, %v, want %v", test.name, m, err, test.wraps)
		}
	}

	raw := decode(t, good.Signature)
	right := raw[0]
	for header := range 256 {
		raw[0] = byte(header)
		_, err := v.Verify(signature(base64.StdEncoding.EncodeToString(raw)), issued)
		if raw[0] == right && err != nil || raw[0] != right && !errors.Is(err, protocol.ErrSignature) {
			t.Errorf("header byte %d where %d is right: got %v", header, right, err)
		}
	}
}

func TestChallengeRefuses(t *testing.T) {
	v, m := newVerifier(t, 1, &chaincfg.MainNetParams), sampleMessage(t)
	for _, test := range []struct {
		name, domain, uri string
		wraps             error
	}{
		{"nothing", "", "", ErrText},
		{"another host", "memo.cash", "https://evil.cash/", ErrDomain},
		{"the port of http", "localhost:80", "http://localhost:80/", ErrText},
		{"lines in the domain", "memo.cash" + wants + "\n" + m.Address() + "\n\nURI: https://memo.cash\nmemo.cash", "https://memo.cash/", ErrText},
		{"lines in the URI", "memo.cash", "https://memo.cash/\nVersion: 1", ErrText},
	} {
		if _, err := v.Challenge(Request{Domain: test.domain, URI: test.uri, Key: m.Key, AllowLong: true}, m.IssuedAt); !errors.Is(err, test.wraps) {
			t.Errorf("%s: got %v, want %v", test.name, err, test.wraps)
		}
	}
	if _, err := v.Challenge(Request{Domain: m.Domain, URI: m.URI, Key: m.Key}, time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC)); !errors.Is(err, ErrText) {
		t.Errorf("a year of five digits: got %v, want ErrText", err)
	}
}

// TestLong finds the longest text that goes without AllowLong, in both directions.
func TestLong(t *testing.T) {
	v, m := newVerifier(t, 1, &chaincfg.MainNetParams), sampleMessage(t)
	wif := protocol.WIF{Private: testKey(1)}
	key := protocol.KeyHash(bchutil.Hash160(wif.Private.PubKey().SerializeCompressed()))
	room := MaxText - len(m.Text())
	for _, test := range []struct {
		more  int // bytes of path
		allow bool
		wraps error
	}{
		{room, false, nil},
		{room + 1, false, ErrTooLong},
		{room + 1, true, nil},
		{MaxLongText - len(m.Text()), true, nil},
		{MaxLongText - len(m.Text()) + 1, true, ErrTooLong},
	} {
		r := Request{Domain: m.Domain, URI: m.URI + strings.Repeat("x", test.more), Key: key, AllowLong: test.allow}
		if _, err := v.Challenge(r, m.IssuedAt); !errors.Is(err, test.wraps) {
			t.Errorf("challenge, %+v: got %v", test, err)
		}
		signed := Message{Domain: r.Domain, URI: r.URI, Key: key, Network: m.Network, IssuedAt: m.IssuedAt}
		signed.Nonce = v.nonce(signed)
		a := Answer{Text: signed.Text(), Signature: sign(t, signed.Text(), wif), Domain: r.Domain, AllowLong: test.allow}
		if _, err := v.Verify(a, m.IssuedAt); !errors.Is(err, test.wraps) {
			t.Errorf("verify, %+v: got %v", test, err)
		}
	}
}

func TestNewVerifierRefusesKeys(t *testing.T) {
	for _, n := range []int{0, NonceKeySize - 1, NonceKeySize + 1} {
		if _, err := NewVerifier(make([]byte, n), &chaincfg.MainNetParams); err == nil {
			t.Errorf("took a key of %d bytes", n)
		}
	}
}
