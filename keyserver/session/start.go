package session

import (
	"bytes"
	"crypto/ecdh"
	"fmt"
	"io"
	"strings"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/keyinit"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// clockSkew is how much, in seconds, clocks may differ.
const clockSkew = 300

// MaxDelay is how long after a KeyInit's NOTAFTER, in seconds, a first message for
// it may still arrive, and as much again the answer: mixes take their time. Until
// then the private key is kept.
const MaxDelay = 7 * 24 * 60 * 60

// Address is where a message goes.
type Address struct {
	Mix string // mail address of a mix, "local@domain"
	Nym []byte // tells the mix who is behind it, if it needs that; at most 3072 bytes
}

// Check returns ErrRecipient unless an address is one.
func (a *Address) Check() error {
	if err := keyinit.CheckMix(a.Mix); err != nil {
		return fmt.Errorf("%w: %w", ErrRecipient, err)
	}
	if len(a.Nym) > keyinit.MaxNym {
		return fmt.Errorf("%w: NYMADDRESS: expected at most %d bytes, got %d", ErrRecipient, keyinit.MaxNym, len(a.Nym))
	}
	return nil
}

// readAddress returns the address in two fields of a message.
func readAddress(mix, nym string) (Address, error) {
	b, err := canonical.Decode(nym, -1)
	if err != nil {
		return Address{}, fmt.Errorf("NYMADDRESS: %w", err)
	}
	a := Address{mix, b}
	return a, a.Check()
}

// Letter is a message and where it is to be sent.
type Letter struct {
	To      Address
	Message []byte
}

// Self is the identity that a sender writes as.
type Self struct {
	// History are all UID messages that the hashchain has for the identity, the
	// oldest first. The last is in force.
	History []*uid.Message
	// Keys are the private keys of PUBKEYS, those of earlier messages too as long as
	// somebody may still use them.
	Keys []*ecdh.PrivateKey
}

// latest is the message in force.
func (s *Self) latest() *uid.Content { return &s.History[len(s.History)-1].Content }

// key returns the private key of the first of PUBKEYS that is had.
func (s *Self) key() (*ecdh.PrivateKey, error) {
	if len(s.History) == 0 {
		return nil, fmt.Errorf("%w: the sender has no UID message", ErrSender)
	}
	for i := range s.latest().PubKeys {
		if k := private(s.Keys, s.latest().PubKeys[i].Public()); k != nil {
			return k, nil
		}
	}
	return nil, fmt.Errorf("%w: none of the private keys belongs to PUBKEYS of %s", ErrSender, s.latest().Identity)
}

// private returns the private key of a public one, nil if it is not had.
func private(keys []*ecdh.PrivateKey, public []byte) *ecdh.PrivateKey {
	for _, k := range keys {
		if bytes.Equal(k.PublicKey().Bytes(), public) {
			return k
		}
	}
	return nil
}

// Recipient is what a sender has found out: the UID message in force, as the look-up
// in the hashchain proved it, and a KeyInit that the keyserver gave out for it.
type Recipient struct {
	UID     *uid.Message
	KeyInit *keyinit.KeyInit
}

// check verifies the KeyInit and returns its anchor. It does not repeat the look-up.
func (r *Recipient) check(now uint64) (*keyinit.Anchor, error) {
	c, k := &r.UID.Content, &r.KeyInit.Contents
	if err := r.UID.Check(); err != nil {
		return nil, fmt.Errorf("%w: UID message: %w", ErrRecipient, err)
	}
	anchor, err := r.KeyInit.Verify(c.SigKey.Public(), c.RepoURIs, now)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: KeyInit: %w", ErrRecipient, err)
	case !uid.Trusted(c.NotAfter, now):
		return nil, fmt.Errorf("%w: %w: %s was valid until %s", ErrRecipient, uid.ErrExpired, c.Identity, uid.Date(c.NotAfter))
	case now+clockSkew < k.NotBefore:
		return nil, fmt.Errorf("%w: %w: KeyInit is not valid before %s", ErrRecipient, uid.ErrExpired, uid.Date(k.NotBefore))
	case k.Version != c.Version:
		return nil, fmt.Errorf("%w: KeyInit of profile %q for an identity of profile %q", ErrRecipient, k.Version, c.Version)
	case k.Fallback && c.Version != uid.Version10 && c.Preferences.ForwardSec == uid.Strict:
		// The deployed client, profile 1.0, says strict and makes fallback KeyInits.
		return nil, fmt.Errorf("%w: KeyInit is for fallback, and %s wants strict forward security", ErrRecipient, c.Identity)
	}
	return anchor, nil
}

