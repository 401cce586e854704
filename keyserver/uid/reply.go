package uid

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"io"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
)

// Entry is what a keyserver keeps of a message that it has accepted.
type Entry struct {
	HashchainEntry      string `json:"HASHCHAINENTRY"` // base64
	HashchainPos        uint64 `json:"HASHCHAINPOS"`
	UIDMessageEncrypted string `json:"UIDMESSAGEENCRYPTED"` // Sealed.Encrypted
}

// Reply is an Entry under the signature of the key that was the keyserver's when
// the message was accepted.
type Reply struct {
	Entry           Entry  `json:"ENTRY"`
	ServerSignature string `json:"SERVERSIGNATURE"` // over canonical ENTRY, base64
}

// Sealed is a message that only who knows its hash can read.
type Sealed struct {
	Hash      hashchain.Hash // UIDHash, the key
	Encrypted string         // UIDIndex 32, IV 16, AES-256-CTR of the canonical message; base64
}

// Seal encrypts a message. It reads 16 random bytes for the IV.
func (m *Message) Seal(random io.Reader) (Sealed, error) {
	plain := m.Canonical()
	s := Sealed{Hash: sha256.Sum256(plain)}
	index := Index(s.Hash)
	var iv [aes.BlockSize]byte
	if _, err := io.ReadFull(random, iv[:]); err != nil {
		return s, fmt.Errorf("reading random bytes: %w", err)
	}
	crypt(s.Hash, iv[:], plain)
	b := append(append(append(make([]byte, 0, len(index)+len(iv)+len(plain)), index[:]...), iv[:]...), plain...)
	s.Encrypted = canonical.Encode(b)
	return s, nil
}

// crypt encrypts or decrypts b in place.
func crypt(key hashchain.Hash, iv, b []byte) {
	c, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // the size is right
	}
	cipher.NewCTR(c, iv).XORKeyStream(b, b)
}

// NewReply signs what became of a sealed message: its entry, at a position.
func NewReply(encrypted string, e *hashchain.Entry, position uint64, key ed25519.PrivateKey) *Reply {
	entry := Entry{e.String(), position, encrypted}
	return &Reply{entry, canonical.Encode(ed25519.Sign(key, canonical.Marshal(entry)))}
}

// ParseReply reads a reply in JSON. canonical.ErrMalformed if it is not exactly
// one.
func ParseReply(data []byte) (*Reply, error) {
	if len(data) > 2*MaxMessage {
		return nil, fmt.Errorf("%w: reply of %d bytes, at most %d are possible", canonical.ErrMalformed, len(data), 2*MaxMessage)
	}
	r := new(Reply)
	if err := canonical.Unmarshal(data, r); err != nil {
		return nil, err
	}
	return r, nil
}

// Canonical returns the reply's canonical bytes.
func (r *Reply) Canonical() []byte { return canonical.Marshal(r) }

// Verify returns ErrSignature unless SERVERSIGNATURE is by the keyserver's key.
func (r *Reply) Verify(server ed25519.PublicKey) error {
	return Verify("SERVERSIGNATURE", server, canonical.Marshal(r.Entry), r.ServerSignature)
}

// Open decrypts the message with its UIDHash, which whoever knows the identity
// has from the hashchain entry. ErrInvalid if the reply does not hold exactly
// the message with that hash; whether the entry in the reply is the one in the
// chain is to be checked besides.
func (r *Reply) Open(uidHash hashchain.Hash) (*Message, error) {
	b, err := canonical.Decode(r.Entry.UIDMessageEncrypted, -1)
	if err != nil {
		return nil, fmt.Errorf("%w: UIDMESSAGEENCRYPTED: %w", ErrInvalid, err)
	}
	index := Index(uidHash)
	if len(b) < len(index)+aes.BlockSize || !bytes.HasPrefix(b, index[:]) {
		return nil, fmt.Errorf("%w: UIDMESSAGEENCRYPTED: expected UIDIndex %s", ErrInvalid, index)
	}
	iv, plain := b[len(index):len(index)+aes.BlockSize], b[len(index)+aes.BlockSize:]
	crypt(uidHash, iv, plain)
	if sha256.Sum256(plain) != uidHash {
		return nil, fmt.Errorf("%w: UIDMESSAGEENCRYPTED: not the message with UIDHash %s", ErrInvalid, uidHash)
	}
	m, err := Parse(plain)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(m.Canonical(), plain) {
		return nil, fmt.Errorf("%w: UIDMESSAGEENCRYPTED: not in canonical form", ErrInvalid)
	}
	return m, nil
}

// OpenFor opens the message of an identity (mapped) with the entry that points to it, and
// checks it (Message.Check): errors are those of Open and Check, or say whose the two are.
// Whether the reply is about this entry, and who signed reply and message, is to be checked
// besides.
func (r *Reply) OpenFor(identity string, entry *hashchain.Entry) (*Message, error) {
	uidHash, ok := entry.Open(identity)
	if !ok {
		return nil, fmt.Errorf("the entry is not of %s, or does not hold the UIDHash of its message", identity)
	}
	m, err := r.Open(uidHash)
	if err == nil {
		err = m.Check()
	}
	if err == nil && m.Content.Identity != identity {
		err = fmt.Errorf("the entry is of %s, but its message of %s", identity, m.Content.Identity)
	}
	return m, err
}
