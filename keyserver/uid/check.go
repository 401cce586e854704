package uid

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha512"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/sigkey"
)

// Profiles, the values of VERSION.
const (
	Version10 = "1.0"
	Version11 = "1.1"
)

// Names that appear in key entries.
const (
	Ciphersuite = "NACL HKDF AES256-CTR SHA512-HMAC ED25519 ECDHE25519" // the only one
	Ed25519     = "ED25519"                                             // FUNCTION of a signature key
	ECDHE25519  = "ECDHE25519"                                          // FUNCTION of a key for X25519
)

// KeyserverLocalpart is the localpart of a keyserver's own identity.
const KeyserverLocalpart = "keyserver"

// Limits of the lists in a message of profile 1.1.
const (
	maxPubKeys     = 16
	maxRepoURIs    = 8
	maxLinkURIs    = 5
	maxLinkDomains = 100
	maxURI         = 254  // bytes, also of a mix address
	maxNymAddress  = 4096 // bytes
)

// NewKeyEntry describes a public key of 32 bytes; function is Ed25519 or
// ECDHE25519.
func NewKeyEntry(function string, public []byte) KeyEntry {
	sum := sha512.Sum512(public)
	return KeyEntry{Ciphersuite, function, canonical.Encode(sum[:]), canonical.Encode(public)}
}

// Check returns ErrInvalid unless the entry is a key for a function, with the hash
// of that key. A key for signatures must pass sigkey.Check.
func (k *KeyEntry) Check(function string) error {
	if k.Ciphersuite != Ciphersuite {
		return fmt.Errorf("%w: CIPHERSUITE: expected %q", ErrInvalid, Ciphersuite)
	}
	if k.Function != function {
		return fmt.Errorf("%w: FUNCTION: expected %s", ErrInvalid, function)
	}
	public, err := canonical.Decode(k.PubKey, ed25519.PublicKeySize)
	if err != nil {
		return fmt.Errorf("%w: PUBKEY: %w", ErrInvalid, err)
	}
	if function == Ed25519 {
		if err := sigkey.Check(public); err != nil {
			return fmt.Errorf("%w: PUBKEY: %w", ErrInvalid, err)
		}
	}
	if want := NewKeyEntry(function, public).Hash; k.Hash != want {
		return fmt.Errorf("%w: HASH: expected the SHA-512 of PUBKEY, %s", ErrInvalid, want)
	}
	return nil
}

// Public returns the key; nil if the entry does not pass Check.
func (k *KeyEntry) Public() []byte {
	public, err := canonical.Decode(k.PubKey, ed25519.PublicKeySize)
	if err != nil {
		return nil
	}
	return public
}

// CheckKeys returns an error of sigkey.Check unless the keys that sign for the identity,
// SIGKEY and SIGESCROW, pass it. Messages that a keyserver entered before keytree
// refused such keys may fail: nobody can rely on what is signed under them.
func (m *Message) CheckKeys() error {
	err := sigkey.Check(m.Content.SigKey.Public())
	if escrow := m.Content.escrow(); escrow != nil {
		err = errors.Join(err, sigkey.Check(escrow.Public()))
	}
	return err
}

