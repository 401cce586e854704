package hashchain

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/keytree-bch/keytree/keyserver/canonical"
)

// Hash is a SHA-256 hash.
type Hash [sha256.Size]byte

func (h Hash) String() string { return fmt.Sprintf("%x", h[:]) }

// Where the fields of an entry are, in bytes.
const (
	atType     = 32
	atNonce    = 33
	atHashID   = 41
	atCrUID    = 73
	atUIDIndex = 121

	// EntrySize is the size of an entry in bytes.
	EntrySize = 153
	// TextSize is the size of an entry as base64, in characters.
	TextSize = 204

	entryType = 0x01 // the only one there is
)

// Entry is one entry of the chain, in the form in which it is published and is a
// leaf of the Merkle tree: hash 32, type 1, NONCE 8, HashID 32, CrUID 48,
// UIDIndex 32.
type Entry [EntrySize]byte

// ErrEntry says that something is not an entry.
var ErrEntry = errors.New("not a hashchain entry")

// Parse reads an entry as base64. It checks the form alone, neither the hash nor
// where in a chain the entry stands. ErrEntry if the form is wrong.
func Parse(s string) (Entry, error) {
	b, err := canonical.Decode(s, EntrySize)
	if err != nil {
		return Entry{}, fmt.Errorf("%w: %w", ErrEntry, err)
	}
	if b[atType] != entryType {
		return Entry{}, fmt.Errorf("%w: expected type %02x, got %02x: is this keytree too old?", ErrEntry, entryType, b[atType])
	}
	return Entry(b), nil
}

// String returns the entry as base64, as on the wire.
func (e *Entry) String() string { return canonical.Encode(e[:]) }

// Hash is the entry's hash as it is written in the entry.
func (e *Entry) Hash() Hash { return Hash(e[:atType]) }

// Nonce is what the entry's keys are derived from.
func (e *Entry) Nonce() Nonce { return Nonce(e[atNonce:]) }

// HashID hides the identity that the entry is about.
func (e *Entry) HashID() Hash { return Hash(e[atHashID:]) }

// UIDIndex is where in the key repository the UID message is.
func (e *Entry) UIDIndex() Hash { return Hash(e[atUIDIndex:]) }

// hashAfter computes what the entry's hash must be behind prev.
func (e *Entry) hashAfter(prev Hash) Hash {
	var b [EntrySize]byte
	copy(b[copy(b[:], e[atType:]):], prev[:])
	return sha256.Sum256(b[:])
}

// Seal makes the entry for a UID message, given by its UIDHash, of an identity
// (mapped) behind the entry with hash prev, zero for position 0. It reads 8
// random bytes for the nonce, then 16 for the CBC IV.
func Seal(prev Hash, identity string, uidHash Hash, random io.Reader) (Entry, error) {
	e, err := Prepare(identity, uidHash, random)
	return e.Behind(prev), err
}

// Prepare makes the entry as Seal does, but for its hash, which says where it stands.
func Prepare(identity string, uidHash Hash, random io.Reader) (Entry, error) {
	var e Entry
	e[atType] = entryType
	iv := e[atCrUID : atCrUID+aes.BlockSize]
	if _, err := io.ReadFull(random, e[atNonce:atHashID]); err != nil {
		return e, fmt.Errorf("reading random bytes: %w", err)
	}
	if _, err := io.ReadFull(random, iv); err != nil {
		return e, fmt.Errorf("reading random bytes: %w", err)
	}
	k1, k2 := CKDF(e.Nonce())
	hashID, idKey := keyed(k1, identity), keyed(k2, identity)
	copy(e[atHashID:], hashID[:])
	cipher.NewCBCEncrypter(block(idKey), iv).CryptBlocks(e[atCrUID+aes.BlockSize:atUIDIndex], uidHash[:])
	index := Hash(sha256.Sum256(uidHash[:]))
	copy(e[atUIDIndex:], index[:])
	return e, nil
}

// Behind returns the entry with the hash that it has behind the entry with hash prev.
func (e Entry) Behind(prev Hash) Entry {
	sum := e.hashAfter(prev)
	copy(e[:], sum[:])
	return e
}

// Follows tells whether the entry has the hash that it has behind the entry with hash
// prev, zero for position 0. The hash covers all entries before. So nothing else has to be
// verified of a hashchain from one whose head is known.
func (e *Entry) Follows(prev Hash) bool { return e.hashAfter(prev) == e.Hash() }

// Matches reports whether the entry is about an identity (mapped).
func (e *Entry) Matches(identity string) bool {
	return keyed(firstKey(e.Nonce()), identity) == e.HashID()
}

// Open returns the UIDHash of the message that the entry points to. ok is false
// if the entry is not about the identity (mapped), or if what is in it is not
// the UIDHash that its UIDIndex is the hash of.
func (e *Entry) Open(identity string) (uidHash Hash, ok bool) {
	k1, k2 := CKDF(e.Nonce())
	if keyed(k1, identity) != e.HashID() {
		return Hash{}, false
	}
	crUID := e[atCrUID:atUIDIndex]
	cipher.NewCBCDecrypter(block(keyed(k2, identity)), crUID[:aes.BlockSize]).CryptBlocks(uidHash[:], crUID[aes.BlockSize:])
	if sha256.Sum256(uidHash[:]) != e.UIDIndex() {
		return Hash{}, false
	}
	return uidHash, true
}

// keyed returns SHA256(k ‖ identity).
func keyed(k key, identity string) Hash {
	var b [64 + 254]byte
	return sha256.Sum256(append(append(b[:0], k[:]...), identity...))
}

func block(key Hash) cipher.Block {
	b, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // the size is right
	}
	return b
}
