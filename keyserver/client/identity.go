package client

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/keyinit"
	"github.com/keytree-bch/keytree/keyserver/session"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// ErrNoIdentity says that the folder has no such identity of the user's own.
var ErrNoIdentity = errors.New("no such identity of yours here")

// Stage is how far an identity has come.
type Stage string

// The stages of an identity.
const (
	// Pending: a message was made, and perhaps sent, but is not in the copy of the
	// hashchain. The call that made it goes on with it when it is made again.
	Pending Stage = "pending"
	// Registered: the message's entry was seen in the hashchain.
	Registered Stage = "registered"
	// Confirmed: it still was when others had followed.
	Confirmed Stage = "confirmed"
)

// Identity is one of the user's own, with its private keys, which only are in memory
// and, encrypted, in its file. It belongs to a Client, and to its goroutine.
type Identity struct {
	client *Client
	vault  *vault
	record record
}

// record is what is encrypted. Private keys are seeds (Ed25519) or scalars (X25519).
type record struct {
	Identity string `json:"identity"`
	// Message is the last that was registered, with its entry's position and the
	// keyserver's reply; nil before the first.
	Message   *uid.Message `json:"message"`
	Position  uint64       `json:"position"`
	Reply     *uid.Reply   `json:"reply"`
	Confirmed bool         `json:"confirmed"`

	SigKey   []byte    `json:"sig_key"`
	PubKeys  [][]byte  `json:"pub_keys"` // of this and earlier messages
	Pending  *pending  `json:"pending"`
	KeyInits []ownInit `json:"key_inits"`
	MsgCount uint64    `json:"msg_count"` // of the last KeyInit
	Sessions []Session `json:"sessions"`
}

// Names returns the user's own identities, sorted.
func (c *Client) Names() ([]string, error) {
	files, err := os.ReadDir(c.path(identitiesDir))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, f := range files {
		if filepath.Ext(f.Name()) != ".json" {
			continue
		}
		var v vaultFile
		if err := readJSON(c.path(identitiesDir, f.Name()), &v); err != nil {
			return nil, err
		}
		names = append(names, v.Identity)
	}
	slices.Sort(names)
	return names, nil
}

// Has reports whether an identity is one of the user's own.
func (c *Client) Has(identity string) (bool, error) {
	identity, err := uid.Map(identity)
	if err != nil {
		return false, err
	}
	_, err = os.Stat(c.path(identitiesDir, hashName(identity)))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// OpenIdentity opens one of the user's own. ErrNoIdentity, ErrPassphrase, ErrDamaged.
func (c *Client) OpenIdentity(identity string, passphrase []byte) (*Identity, error) {
	identity, err := uid.Map(identity)
	if err != nil {
		return nil, err
	}
	id := &Identity{client: c}
	id.vault, err = openVault(c.path(identitiesDir, hashName(identity)), passphrase, &id.record)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", ErrNoIdentity, identity)
	}
	if err != nil {
		return nil, err
	}
	if id.record.Identity != identity || id.record.Message == nil && id.record.Pending == nil {
		return nil, fmt.Errorf("%w: %s is not of %s", ErrDamaged, id.vault.path, identity)
	}
	return id, nil
}

func (c *Client) newIdentity(identity string, passphrase []byte) (*Identity, error) {
	v, err := newVault(c.path(identitiesDir, hashName(identity)), identity, passphrase, c.opt.argonMemory)
	return &Identity{client: c, vault: v, record: record{Identity: identity}}, err
}

func (id *Identity) save() error { return id.vault.write(id.record) }

// Name is the identity, mapped.
func (id *Identity) Name() string { return id.record.Identity }

// Stage is how far it has come.
func (id *Identity) Stage() Stage {
	switch {
	case id.record.Pending != nil:
		return Pending
	case id.record.Confirmed:
		return Confirmed
	}
	return Registered
}

// Message is the last UID message that was registered, nil before the first.
func (id *Identity) Message() *uid.Message { return id.record.Message }

// Position is that of its entry.
func (id *Identity) Position() uint64 { return id.record.Position }

// PrivateKeys are those of PUBKEYS of the present and earlier messages.
func (id *Identity) PrivateKeys() ([]*ecdh.PrivateKey, error) {
	var keys []*ecdh.PrivateKey
	for _, b := range id.record.PubKeys {
		k, err := ecdh.X25519().NewPrivateKey(b)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: a private key", ErrDamaged, id.vault.path)
		}
		keys = append(keys, k)
	}
	return keys, nil
}

func (id *Identity) sigKey() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(id.record.SigKey) }

// ownInit is a KeyInit that was made, and its private key.
type ownInit struct {
	Message *keyinit.KeyInit `json:"message"`
	Private []byte           `json:"private"`
}

// ErrUsed says that a session is known, or another began on its KeyInit.
var ErrUsed = errors.New("session or KeyInit was used before")