// Check returns ErrInvalid unless the message is what its profile allows. It looks
// at the message alone: not at signatures, the time, or what came before.
func (m *Message) Check() error {
	c := &m.Content
	if c.Version != Version10 && c.Version != Version11 {
		return fmt.Errorf("%w: VERSION: expected %q or %q", ErrInvalid, Version10, Version11)
	}
	if err := CheckMapped(c.Identity); err != nil {
		return fmt.Errorf("IDENTITY: %w", err)
	}
	local, domain, _ := Split(c.Identity)
	if err := CheckDomain(domain); err != nil {
		return fmt.Errorf("IDENTITY: domain: %w", err)
	}
	if first := local == KeyserverLocalpart && c.MsgCount == 0 && c.LastEntry == ""; !first {
		if _, err := hashchain.Parse(c.LastEntry); err != nil {
			return fmt.Errorf("%w: LASTENTRY: %w", ErrInvalid, err)
		}
	}
	if err := c.SigKey.Check(Ed25519); err != nil {
		return fmt.Errorf("SIGKEY: %w", err)
	}
	if err := c.checkPubKeys(); err != nil {
		return err
	}
	if !slices.Equal(c.Preferences.Ciphersuites, []string{Ciphersuite}) {
		return fmt.Errorf("%w: PREFERENCES.CIPHERSUITES: expected %q alone", ErrInvalid, Ciphersuite)
	}
	if c.Preferences.ForwardSec != Optional && c.MixAddress+c.NymAddress != "" {
		return fmt.Errorf("%w: MIXADDRESS, NYMADDRESS: must be empty unless FORWARDSEC is %q", ErrInvalid, Optional)
	}
	checkProfile := m.check10
	if c.Version == Version11 {
		checkProfile = m.check11
	}
	if err := checkProfile(); err != nil {
		return err
	}
	if n := len(m.Canonical()); n > MaxMessage {
		return fmt.Errorf("%w: UID message of %d bytes, at most %d are allowed", ErrInvalid, n, MaxMessage)
	}
	return nil
}

func (c *Content) checkPubKeys() error {
	if n := len(c.PubKeys); n == 0 || n > maxPubKeys {
		return fmt.Errorf("%w: PUBKEYS: expected 1 to %d keys, got %d", ErrInvalid, maxPubKeys, n)
	}
	var last []byte
	for i := range c.PubKeys {
		k := &c.PubKeys[i]
		if err := k.Check(ECDHE25519); err != nil {
			return fmt.Errorf("PUBKEYS[%d]: %w", i, err)
		}
		sum, _ := canonical.Decode(k.Hash, sha512.Size)
		if i > 0 && bytes.Compare(last, sum) >= 0 {
			return fmt.Errorf("%w: PUBKEYS[%d]: not in the order of the hashes", ErrInvalid, i)
		}
		last = sum
	}
	return nil
}

// check10 checks what profile 1.0 demands beyond what all do.
func (m *Message) check10() error {
	c := &m.Content
	_, domain, _ := Split(c.Identity)
	for _, demand := range []struct {
		met  bool
		text string
	}{
		{c.Preferences.ForwardSec == Strict, "PREFERENCES.FORWARDSEC: expected " + Strict},
		{len(c.PubKeys) == 1, "PUBKEYS: expected one key"},
		{slices.Equal(c.RepoURIs, []string{domain}), "REPOURIS: expected the identity's domain alone"},
		{c.escrow() == nil, "SIGESCROW: must be empty"},
		{c.ChainLink == nil, "CHAINLINK: must be null"},
		{m.EscrowSignature == "", "ESCROWSIGNATURE: must be empty"},
		{m.LinkAuthority == "", "LINKAUTHORITY: must be empty"},
	} {
		if !demand.met {
			return fmt.Errorf("%w: profile %s: %s", ErrInvalid, Version10, demand.text)
		}
	}
	return nil
}

