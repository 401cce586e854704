package signin

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gcash/bchd/chaincfg"

	"github.com/keytree-bch/keytree/protocol"
)

const (
	// NonceKeySize is the length of a Verifier's key, in bytes.
	NonceKeySize = 32
	// Lifetime is how long after its issue a challenge can be answered.
	Lifetime = 5 * time.Minute
	// MaxSkew is how far the clocks of servers that share a key may be apart: the issue of
	// a challenge may lie so far ahead.
	MaxSkew = 10 * time.Second
)

var (
	// ErrNonce is wrapped by the errors about a nonce that the Verifier has not made for
	// the rest of the text. Ask for a challenge, and sign it as it comes.
	ErrNonce = errors.New("foreign nonce")
	// ErrExpired is wrapped by the errors about a challenge that is too old. Ask for
	// another.
	ErrExpired = errors.New("challenge expired")
	// ErrFuture is wrapped by the errors about a challenge from the future. The clocks of
	// the servers that share the key are more than MaxSkew apart.
	ErrFuture = errors.New("challenge from the future")
)

// Verifier makes challenges and verifies what was signed of them, without any memory.
// Verifiers with the same key and network know each other's challenges.
type Verifier struct {
	network *chaincfg.Params
	key     []byte
}

// NewVerifier returns a Verifier for addresses of net. Key is a secret of NonceKeySize
// random bytes that nothing else uses.
func NewVerifier(key []byte, net *chaincfg.Params) (*Verifier, error) {
	if len(key) != NonceKeySize {
		return nil, fmt.Errorf("expected a key of %d random bytes for nonces, got %d", NonceKeySize, len(key))
	}
	return &Verifier{net, bytes.Clone(key)}, nil
}

// Request asks for a challenge.
type Request struct {
	Domain, URI string // as in a Message
	Key         protocol.KeyHash
	AllowLong   bool // takes more than MaxText bytes, which some wallets sign wrongly
}

// Challenge makes the message that a key is to sign now. The error for a request from
// which no good text can be made is that of Parse.
func (v *Verifier) Challenge(r Request, now time.Time) (Message, error) {
	m := Message{Domain: r.Domain, URI: r.URI, Key: r.Key, Network: v.network, IssuedAt: now}
	m.Nonce = v.nonce(m)
	return v.parse(m.Text(), r.AllowLong) // which cuts the time to the second
}

// Answer is what comes back of a challenge.
type Answer struct {
	Text      string // as it was signed
	Signature string // base64, as bch_signMessage returns it
	Domain    string // of the service that wants to know; never taken from the text
	AllowLong bool   // as in the Request
}

// Verify finds that a key has signed a challenge of this Verifier for a domain, and that
// the challenge can still be answered. The error wraps one of ErrTooLong, ErrText,
// ErrDomain, ErrNonce, ErrExpired, ErrFuture and protocol.ErrSignature, or two as Parse
// says.
//
// The same answer is good again and again until the challenge expires. The caller must
// refuse a nonce that it has taken, and may forget it at Message.Expires.
func (v *Verifier) Verify(a Answer, now time.Time) (Message, error) {
	m, err := v.parse(a.Text, a.AllowLong)
	if err != nil {
		return Message{}, err
	}
	if m.Domain != a.Domain {
		return Message{}, fmt.Errorf("%w: expected a text for %.80q, got one for %s", ErrDomain, a.Domain, m.Domain)
	}
	if want := v.nonce(m); !hmac.Equal(want[:], m.Nonce[:]) {
		return Message{}, fmt.Errorf("%w: expected one that was made here for this domain, URI, address and time, got %v", ErrNonce, m.Nonce)
	}
	if err := m.CheckTime(now); err != nil {
		return Message{}, err
	}
	key, err := Signer(a.Text, a.Signature)
	if err != nil {
		return Message{}, err
	}
	if key != m.Key {
		return Message{}, fmt.Errorf("%w: expected one by %s over this very text, got one by another key or over another text",
			protocol.ErrSignature, m.Address())
	}
	return m, nil
}

// Expires returns the first instant at which the challenge cannot be answered any more.
func (m Message) Expires() time.Time { return m.IssuedAt.Add(Lifetime) }

// CheckTime finds whether the challenge can be answered now. The error wraps ErrExpired or
// ErrFuture.
func (m Message) CheckTime(now time.Time) error {
	switch expires := m.Expires(); {
	case !now.Before(expires):
		return fmt.Errorf("%w: expected an answer before %s, it is %s", ErrExpired, stamp(expires), stamp(now))
	case m.IssuedAt.After(now.Add(MaxSkew)):
		return fmt.Errorf("%w: expected one issued up to %s, got %s", ErrFuture, stamp(now.Add(MaxSkew)), stamp(m.IssuedAt))
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(timeLayout) }

func (v *Verifier) parse(text string, allowLong bool) (Message, error) {
	if len(text) > MaxText && !allowLong {
		return Message{}, fmt.Errorf("%w: expected up to %d bytes, got %d, and some wallets sign what is longer wrongly: use a shorter URI, or allow long texts",
			ErrTooLong, MaxText, len(text))
	}
	return Parse(text, v.network)
}

// nonce is the HMAC of what else tells challenges apart, so that nobody has to remember
// them. No field of a good message has a line feed.
func (v *Verifier) nonce(m Message) Nonce {
	mac := hmac.New(sha256.New, v.key)
	mac.Write([]byte(strings.Join([]string{m.Domain, m.URI, m.Address(), stamp(m.IssuedAt)}, "\n")))
	return Nonce(mac.Sum(nil)[:len(Nonce{})])
}
