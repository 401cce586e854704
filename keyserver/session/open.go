package session

import (
	"context"
	"crypto/ecdh"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/keyinit"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// KeyInits are the KeyInits that a recipient has published, and the sessions that
// began on them. Methods may be called concurrently.
type KeyInits interface {
	// Find returns a KeyInit by its Digest, and the private key of its first PFKEYS.
	// ErrUnknown if there is none, or none any more.
	Find(ctx context.Context, digest [sha256.Size]byte) (*keyinit.KeyInit, *ecdh.PrivateKey, error)
	// Begin records a session in one durable step: it, its text, and that its KeyInit
	// was used. ErrReplay, and nothing changes, if it was recorded before or if
	// another one was on the same KeyInit, which is not for fallback. Afterwards the
	// private key of a KeyInit that is not for fallback is deleted.
	Begin(ctx context.Context, s *Session, text []byte) error
}

// Inbox is a recipient of first messages.
type Inbox struct {
	Identity  string             // mapped
	Keys      []*ecdh.PrivateKey // see Self
	Hashchain Hashchain
	KeyInits  KeyInits
}

// Open opens a first message at a time in Unix seconds. When it returns, the sender
// is proven and the session has been recorded, so that it will not open again.
//
// Errors are those of this package, canonical.ErrMalformed, uid.ErrExpired, and
// what Hashchain and KeyInits return. On ErrBehind the same message may be opened
// again when the copy of the hashchain is current.
func (in *Inbox) Open(ctx context.Context, m *Message, now uint64) (s *Session, text []byte, err error) {
	if m.Kind != First {
		return nil, nil, fmt.Errorf("%w: expected a first message, got an answer", canonical.ErrMalformed)
	}
	init, private, err := in.KeyInits.Find(ctx, m.For)
	if err != nil {
		return nil, nil, fmt.Errorf("KeyInit %x: %w", m.For[:4], err)
	}
	until := init.Contents.NotAfter + MaxDelay
	if now > until {
		return nil, nil, fmt.Errorf("KeyInit %x: %w: messages for it are taken until %s", m.For[:4], uid.ErrExpired, uid.Date(until))
	}
	keys, sender, err := in.openSender(m, private)
	if err != nil {
		return nil, nil, err
	}
	secret, err := agree(pair{private, sender})
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrForged, err)
	}
	keys.mix(secret)
	padded, err := open(keys.content(m.sender), m.content)
	if err != nil {
		return nil, nil, err
	}
	var c firstContent
	if err := readContent(padded, &c); err != nil {
		return nil, nil, err
	}
	text, reply, err := readTextAndAddress(c.Message, c.MixAddress, c.NymAddress)
	if err != nil {
		return nil, nil, err
	}
	if c.Recipient != in.Identity {
		return nil, nil, fmt.Errorf("%w: RECIPIENT: expected %s, the message is for another identity", ErrForged, in.Identity)
	}
	if err := verifySender(ctx, in.Hashchain, c.UIDMessages, sender.Bytes(), now); err != nil {
		return nil, nil, err
	}

	root := keys.root(m.sender, m.content)
	peer, err := ecdh.X25519().NewPublicKey(m.session)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrForged, err)
	}
	s = &Session{
		ID: sessionID(root), Peer: c.UIDMessages[0].Content.Identity, ReplyTo: reply,
		KeyInit: m.For, Fallback: init.Contents.Fallback, Until: until,
		root: root, peerSession: peer, peerIdentity: sender,
	}
	if err := in.KeyInits.Begin(ctx, s, text); err != nil {
		return nil, nil, fmt.Errorf("session %x: %w", s.ID[:4], err)
	}
	return s, text, nil
}

// openSender opens the box with the sender's key. The message does not say which of
// the recipient's long-term keys it is for: that would tell others who the
// recipient is.
func (in *Inbox) openSender(m *Message, private *ecdh.PrivateKey) (*firstKeys, *ecdh.PublicKey, error) {
	session, err := ecdh.X25519().NewPublicKey(m.session)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrForged, err)
	}
	for _, long := range in.Keys {
		secret, err := agree(pair{private, session}, pair{long, session})
		if err != nil {
			return nil, nil, fmt.Errorf("%w: %w", ErrForged, err)
		}
		keys := newFirstKeys(m.header, private.PublicKey(), long.PublicKey(), secret)
		plain, err := open(keys.sender(), m.sender)
		if errors.Is(err, ErrForged) {
			continue
		}
		sender, err := ecdh.X25519().NewPublicKey(plain)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: %w", ErrForged, err)
		}
		return keys, sender, nil
	}
	return nil, nil, fmt.Errorf("%w: changed, forged, or made for other keys", ErrForged)
}

// readTextAndAddress reads what both kinds of contents have.
func readTextAndAddress(message, mix, nym string) (text []byte, reply Address, err error) {
	if text, err = canonical.Decode(message, -1); err != nil {
		return nil, Address{}, fmt.Errorf("MESSAGE: %w", err)
	}
	if err := checkText(text); err != nil {
		return nil, Address{}, fmt.Errorf("%w: %w", canonical.ErrMalformed, err)
	}
	if reply, err = readAddress(mix, nym); err != nil {
		return nil, Address{}, fmt.Errorf("%w: address of the sender: %v", canonical.ErrMalformed, err)
	}
	return text, reply, nil
}