// Session is what is kept of a session with another user (package session).
type Session struct {
	ID      [sha256.Size]byte `json:"id"`
	KeyInit [sha256.Size]byte `json:"key_init"` // Digest of the own one that it began on; zero if the other began it
	State   []byte            `json:"state"`    // secret
	Text    []byte            `json:"text"`     // of the first message
	Until   uint64            `json:"until"`    // may be forgotten then, Unix seconds

	// Unsent is what is kept of a session that was begun here until somebody has taken the
	// first message for sure; nil otherwise.
	Unsent *Unsent `json:"unsent,omitempty"`
	// Answer is what came to the first message, until it was shown (EndSession); nil before.
	// State is empty then.
	Answer *Received `json:"answer,omitempty"`
}

// Unsent is a first message that may have been sent or not.
type Unsent struct {
	Letter  *session.Letter   `json:"letter"`
	KeyInit [sha256.Size]byte `json:"key_init"` // Digest of the other side's
	Draft   [sha256.Size]byte `json:"draft"`    // what the letter was made of (Draft.digest)
}

// KeyInit returns an own KeyInit by its Digest, and the private key of its first
// PFKEYS. ErrUnknown if it was used up or never made.
func (id *Identity) KeyInit(digest [sha256.Size]byte) (*keyinit.KeyInit, *ecdh.PrivateKey, error) {
	for _, o := range id.record.KeyInits {
		if o.Message.Digest() != digest {
			continue
		}
		private, err := ecdh.X25519().NewPrivateKey(o.Private)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: %s: private key of a KeyInit", ErrDamaged, id.vault.path)
		}
		return o.Message, private, nil
	}
	return nil, nil, fmt.Errorf("%w: KeyInit %x", ErrUnknown, digest[:4])
}

// BeginSession records a session, and deletes the private key of the KeyInit that it
// began on unless that is for fallback. ErrUsed, and nothing changes, if the session
// is recorded already or the KeyInit was used up.
func (id *Identity) BeginSession(s Session) error {
	same := func(o Session) bool { return o.ID == s.ID }
	if slices.ContainsFunc(id.record.Sessions, same) {
		return ErrUsed
	}
	before := id.record
	if s.KeyInit != [sha256.Size]byte{} {
		i := slices.IndexFunc(id.record.KeyInits, func(o ownInit) bool { return o.Message.Digest() == s.KeyInit })
		if i < 0 {
			return ErrUsed
		}
		if !id.record.KeyInits[i].Message.Contents.Fallback {
			id.record.KeyInits = slices.Concat(id.record.KeyInits[:i], id.record.KeyInits[i+1:])
		}
	}
	id.record.Sessions = append(slices.Clip(id.record.Sessions), s)
	if err := id.save(); err != nil {
		id.record = before
		return err
	}
	return nil
}

// Sessions returns all recorded sessions, the oldest first.
func (id *Identity) Sessions() []Session { return slices.Clone(id.record.Sessions) }

// Session returns a recorded session; ok is false if there is none.
func (id *Identity) Session(sessionID [sha256.Size]byte) (s Session, ok bool) {
	for _, s := range id.record.Sessions {
		if s.ID == sessionID {
			return s, true
		}
	}
	return Session{}, false
}

// EndSession forgets a session.
func (id *Identity) EndSession(sessionID [sha256.Size]byte) error {
	id.record.Sessions = slices.DeleteFunc(slices.Clone(id.record.Sessions), func(s Session) bool { return s.ID == sessionID })
	return id.save()
}

// tidy forgets what nobody can use any more. It does not save.
func (id *Identity) tidy() {
	now := id.client.now()
	id.record.Sessions = slices.DeleteFunc(slices.Clone(id.record.Sessions), func(s Session) bool { return s.Until < now })
	id.record.KeyInits = slices.DeleteFunc(slices.Clone(id.record.KeyInits), func(o ownInit) bool {
		return o.Message.Contents.NotAfter+KeyInitGrace < now
	})
}

// newSigKey returns the seed of a new signature key.
func newSigKey() []byte {
	seed := make([]byte, ed25519.SeedSize)
	rand.Read(seed) // never fails
	return seed
}

func publicOf(seed []byte) ed25519.PublicKey {
	return ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)
}

// newPubKey returns a new key for key agreement and its public part.
func newPubKey() (private, public []byte, err error) {
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	return k.Bytes(), k.PublicKey().Bytes(), nil
}

// sent tells whether the message with a UIDHash is one that may have been sent.
func (p *pending) sent(uidHash hashchain.Hash) bool {
	return slices.ContainsFunc(p.Hashes, func(h []byte) bool { return bytes.Equal(h, uidHash[:]) })
}

// set replaces the pending message.
func (p *pending) set(m *uid.Message, now uint64) {
	hash := m.Hash()
	p.Message, p.Made, p.Hashes, p.Acknowledged = m, now, append(p.Hashes, hash[:]), nil
}

// domainOf returns the domain of an identity in mapped form.
func domainOf(identity string) string {
	_, domain, _ := strings.Cut(identity, "@")
	return domain
}
