package keyserver

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"

	"github.com/keytree-bch/keytree/graph/durable"
	"github.com/keytree-bch/keytree/keyserver/canonical"
)

// serverKeys are the keyserver's secrets.
type serverKeys struct {
	sign  ed25519.PrivateKey
	agree *ecdh.PrivateKey // of the key in PUBKEYS, which profile 1.0 demands
}

func (k *serverKeys) public() ed25519.PublicKey { return k.sign.Public().(ed25519.PublicKey) }

// keyFile is the content of the key file.
type keyFile struct {
	Agree string `json:"ECDHE25519"` // private key, base64
	Sign  string `json:"ED25519"`    // seed, base64
}

func generateSign() (ed25519.PrivateKey, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	return key, err
}

func generateKeys() (*serverKeys, error) {
	sign, err := generateSign()
	if err != nil {
		return nil, err
	}
	agree, err := ecdh.X25519().GenerateKey(rand.Reader)
	return &serverKeys{sign, agree}, err
}

func (k *serverKeys) create(path string) error {
	content := canonical.Marshal(keyFile{canonical.Encode(k.agree.Bytes()), canonical.Encode(k.sign.Seed())})
	return durable.CreateSecret(path, append(content, '\n'))
}

// readKeys reads a key file; nil if there is none.
func readKeys(path string) (*serverKeys, error) {
	content, err := durable.ReadSecret(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	wrong := fmt.Errorf("%w: %s: not a keyserver's key file", ErrMismatch, path) // says nothing of the content
	var f keyFile
	if canonical.Unmarshal(bytes.TrimSpace(content), &f) != nil {
		return nil, wrong
	}
	seed, err := canonical.Decode(f.Sign, ed25519.SeedSize)
	if err != nil {
		return nil, wrong
	}
	scalar, err := canonical.Decode(f.Agree, 32)
	if err != nil {
		return nil, wrong
	}
	agree, err := ecdh.X25519().NewPrivateKey(scalar)
	if err != nil {
		return nil, wrong
	}
	return &serverKeys{ed25519.NewKeyFromSeed(seed), agree}, nil
}

// nextFile is where a new key waits until the chain names it: a key is on disk
// before its entry, and takes the old one's place after it.
func nextFile(path string) string { return path + ".next" }

// settleKeys returns the keys whose public keys are those that the chain names, for
// signatures and for key agreement, and finishes a change of keys that was interrupted.
func settleKeys(path string, public ed25519.PublicKey, agree []byte) (*serverKeys, error) {
	keys, settle, err := findKeys(path, public, agree)
	if err == nil {
		err = settle()
	}
	return keys, err
}

// findKeys returns the keys whose public keys are those that the chain names, and what is
// left to do of a change of keys that was interrupted.
func findKeys(path string, public ed25519.PublicKey, agree []byte) (keys *serverKeys, settle func() error, err error) {
	keys, err = readKeys(path)
	if err != nil {
		return nil, nil, err
	}
	next, err := readKeys(nextFile(path))
	if err != nil {
		return nil, nil, err
	}
	chosen, file := keys, path
	if next != nil && next.public().Equal(public) {
		chosen, file = next, nextFile(path)
	}
	if chosen != nil && chosen.public().Equal(public) && !bytes.Equal(chosen.agree.PublicKey().Bytes(), agree) {
		return nil, nil, fmt.Errorf("%w: %s holds another ECDHE25519 key than the last one that the hashchain names, %s: restore the key file",
			ErrMismatch, file, canonical.Encode(agree))
	}
	switch {
	case chosen == next && next != nil:
		return next, func() error { return durable.Rename(nextFile(path), path) }, nil
	case keys == nil:
		return nil, nil, fmt.Errorf("%w: %s is missing: restore the key file of this keyserver", ErrMismatch, path)
	case !keys.public().Equal(public):
		return nil, nil, fmt.Errorf("%w: %s holds another key than the last one that the hashchain names, %s",
			ErrMismatch, path, canonical.Encode(public))
	case next != nil: // its entry was never stored
		return keys, func() error { return durable.Remove(nextFile(path)) }, nil
	}
	return keys, func() error { return nil }, nil
}
