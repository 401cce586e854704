// Package sigkey is the one place that decides which Ed25519 public keys and
// signatures count: those of keyservers and users, of escrow, of tokens and links.
//
// crypto/ed25519 takes keys that nobody should have. Under one of small order
// almost anybody can make signatures, without a private key; and one that is not
// in its canonical form (RFC 8032 §5.1.3) is another byte string for the same key,
// so that two programs can disagree about it.
//
// What never belongs here: where keys come from, and whose they are.
package sigkey

import (
	"crypto/ed25519"
	"errors"
	"fmt"

	"filippo.io/edwards25519"
)

// ErrKey says that a public key is not one that can be relied upon. Whoever has it
// has to make another.
var ErrKey = errors.New("unfit Ed25519 public key")

// Check returns ErrKey unless public are the 32 bytes of a point on the curve, in
// canonical form, that is not of small order.
func Check(public []byte) error {
	if len(public) != ed25519.PublicKeySize {
		return fmt.Errorf("%w: expected %d bytes, got %d", ErrKey, ed25519.PublicKeySize, len(public))
	}
	p, err := new(edwards25519.Point).SetBytes(public)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %x is not on the curve", ErrKey, public)
	case [ed25519.PublicKeySize]byte(p.Bytes()) != [ed25519.PublicKeySize]byte(public):
		return fmt.Errorf("%w: %x is not in canonical form", ErrKey, public)
	case new(edwards25519.Point).MultByCofactor(p).Equal(edwards25519.NewIdentityPoint()) == 1:
		return fmt.Errorf("%w: %x is of small order, and anybody can sign under it", ErrKey, public)
	}
	return nil
}

// Verify tells whether a signature is that of a message by a public key that passes
// Check.
func Verify(public, message, signature []byte) bool {
	return Check(public) == nil && ed25519.Verify(public, message, signature)
}
