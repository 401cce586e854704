package uid

import (
	"crypto/ed25519"
	"crypto/sha512"
	"fmt"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/sigkey"
)

// Sign makes SELFSIGNATURE with the private key of SIGKEY.
func (m *Message) Sign(key ed25519.PrivateKey) { m.SelfSignature = sign(&m.Content, key) }

// SignUser makes USERSIGNATURE with the private key of the previous SIGKEY.
func (m *Message) SignUser(key ed25519.PrivateKey) { m.UserSignature = sign(&m.Content, key) }

// SignEscrow makes ESCROWSIGNATURE with the private key of the previous SIGESCROW;
// on creation, with that of SIGESCROW.
func (m *Message) SignEscrow(key ed25519.PrivateKey) { m.EscrowSignature = sign(&m.Content, key) }

// SignLink makes LINKAUTHORITY with the keyserver operator's link key: a signature
// over the whole message as it is without it.
func (m *Message) SignLink(key ed25519.PrivateKey) {
	m.LinkAuthority = canonical.Encode(ed25519.Sign(key, m.withoutLinkAuthority()))
}

func (m *Message) withoutLinkAuthority() []byte {
	bare := *m
	bare.LinkAuthority = ""
	return bare.Canonical()
}

func sign(c *Content, key ed25519.PrivateKey) string {
	return canonical.Encode(ed25519.Sign(key, c.Canonical()))
}

// Verify returns ErrSignature, naming what was signed, unless a signature in
// base64 is that of a message by a public key that passes sigkey.Check.
func Verify(what string, public []byte, message []byte, signature string) error {
	b, err := canonical.Decode(signature, ed25519.SignatureSize)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrSignature, what, err)
	}
	if !sigkey.Verify(public, message, b) {
		return fmt.Errorf("%w: %s: not by the key that must have signed", ErrSignature, what)
	}
	return nil
}

// VerifyCreation checks a message, which passes Check, as the first of its
// identity: that MSGCOUNT is 0 and that the right keys, and no others, signed it.
func (m *Message) VerifyCreation() error {
	c := &m.Content
	if c.MsgCount != 0 {
		return fmt.Errorf("%w: MSGCOUNT: expected 0 in an identity's first message, got %d", ErrInvalid, c.MsgCount)
	}
	if m.UserSignature != "" {
		return fmt.Errorf("%w: USERSIGNATURE: must be empty in an identity's first message", ErrSignature)
	}
	content := c.Canonical()
	if err := Verify("SELFSIGNATURE", c.SigKey.Public(), content, m.SelfSignature); err != nil {
		return err
	}
	if escrow := c.escrow(); escrow != nil {
		return Verify("ESCROWSIGNATURE", escrow.Public(), content, m.EscrowSignature)
	}
	return nil // Check has seen that there is no ESCROWSIGNATURE
}

// VerifyUpdate checks a message, which passes Check, against the one before it of
// the same identity: that it follows that one, and that the keys of that one
// allow what it changes.
func (m *Message) VerifyUpdate(previous *Message) error {
	c, p := &m.Content, &previous.Content
	if c.Identity != p.Identity {
		return fmt.Errorf("%w: IDENTITY: expected %q", ErrInvalid, p.Identity)
	}
	if c.Version != p.Version {
		return fmt.Errorf("%w: VERSION: expected %q as before: an identity keeps its profile", ErrInvalid, p.Version)
	}
	if c.MsgCount != p.MsgCount+1 || c.MsgCount == 0 {
		return fmt.Errorf("%w: MSGCOUNT: expected %d, got %d", ErrInvalid, p.MsgCount+1, c.MsgCount)
	}
	content := c.Canonical()
	if err := Verify("SELFSIGNATURE", c.SigKey.Public(), content, m.SelfSignature); err != nil {
		return err
	}
	before, now := p.escrow(), c.escrow()
	switch {
	case m.UserSignature != "" && m.EscrowSignature != "":
		return fmt.Errorf("%w: USERSIGNATURE, ESCROWSIGNATURE: an update has one of them, not both", ErrSignature)
	case m.EscrowSignature != "":
		if before == nil {
			return fmt.Errorf("%w: ESCROWSIGNATURE: the identity has no SIGESCROW", ErrSignature)
		}
		return Verify("ESCROWSIGNATURE", before.Public(), content, m.EscrowSignature)
	case (before == nil) != (now == nil) || before != nil && *before != *now:
		return fmt.Errorf("%w: SIGESCROW changed without ESCROWSIGNATURE by the previous one", ErrSignature)
	}
	return Verify("USERSIGNATURE", p.SigKey.Public(), content, m.UserSignature)
}

// VerifyLink checks LINKAUTHORITY, if there is one, against the operator's public
// key; nil if there is no such key.
func (m *Message) VerifyLink(public ed25519.PublicKey) error {
	if m.LinkAuthority == "" {
		return nil
	}
	return Verify("LINKAUTHORITY", public, m.withoutLinkAuthority(), m.LinkAuthority)
}

// SigKeyHash is what KeyInits are filed under: the SHA-512, twice, of a public
// signature key.
func SigKeyHash(public []byte) [sha512.Size]byte {
	once := sha512.Sum512(public)
	return sha512.Sum512(once[:])
}
