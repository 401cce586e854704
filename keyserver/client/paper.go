package client

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"strings"
	"unicode"
)

// ErrPaperKey says that a text is not a paper key, or not the one of the identity.
// It never holds any of it.
var ErrPaperKey = errors.New("wrong paper key")

const (
	paperCheck = 3 // bytes of checksum, which makes whole base32 characters of all
	paperGroup = 4 // characters
)

// PaperKey writes a private escrow key for paper: base32 of its 32 bytes of seed
// and 3 of checksum, 56 characters in groups of four. It is a secret.
func PaperKey(key ed25519.PrivateKey) string {
	seed := key.Seed()
	text := base32.StdEncoding.EncodeToString(append(seed, paperSum(seed)...))
	var groups []string
	for ; len(text) > 0; text = text[paperGroup:] {
		groups = append(groups, text[:paperGroup])
	}
	return strings.Join(groups, " ")
}

// ParsePaperKey reads what somebody typed from paper: case, white space and hyphens
// do not matter. ErrPaperKey if there is a mistake in it.
func ParsePaperKey(text string) (ed25519.PrivateKey, error) {
	compact := strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || r == '-' {
			return -1
		}
		return unicode.ToUpper(r)
	}, text)
	b, err := base32.StdEncoding.DecodeString(compact)
	if err != nil || len(b) != ed25519.SeedSize+paperCheck {
		return nil, errors.Join(ErrPaperKey, errors.New("expected 56 letters and digits from 2 to 7"))
	}
	seed, sum := b[:ed25519.SeedSize], b[ed25519.SeedSize:]
	if !bytes.Equal(sum, paperSum(seed)) {
		return nil, errors.Join(ErrPaperKey, errors.New("the checksum does not match: a character is wrong"))
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

func paperSum(seed []byte) []byte {
	sum := sha256.Sum256(append([]byte("keytree paper key\n"), seed...))
	return sum[:paperCheck]
}
