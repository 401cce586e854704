package tlog

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// Key is the private Ed25519 key of a log or of a witness, with its name. It may be used
// concurrently.
type Key struct {
	name    string
	private ed25519.PrivateKey
	text    string
}

// Kinds of signatures, as public keys begin with (signed-note).
const (
	kindLog     = 0x01
	kindWitness = 0x04
)

// GenerateKey makes a key. A name has neither spaces nor plus signs; that of a log is its
// origin. ErrFormat if the name is not allowed.
func GenerateKey(name string) (*Key, error) {
	text, _, err := note.GenerateKey(rand.Reader, name)
	if err != nil {
		return nil, err
	}
	return ParseKey(text)
}

// ParseKey reads a key in the form PRIVATE+KEY+name+id+base64. ErrFormat otherwise; the error
// says nothing of the key.
func ParseKey(text string) (*Key, error) {
	s, err := note.NewSigner(text)
	if err != nil {
		return nil, fmt.Errorf("%w: expected a key of the form PRIVATE+KEY+NAME+ID+BASE64", ErrFormat)
	}
	_, encoded, _ := strings.Cut(strings.TrimPrefix(text, "PRIVATE+KEY+"+s.Name()+"+"), "+")
	seed, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(seed) != 1+ed25519.SeedSize {
		return nil, fmt.Errorf("%w: expected an Ed25519 key", ErrFormat)
	}
	return &Key{s.Name(), ed25519.NewKeyFromSeed(seed[1:]), text}, nil
}

// Text is the private key as ParseKey reads it.
func (k *Key) Text() string { return k.text }

// Name is the key's name.
func (k *Key) Name() string { return k.name }

// Log returns what verifies the signatures of the log that has this key.
func (k *Key) Log() *PublicKey { return k.public(kindLog) }

// Witness returns what verifies the cosignatures of the witness that has this key.
func (k *Key) Witness() *PublicKey { return k.public(kindWitness) }

func (k *Key) public(kind byte) *PublicKey {
	return &PublicKey{k.name, kind, k.private.Public().(ed25519.PublicKey)}
}

// Sign returns a checkpoint, whose origin is the key's name, with the log's signature. Ed25519
// has one signature for one text: signing again gives the same bytes.
func (k *Key) Sign(c Checkpoint) []byte {
	text := c.Text()
	return append([]byte(text+"\n"), signatureLine(k.Log(), ed25519.Sign(k.private, []byte(text)))...)
}

// Cosign returns the line with a witness's signature of a signed checkpoint, made at a time,
// which counts in whole seconds. It does not look at the checkpoint: who cosigns has checked it.
func (k *Key) Cosign(signed []byte, at time.Time) []byte {
	text := signed[:bytes.LastIndex(signed, []byte("\n\n"))+1]
	seconds := uint64(max(0, at.Unix()))
	return signatureLine(k.Witness(), append(binary.BigEndian.AppendUint64(nil, seconds), ed25519.Sign(k.private, cosigned(seconds, text))...))
}

// cosigned is what a witness signs.
func cosigned(seconds uint64, text []byte) []byte {
	return append(fmt.Appendf(nil, "cosignature/v1\ntime %d\n", seconds), text...)
}

func signatureLine(v *PublicKey, signature []byte) []byte {
	id := binary.BigEndian.AppendUint32(nil, v.KeyHash())
	return fmt.Appendf(nil, "— %s %s\n", v.Name(), base64.StdEncoding.EncodeToString(append(id, signature...)))
}

// PublicKey is the public key of a log or a witness; it implements note.Verifier. It may be used
// concurrently.
type PublicKey struct {
	name string
	kind byte
	key  ed25519.PublicKey
}

// Name implements note.Verifier.
func (v *PublicKey) Name() string { return v.name }

// KeyHash implements note.Verifier.
func (v *PublicKey) KeyHash() uint32 {
	sum := sha256.Sum256(append([]byte(v.name+"\n"), v.encoded()...))
	return binary.BigEndian.Uint32(sum[:])
}

func (v *PublicKey) encoded() []byte { return append([]byte{v.kind}, v.key...) }

// Verify implements note.Verifier.
func (v *PublicKey) Verify(text, signature []byte) bool {
	if v.kind == kindWitness {
		if len(signature) != 8+ed25519.SignatureSize || binary.BigEndian.Uint64(signature) > math.MaxInt64 {
			return false
		}
		text, signature = cosigned(binary.BigEndian.Uint64(signature), text), signature[8:]
	}
	return ed25519.Verify(v.key, text, signature)
}

// String is the key as ParseLogKey or ParseWitnessKey reads it.
func (v *PublicKey) String() string {
	return fmt.Sprintf("%s+%08x+%s", v.name, v.KeyHash(), base64.StdEncoding.EncodeToString(v.encoded()))
}

// ParseLogKey reads the public key of a log, of the form NAME+ID+BASE64. ErrFormat otherwise,
// also for a witness's key.
func ParseLogKey(text string) (*PublicKey, error) { return parseKey(text, kindLog) }

// ParseWitnessKey reads the public key of a witness, of the form NAME+ID+BASE64. ErrFormat
// otherwise, also for a log's key.
func ParseWitnessKey(text string) (*PublicKey, error) { return parseKey(text, kindWitness) }

func parseKey(text string, kind byte) (*PublicKey, error) {
	name, rest, _ := strings.Cut(text, "+")
	id, encoded, _ := strings.Cut(rest, "+")
	key, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(key) != 1+ed25519.PublicKeySize || !nameAllowed(name) {
		return nil, fmt.Errorf("%w: expected an Ed25519 key of the form NAME+ID+BASE64, got %.120q", ErrFormat, text)
	}
	if key[0] != kind {
		return nil, fmt.Errorf("%w: expected a key whose signatures are of type %#04x, got %#04x: a log's are 0x01, a witness's 0x04", ErrFormat, kind, key[0])
	}
	v := &PublicKey{name, kind, key[1:]}
	if want := v.String(); text != want {
		return nil, fmt.Errorf("%w: expected the key ID %08x in %.120q, got %.20q", ErrFormat, v.KeyHash(), text, id)
	}
	return v, nil
}

// nameAllowed tells whether a note may be signed under a name.
func nameAllowed(name string) bool {
	text, err := note.NewEd25519VerifierKey(name, make(ed25519.PublicKey, ed25519.PublicKeySize))
	if err == nil {
		_, err = note.NewVerifier(text)
	}
	return err == nil
}

// cosignedAt returns when a witness has made a signature, in Unix seconds. The signature was
// verified before.
func cosignedAt(s note.Signature) uint64 {
	b, err := base64.StdEncoding.DecodeString(s.Base64)
	if err != nil || len(b) < 4+8 {
		return 0
	}
	return binary.BigEndian.Uint64(b[4:])
}

// sameKey tells whether two keys are one, whatever their names.
func sameKey(a, b *PublicKey) bool { return a.key.Equal(b.key) }
