package keyinit

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/sha512"
	"fmt"
	"io"
	"strings"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// Limits of an anchor.
const (
	maxKeys = 16
	maxMix  = 254 // bytes
	// MaxNym is the most bytes of a NYMADDRESS, which are 4096 characters of base64.
	MaxNym = 3072
)

// Anchor is what a sender needs to begin a session. It is encrypted under the
// recipient's public signature key: readable for who has looked the recipient up,
// not for who only sees the KeyInit.
type Anchor struct {
	MixAddress string      `json:"MIXADDRESS"` // where the first message goes
	NymAddress string      `json:"NYMADDRESS"` // for whom it is there, base64
	PFKeys     uid.KeyList `json:"PFKEYS"`     // for key agreement, in this session alone
}

// CheckMix returns uid.ErrInvalid unless a text is one mail address and nothing else:
// local@domain, at most 254 visible ASCII characters without those that mean something
// in the header of a mail.
func CheckMix(address string) error {
	local, domain, ok := strings.Cut(address, "@")
	other := func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`"(),:;<>@[\]`, r) }
	if len(address) > maxMix || !ok || local == "" || domain == "" || strings.ContainsFunc(local+domain, other) {
		return fmt.Errorf("%w: MIXADDRESS: expected local@domain of at most %d characters", uid.ErrInvalid, maxMix)
	}
	return nil
}

// CheckAddress returns uid.ErrInvalid unless a first message can be sent to the anchor's
// addresses: MIXADDRESS passes CheckMix, and NYMADDRESS is base64 of at most MaxNym bytes,
// or empty. Keyservers before this check have stored others, which nobody can use.
func (a *Anchor) CheckAddress() error {
	if err := CheckMix(a.MixAddress); err != nil {
		return err
	}
	nym, err := canonical.Decode(a.NymAddress, -1)
	if err != nil {
		return fmt.Errorf("%w: NYMADDRESS: %w", uid.ErrInvalid, err)
	}
	if len(nym) > MaxNym {
		return fmt.Errorf("%w: NYMADDRESS: expected at most %d bytes, got %d", uid.ErrInvalid, MaxNym, len(nym))
	}
	return nil
}

// Seal writes the anchor into the contents of a KeyInit of the user with a public
// signature key. It reads 16 random bytes for the IV.
func (c *Contents) Seal(a *Anchor, sigKey ed25519.PublicKey, random io.Reader) error {
	plain := canonical.Marshal(a)
	sum := sha512.Sum512(plain)
	b := make([]byte, aes.BlockSize, aes.BlockSize+len(plain))
	if _, err := io.ReadFull(random, b); err != nil {
		return fmt.Errorf("reading random bytes: %w", err)
	}
	b = append(b, plain...)
	crypt(sigKey, b)
	c.SessionAnchor, c.SessionAnchorHash = canonical.Encode(b), canonical.Encode(sum[:])
	return nil
}

// open decrypts the anchor and checks that it is the one that was signed.
func (c *Contents) open(sigKey ed25519.PublicKey) (*Anchor, error) {
	b, err := canonical.Decode(c.SessionAnchor, -1)
	if err != nil || len(b) < aes.BlockSize {
		return nil, fmt.Errorf("%w: SESSIONANCHOR: expected base64 of at least %d bytes", uid.ErrInvalid, aes.BlockSize)
	}
	crypt(sigKey, b)
	plain := b[aes.BlockSize:]
	if sum := sha512.Sum512(plain); canonical.Encode(sum[:]) != c.SessionAnchorHash {
		return nil, fmt.Errorf("%w: SESSIONANCHORHASH: not that of SESSIONANCHOR", uid.ErrInvalid)
	}
	a := new(Anchor)
	if err := canonical.Unmarshal(plain, a); err != nil {
		return nil, fmt.Errorf("%w: SESSIONANCHOR: %w", uid.ErrInvalid, err)
	}
	if !bytes.Equal(canonical.Marshal(a), plain) {
		return nil, fmt.Errorf("%w: SESSIONANCHOR: not in canonical form", uid.ErrInvalid)
	}
	if n := len(a.PFKeys); n == 0 || n > maxKeys {
		return nil, fmt.Errorf("%w: PFKEYS: expected 1 to %d keys, got %d", uid.ErrInvalid, maxKeys, n)
	}
	for i := range a.PFKeys {
		if err := a.PFKeys[i].Check(uid.ECDHE25519); err != nil {
			return nil, fmt.Errorf("PFKEYS[%d]: %w", i, err)
		}
	}
	return a, nil
}

// crypt encrypts or decrypts what stands behind the IV in b, in place.
func crypt(sigKey ed25519.PublicKey, b []byte) {
	sum := sha512.Sum512(sigKey)
	block, err := aes.NewCipher(sum[:32])
	if err != nil {
		panic(err) // the size is right
	}
	cipher.NewCTR(block, b[:aes.BlockSize]).XORKeyStream(b[aes.BlockSize:], b[aes.BlockSize:])
}
