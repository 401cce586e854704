package session

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"fmt"
	"io"

	"github.com/keytree-bch/keytree/keyserver/uid"
)

// What keys are derived for (keyserver/session/SPEC.md, "Key schedule"). Each use has its own label,
// which names the format and the ciphersuite.
const (
	format = "keytree session 1: " + uid.Ciphersuite + ": "

	labelAgreement = format + "key agreement"
	labelSender    = format + "sender"
	labelContent   = format + "first content"
	labelRoot      = format + "root"
	labelID        = format + "session ID"
	labelAnswer    = format + "answer content"
)

const (
	tagSize  = sha512.Size
	rootSize = sha512.Size
	// boxKeySize is the size of what a box is sealed with: AES-256 key, IV, HMAC key.
	boxKeySize = 32 + aes.BlockSize + sha512.Size
)

// transcript hashes everything that both sides must have the same of. The parts
// have fixed sizes or are the last.
func transcript(parts ...[]byte) []byte {
	h := sha512.New()
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

// agree is the agreement of one private with some public keys, one after the
// other. It fails on public keys that lead to the same secret whatever the private
// key is.
func agree(pairs ...pair) ([]byte, error) {
	var secret []byte
	for _, p := range pairs {
		s, err := p.private.ECDH(p.public)
		if err != nil {
			return nil, fmt.Errorf("key agreement: %w", err)
		}
		secret = append(secret, s...)
	}
	return secret, nil
}

type pair struct {
	private *ecdh.PrivateKey
	public  *ecdh.PublicKey
}

// extract and expand are those of HKDF with SHA-512. They cannot fail with the
// sizes that are used here.
func extract(secret, salt []byte) []byte {
	b, err := hkdf.Extract(sha512.New, secret, salt)
	if err != nil {
		panic(err)
	}
	return b
}

func expand(key []byte, label string, context []byte, size int) []byte {
	b, err := hkdf.Expand(sha512.New, key, label+string(context), size)
	if err != nil {
		panic(err)
	}
	return b
}

// seal encrypts a box with a key that seals nothing else: AES-256-CTR, then
// HMAC-SHA512 over what came of it. The key depends on everything that is
// authenticated besides.
func seal(key, plain []byte) []byte {
	box := make([]byte, len(plain), len(plain)+tagSize)
	stream(key).XORKeyStream(box, plain)
	return append(box, tag(key, box)...)
}

// open undoes seal. ErrForged if anything is not as it was sealed.
func open(key, box []byte) ([]byte, error) {
	n := len(box) - tagSize
	if n < 0 || subtle.ConstantTimeCompare(tag(key, box[:n]), box[n:]) != 1 {
		return nil, fmt.Errorf("%w: changed, forged, or made for other keys", ErrForged)
	}
	plain := make([]byte, n)
	stream(key).XORKeyStream(plain, box[:n])
	return plain, nil
}

func stream(key []byte) cipher.Stream {
	block, err := aes.NewCipher(key[:32])
	if err != nil {
		panic(err) // the size is right
	}
	return cipher.NewCTR(block, key[32:32+aes.BlockSize])
}

func tag(key, sealed []byte) []byte {
	h := hmac.New(sha512.New, key[32+aes.BlockSize:])
	h.Write(sealed)
	return h.Sum(nil)
}

// firstKeys are the keys of a first message, as far as they are known: the sender's
// box comes before the sender's key.
type firstKeys struct {
	header  []byte
	keyInit *ecdh.PublicKey // recipient's, for this session
	long    *ecdh.PublicKey // recipient's, of the UID message
	prk     []byte
}

// newFirstKeys takes the agreements of the sender's session key with the
// recipient's two keys.
func newFirstKeys(header []byte, keyInit, long *ecdh.PublicKey, secret []byte) *firstKeys {
	salt := transcript([]byte(labelAgreement), header, keyInit.Bytes(), long.Bytes())
	return &firstKeys{header, keyInit, long, extract(secret, salt)}
}

func (k *firstKeys) transcript(boxes ...[]byte) []byte {
	parts := [][]byte{k.header, k.keyInit.Bytes(), k.long.Bytes()}
	return transcript(append(parts, boxes...)...)
}

func (k *firstKeys) sender() []byte { return expand(k.prk, labelSender, k.transcript(), boxKeySize) }

// mix takes the agreement of the sender's identity key with the recipient's KeyInit.
func (k *firstKeys) mix(secret []byte) { k.prk = extract(secret, k.prk) }

func (k *firstKeys) content(sender []byte) []byte {
	return expand(k.prk, labelContent, k.transcript(sender), boxKeySize)
}

// root returns what the answer's keys depend on.
func (k *firstKeys) root(sender, content []byte) (root []byte) {
	return expand(k.prk, labelRoot, k.transcript(sender, content), rootSize)
}

// sessionID names the session whose root is given: only its two sides can tell to
// which first message an answer belongs.
func sessionID(root []byte) (id [sha256.Size]byte) {
	copy(id[:], expand(root, labelID, nil, len(id)))
	return id
}

// answerKey takes the agreements of the recipient's session key with the sender's
// session and identity keys.
func answerKey(root, header, secret []byte) []byte {
	return expand(extract(secret, root), labelAnswer, transcript(header), boxKeySize)
}

// newKey makes a private key from 32 random bytes.
func newKey(random io.Reader) (*ecdh.PrivateKey, error) {
	b := make([]byte, keySize)
	if _, err := io.ReadFull(random, b); err != nil {
		return nil, fmt.Errorf("reading random bytes: %w", err)
	}
	return ecdh.X25519().NewPrivateKey(b)
}

// publicOf returns the key of an entry that has passed its Check.
func publicOf(e *uid.KeyEntry) (*ecdh.PublicKey, error) {
	return ecdh.X25519().NewPublicKey(e.Public())
}