// check11 checks what profile 1.1 demands beyond what all do.
func (m *Message) check11() error {
	c := &m.Content
	if !slices.Contains([]string{Strict, Mandatory, Optional}, c.Preferences.ForwardSec) {
		return fmt.Errorf("%w: PREFERENCES.FORWARDSEC: expected %s, %s or %s", ErrInvalid, Strict, Mandatory, Optional)
	}
	if err := checkAddress(c.MixAddress); err != nil {
		return fmt.Errorf("MIXADDRESS: %w", err)
	}
	if _, err := canonical.Decode(c.NymAddress, -1); err != nil || len(c.NymAddress) > maxNymAddress {
		return fmt.Errorf("%w: NYMADDRESS: expected base64 of at most %d characters", ErrInvalid, maxNymAddress)
	}
	if n := len(c.RepoURIs); n == 0 || n > maxRepoURIs {
		return fmt.Errorf("%w: REPOURIS: expected 1 to %d, got %d", ErrInvalid, maxRepoURIs, n)
	}
	if err := checkURIs(c.RepoURIs); err != nil {
		return fmt.Errorf("REPOURIS: %w", err)
	}
	if c.escrow() == nil {
		return fmt.Errorf("%w: SIGESCROW: profile %s demands one", ErrInvalid, Version11)
	}
	if err := c.SigEscrow.Check(Ed25519); err != nil {
		return fmt.Errorf("SIGESCROW: %w", err)
	}
	if c.SigEscrow.PubKey == c.SigKey.PubKey {
		return fmt.Errorf("%w: SIGESCROW: is the same key as SIGKEY, and would be lost with it", ErrInvalid)
	}
	return m.checkLink()
}

// checkLink checks CHAINLINK. Nobody can resolve a foreign chain yet, so a link
// that claims authority needs that of the keyserver's operator.
func (m *Message) checkLink() error {
	l := m.Content.ChainLink
	if authority := l != nil && l.Authoritative; authority != (m.LinkAuthority != "") {
		return fmt.Errorf("%w: LINKAUTHORITY: must be there for an AUTHORITATIVE link, and only then", ErrInvalid)
	}
	if l == nil {
		return nil
	}
	if len(l.URI) == 0 || len(l.URI) > maxLinkURIs && !l.Authoritative || len(l.URI) > maxLinkDomains {
		return fmt.Errorf("%w: CHAINLINK.URI: expected 1 to %d, got %d", ErrInvalid, maxLinkURIs, len(l.URI))
	}
	if err := checkURIs(l.URI); err != nil {
		return fmt.Errorf("CHAINLINK.URI: %w", err)
	}
	if !slices.IsSorted(l.URI) {
		return fmt.Errorf("%w: CHAINLINK.URI: not in lexicographic order", ErrInvalid)
	}
	if _, err := hashchain.Parse(l.Last); err != nil {
		return fmt.Errorf("%w: CHAINLINK.LAST: %w", ErrInvalid, err)
	}
	if !l.Authoritative && len(l.Domains) > 0 || len(l.Domains) > maxLinkDomains {
		return fmt.Errorf("%w: CHAINLINK.DOMAINS: at most %d, and only where AUTHORITATIVE is true", ErrInvalid, maxLinkDomains)
	}
	for i, domain := range l.Domains {
		if err := CheckDomain(domain); err != nil {
			return fmt.Errorf("CHAINLINK.DOMAINS[%d]: %w", i, err)
		}
	}
	if l.Identity == "" && len(l.Domains) == 0 {
		return nil
	}
	if err := CheckMapped(l.Identity); err != nil {
		return fmt.Errorf("CHAINLINK.IDENTITY: %w", err)
	}
	return nil
}

func checkURIs(uris []string) error {
	for i, uri := range uris {
		if err := CheckURI(uri); err != nil {
			return fmt.Errorf("[%d]: %w", i, err)
		}
	}
	return nil
}

// CheckURI returns ErrInvalid unless a text can be the URI of a keyserver: 1 to 254
// visible ASCII characters.
func CheckURI(uri string) error {
	if err := checkAddress(uri); err != nil || uri == "" {
		return fmt.Errorf("%w: expected 1 to %d visible ASCII characters", ErrInvalid, maxURI)
	}
	return nil
}

// checkAddress keeps what other programs will take for one line of text from
// being more.
func checkAddress(s string) error {
	outside := func(r rune) bool { return r <= ' ' || r > unicode.MaxASCII || r == 0x7f }
	if len(s) > maxURI || strings.ContainsFunc(s, outside) {
		return fmt.Errorf("%w: expected at most %d visible ASCII characters", ErrInvalid, maxURI)
	}
	return nil
}
