package keyinit

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"slices"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

const (
	// MaxKeyInit is the most bytes that a message may have, as it arrives and in
	// canonical form.
	MaxKeyInit = 16 << 10

	// MaxValidity is how far ahead NOTAFTER may be, in seconds: 90 days, and one for
	// clocks that differ.
	MaxValidity = (90 + 1) * 24 * 60 * 60
)

// The fields of each type stand in the order of their names: canonical JSON.

// Contents is what the user signs.
type Contents struct {
	Fallback          bool   `json:"FALLBACK"`          // may be handed out more than once
	MsgCount          uint64 `json:"MSGCOUNT"`          // 0 in profile 1.0; increases in 1.1
	NotAfter          uint64 `json:"NOTAFTER"`          // Unix seconds
	NotBefore         uint64 `json:"NOTBEFORE"`         // Unix seconds
	RepoURI           string `json:"REPOURI"`           // of the KeyInit repository
	SessionAnchor     string `json:"SESSIONANCHOR"`     // IV 16, AES-256-CTR of the canonical Anchor; base64
	SessionAnchorHash string `json:"SESSIONANCHORHASH"` // SHA-512 of the canonical Anchor, base64
	SigKeyHash        string `json:"SIGKEYHASH"`        // uid.SigKeyHash of the user's SIGKEY, base64
	Version           string `json:"VERSION"`           // as in UID messages
}

// KeyInit is a KeyInit message.
type KeyInit struct {
	Contents  Contents `json:"Contents"`
	Signature string   `json:"SIGNATURE"` // by SIGKEY over canonical Contents, base64
}

// Parse reads a message in JSON, its fields in any order. canonical.ErrMalformed
// if it is not exactly one. Whether its values are allowed, Verify says.
func Parse(data []byte) (*KeyInit, error) {
	if len(data) > MaxKeyInit {
		return nil, fmt.Errorf("%w: KeyInit of %d bytes, at most %d are allowed", canonical.ErrMalformed, len(data), MaxKeyInit)
	}
	k := new(KeyInit)
	if err := canonical.Unmarshal(data, k); err != nil {
		return nil, err
	}
	return k, nil
}

// Canonical returns the message's canonical bytes, which the keyserver signs and
// hands out.
func (k *KeyInit) Canonical() []byte { return canonical.Marshal(k) }

// Digest names the message: the SHA-256 of what the user signed.
func (k *KeyInit) Digest() [sha256.Size]byte { return sha256.Sum256(canonical.Marshal(k.Contents)) }

// Sign makes SIGNATURE with the private key of SIGKEY.
func (k *KeyInit) Sign(key ed25519.PrivateKey) {
	k.Signature = canonical.Encode(ed25519.Sign(key, canonical.Marshal(k.Contents)))
}

// SignServer returns the keyserver's receipt: its signature over the whole
// message, base64.
func (k *KeyInit) SignServer(key ed25519.PrivateKey) string {
	return canonical.Encode(ed25519.Sign(key, k.Canonical()))
}

// VerifyServer returns uid.ErrSignature unless receipt is the keyserver's.
func (k *KeyInit) VerifyServer(receipt string, server ed25519.PublicKey) error {
	return uid.Verify("keyserver's signature of the KeyInit", server, k.Canonical(), receipt)
}

// Verify checks everything that keyserver and recipient have to check of a
// message of the user with a public signature key, at a time in Unix seconds:
// uid.ErrInvalid, uid.ErrSignature or uid.ErrExpired otherwise. uris are the
// names of the repository that it must be meant for. A NOTBEFORE in the future is
// no error here. It returns the session anchor.
func (k *KeyInit) Verify(sigKey ed25519.PublicKey, uris []string, now uint64) (*Anchor, error) {
	c := &k.Contents
	switch {
	case c.Version != uid.Version10 && c.Version != uid.Version11:
		return nil, fmt.Errorf("%w: VERSION: expected %q or %q", uid.ErrInvalid, uid.Version10, uid.Version11)
	case c.Version == uid.Version10 && c.MsgCount != 0:
		return nil, fmt.Errorf("%w: MSGCOUNT: expected 0 in profile %s, got %d", uid.ErrInvalid, uid.Version10, c.MsgCount)
	case !slices.Contains(uris, c.RepoURI):
		return nil, fmt.Errorf("%w: REPOURI: expected one of %q", uid.ErrInvalid, uris)
	}
	sum := uid.SigKeyHash(sigKey)
	if want := canonical.Encode(sum[:]); c.SigKeyHash != want {
		return nil, fmt.Errorf("%w: SIGKEYHASH: expected that of the given key, %s", uid.ErrInvalid, want)
	}
	if err := uid.CheckPeriod(c.NotBefore, c.NotAfter, now, MaxValidity); err != nil {
		return nil, err
	}
	if _, err := canonical.Decode(c.SessionAnchorHash, sha512.Size); err != nil {
		return nil, fmt.Errorf("%w: SESSIONANCHORHASH: %w", uid.ErrInvalid, err)
	}
	if n := len(k.Canonical()); n > MaxKeyInit {
		return nil, fmt.Errorf("%w: KeyInit of %d bytes, at most %d are allowed", uid.ErrInvalid, n, MaxKeyInit)
	}
	if err := uid.Verify("SIGNATURE", sigKey, canonical.Marshal(c), k.Signature); err != nil {
		return nil, err
	}
	return c.open(sigKey)
}
