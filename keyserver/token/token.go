// Package token is what calls of a keyserver are paid with.
//
// A scheme only says whether a token is good and under which name it is to be
// remembered; that it is spent once is for the keyserver to see to, in the same
// step as the call that it pays for.
//
// What never belongs here: storage, the network, what a call costs.
package token

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/keytree-bch/keytree/graph/durable"
	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/sigkey"
)

// ErrInvalid says that a token is not one that this keyserver takes. Nothing was
// changed; try again with another.
var ErrInvalid = errors.New("token not valid")

// ID is the name under which a token is remembered as spent.
type ID [32]byte

// Open takes everything, also nothing. It is for tests and for keyservers that
// give their service away.
type Open struct{}

// Check accepts any token; there is nothing to spend.
func (Open) Check(string) (id ID, spend bool, err error) { return ID{}, false, nil }

// PublicKey returns nothing.
func (Open) PublicKey() string { return "" }

// Issued takes tokens that a local issuer has signed, each once. A token is base64
// of a random number, 32 bytes, which is its ID, and the issuer's Ed25519
// signature over it, 64 bytes. The issuer can tell its tokens apart when they
// return.
type Issued struct {
	Domain string            // of the keyserver that the tokens are for
	Issuer ed25519.PublicKey // of the issuer
}

const issuedSize = 32 + ed25519.SignatureSize

// signed is what the issuer signs of a token for a domain.
func signed(domain string, id ID) []byte {
	return append([]byte("keytree token 1\n"+domain+"\n"), id[:]...)
}

// Check returns the token's ID, or ErrInvalid.
func (s Issued) Check(token string) (id ID, spend bool, err error) {
	if token == "" {
		return ID{}, false, fmt.Errorf("%w: expected one that the operator of the keyserver of %s has issued, got none", ErrInvalid, s.Domain)
	}
	b, err := canonical.Decode(token, issuedSize)
	if err != nil {
		return ID{}, false, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	id = ID(b)
	if !sigkey.Verify(s.Issuer, signed(s.Domain, id), b[len(id):]) {
		return ID{}, false, fmt.Errorf("%w: not signed by the issuer for %s", ErrInvalid, s.Domain)
	}
	return id, true, nil
}

// PublicKey returns the issuer's, base64.
func (s Issued) PublicKey() string { return canonical.Encode(s.Issuer) }

// Issuer makes tokens.
type Issuer struct{ key ed25519.PrivateKey }

// issuerMark begins an issuer's key file; the base64 of the key's seed follows.
const issuerMark = "keytree token issuer 1 "

// OpenIssuer reads the issuer's key from a file, or makes one there.
func OpenIssuer(path string) (*Issuer, error) {
	content, err := durable.ReadSecret(path)
	if errors.Is(err, fs.ErrNotExist) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		return &Issuer{key}, durable.CreateSecret(path, []byte(issuerMark+canonical.Encode(key.Seed())+"\n"))
	}
	if err != nil {
		return nil, err
	}
	text, ok := strings.CutPrefix(strings.TrimSuffix(string(content), "\n"), issuerMark)
	seed, err := canonical.Decode(text, ed25519.SeedSize)
	if !ok || err != nil {
		return nil, fmt.Errorf("%s: not the key file of a token issuer", path) // says nothing of the content
	}
	return &Issuer{ed25519.NewKeyFromSeed(seed)}, nil
}

// Public is what a keyserver needs to know of the issuer.
func (i *Issuer) Public() ed25519.PublicKey { return i.key.Public().(ed25519.PublicKey) }

// Issue makes a token for a keyserver's domain.
func (i *Issuer) Issue(domain string) (string, error) {
	var id ID
	if _, err := rand.Read(id[:]); err != nil {
		return "", err
	}
	return canonical.Encode(append(id[:], ed25519.Sign(i.key, signed(domain, id))...)), nil
}
