package uid

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
)

// MaxMessage is the most bytes that a message may have, as it arrives and in
// canonical form.
const MaxMessage = 64 << 10

// What is wrong with a message. Its author must correct it; canonical.ErrMalformed
// is the fourth of them.
var (
	// ErrInvalid says that a message is not what its profile allows.
	ErrInvalid = errors.New("invalid message")
	// ErrSignature says that a signature that must be there is missing or false, or
	// that one is there that must not be.
	ErrSignature = errors.New("wrong signature")
	// ErrExpired says that a message is not valid at this time, or for too long.
	ErrExpired = errors.New("not valid at this time")
)

// The fields of each type stand in the order of their names: canonical JSON.

// KeyEntry is a public key and what it is for.
type KeyEntry struct {
	Ciphersuite string `json:"CIPHERSUITE"`
	Function    string `json:"FUNCTION"`
	Hash        string `json:"HASH"`   // SHA-512 of the key, base64
	PubKey      string `json:"PUBKEY"` // base64
}

// KeyList is a list of keys. Its empty form is [], also where it was null.
type KeyList []KeyEntry

// MarshalJSON implements json.Marshaler.
func (l KeyList) MarshalJSON() ([]byte, error) {
	if l == nil {
		return []byte("[]"), nil
	}
	return json.Marshal([]KeyEntry(l))
}

// Preferences are what an identity wants of those who write to it.
type Preferences struct {
	Ciphersuites []string `json:"CIPHERSUITES"` // the most preferred first
	ForwardSec   string   `json:"FORWARDSEC"`   // one of the constants below
}

// Forward security preferences.
const (
	Strict    = "strict"    // no key may be used twice for a first message
	Mandatory = "mandatory" // a KeyInit's key must be used
	Optional  = "optional"  // the keys of the UID message will do
)

// ChainLink ties the entry to another keyserver's hashchain.
type ChainLink struct {
	Authoritative bool     `json:"AUTHORITATIVE"`
	Domains       []string `json:"DOMAINS"`  // that the other keyserver serves
	Identity      string   `json:"IDENTITY"` // there
	Last          string   `json:"LAST"`     // the other chain's last entry, base64
	URI           []string `json:"URI"`      // of the other keyserver
}

// Content is what is signed of a Message.
type Content struct {
	ChainLink   *ChainLink  `json:"CHAINLINK"`
	Identity    string      `json:"IDENTITY"`  // mapped
	LastEntry   string      `json:"LASTENTRY"` // the last entry of the chain that the author knew, base64
	MixAddress  string      `json:"MIXADDRESS"`
	MsgCount    uint64      `json:"MSGCOUNT"`   // 0, then one more with each message
	NotAfter    uint64      `json:"NOTAFTER"`   // Unix seconds
	NotBefore   uint64      `json:"NOTBEFORE"`  // Unix seconds
	NymAddress  string      `json:"NYMADDRESS"` // base64
	Preferences Preferences `json:"PREFERENCES"`
	PubKeys     KeyList     `json:"PUBKEYS"`  // for key agreement, in the order of their hashes
	RepoURIs    []string    `json:"REPOURIS"` // of the KeyInit repositories
	// SigEscrow may replace a lost SigKey. Absent and empty mean the same but are
	// different bytes: what came stays.
	SigEscrow *KeyEntry `json:"SIGESCROW"`
	SigKey    KeyEntry  `json:"SIGKEY"`
	Version   string    `json:"VERSION"` // the profile
}

// Message is a UID message. Signatures are Ed25519 over the canonical Content,
// base64.
type Message struct {
	EscrowSignature string  `json:"ESCROWSIGNATURE"` // by the previous SIGESCROW
	LinkAuthority   string  `json:"LINKAUTHORITY"`   // by the keyserver's operator, for authoritative links
	SelfSignature   string  `json:"SELFSIGNATURE"`   // by SIGKEY
	Content         Content `json:"UIDContent"`
	UserSignature   string  `json:"USERSIGNATURE"` // by the previous SIGKEY
}

// Parse reads a message in JSON, its fields in any order. canonical.ErrMalformed
// if it is not exactly one. Whether its values are allowed, Check says.
func Parse(data []byte) (*Message, error) {
	if len(data) > MaxMessage {
		return nil, fmt.Errorf("%w: UID message of %d bytes, at most %d are allowed", canonical.ErrMalformed, len(data), MaxMessage)
	}
	m := new(Message)
	if err := canonical.Unmarshal(data, m); err != nil {
		return nil, err
	}
	return m, nil
}

// Canonical returns the bytes that are signed.
func (c *Content) Canonical() []byte { return canonical.Marshal(c) }

// Canonical returns the bytes that are hashed and encrypted.
func (m *Message) Canonical() []byte { return canonical.Marshal(m) }

// Hash is the UIDHash, which also is the key to the message's encrypted form.
func (m *Message) Hash() hashchain.Hash { return sha256.Sum256(m.Canonical()) }

// Index is the UIDIndex of a message with a UIDHash: where the key repository
// keeps it.
func Index(uidHash hashchain.Hash) hashchain.Hash { return sha256.Sum256(uidHash[:]) }

// escrow returns the escrow key, nil where it is absent or empty.
func (c *Content) escrow() *KeyEntry {
	if c.SigEscrow == nil || *c.SigEscrow == (KeyEntry{}) {
		return nil
	}
	return c.SigEscrow
}