// Start makes the first message to a recipient, and what the sender has to keep,
// secretly, until the answer comes. reply is the sender's address for this session;
// now is in Unix seconds. Start reads 32 random bytes, for the session key.
//
// The recipient's UID message must come from a look-up that verified it. The
// KeyInit is verified here.
func Start(to *Recipient, from *Self, reply Address, text []byte, now uint64, random io.Reader) (*Letter, *Pending, error) {
	anchor, err := to.check(now)
	if err != nil {
		return nil, nil, err
	}
	address, err := readAddress(anchor.MixAddress, anchor.NymAddress)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: KeyInit: %w", ErrRecipient, err)
	}
	identity, err := from.key()
	if err != nil {
		return nil, nil, err
	}
	content, err := newFirstContent(to, from, reply, text)
	if err != nil {
		return nil, nil, err
	}
	session, err := newKey(random)
	if err != nil {
		return nil, nil, err
	}
	keyInit, err := publicOf(&anchor.PFKeys[0])
	if err != nil {
		return nil, nil, fmt.Errorf("%w: PFKEYS[0]: %w", ErrRecipient, err)
	}
	long, err := publicOf(&to.UID.Content.PubKeys[0])
	if err != nil {
		return nil, nil, fmt.Errorf("%w: PUBKEYS[0]: %w", ErrRecipient, err)
	}

	secret, err := agree(pair{session, keyInit}, pair{session, long})
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrRecipient, err)
	}
	header := newHeader(First, to.KeyInit.Digest(), session.PublicKey().Bytes())
	keys := newFirstKeys(header, keyInit, long, secret)
	senderBox := seal(keys.sender(), identity.PublicKey().Bytes())

	secret, err = agree(pair{identity, keyInit})
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrRecipient, err)
	}
	keys.mix(secret)
	contentBox := seal(keys.content(senderBox), content)

	root := keys.root(senderBox, contentBox)
	message := append(append(header, senderBox...), contentBox...)
	return &Letter{address, message}, &Pending{
		ID: sessionID(root), Peer: to.UID.Content.Identity, Until: to.KeyInit.Contents.NotAfter + MaxDelay,
		root: root, session: session, identity: identity.PublicKey(),
	}, nil
}

// newFirstContent returns padded contents. The history is checked as the recipient
// will, so that a message that must be refused is not sent.
func newFirstContent(to *Recipient, from *Self, reply Address, text []byte) ([]byte, error) {
	if err := checkText(text); err != nil {
		return nil, err
	}
	if err := reply.Check(); err != nil {
		return nil, fmt.Errorf("sender's own address: %w", err)
	}
	c := firstContent{
		Message: canonical.Encode(text), MixAddress: reply.Mix, NymAddress: canonical.Encode(reply.Nym),
		Recipient: to.UID.Content.Identity,
	}
	for _, m := range from.History {
		c.UIDMessages = append(c.UIDMessages, *m)
	}
	return pad(canonical.Marshal(c))
}

// Check returns an error if no message with a text, and an address for the answer, can be
// made for the sender, whoever it is to: ErrSender, ErrRecipient for the address, ErrTooLong.
func (s *Self) Check(reply Address, text []byte) error {
	if _, err := s.key(); err != nil {
		return err
	}
	longest := &Recipient{UID: &uid.Message{Content: uid.Content{Identity: strings.Repeat("x", maxIdentity)}}}
	_, err := newFirstContent(longest, s, reply, text)
	return err
}

// maxIdentity is how many bytes an identity can have (keyserver/WIRE.md §7).
const maxIdentity = 254

func checkText(text []byte) error {
	if len(text) > MaxText {
		return fmt.Errorf("%w: text of %d bytes, at most %d are allowed", ErrTooLong, len(text), MaxText)
	}
	return nil
}
