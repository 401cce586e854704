package client

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/keytree-bch/keytree/keyserver/keyinit"
	"github.com/keytree-bch/keytree/keyserver/session"
)

// Draft is what a message needs besides its two sides.
type Draft struct {
	ReplyTo session.Address // where the other side writes back, in this session
	Text    []byte
}

// Payment pays with a token, if a keyserver wants one. A zero one has nothing to pay with.
type Payment struct {
	Take func() (token string, err error) // is asked for one
	// Spent is told when the keyserver has answered, whether it has taken a token or not.
	Spent func() error
}

// StartSession makes the first message of a session with whoever is behind a name, for own
// identity id: it brings the copy up to date, looks the name up, and takes one of its
// KeyInits from the keyserver, which is used up then. What opens the answer is on disk when
// it returns. The caller delivers the letter, and calls EndSession if nobody can get it.
func (c *Client) StartSession(ctx context.Context, id *Identity, name string, d Draft, pay Payment) (*session.Letter, *session.Pending, error) {
	if _, err := c.Sync(ctx); err != nil {
		return nil, nil, err
	}
	to, err := c.Lookup(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	self, err := c.Lookup(ctx, id.Name())
	if err != nil {
		return nil, nil, err
	}
	keys, err := id.PrivateKeys()
	if err != nil {
		return nil, nil, err
	}
	k, _, err := c.FetchKeyInit(ctx, to, pay.Take)
	if err != nil {
		return nil, nil, err
	}
	if pay.Spent != nil {
		if err := pay.Spent(); err != nil {
			return nil, nil, err
		}
	}
	letter, pending, err := session.Start(&session.Recipient{UID: to.Message(), KeyInit: k},
		&session.Self{History: self.History, Keys: keys}, d.ReplyTo, d.Text, c.now(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	state, err := pending.MarshalBinary()
	if err != nil {
		return nil, nil, err
	}
	return letter, pending, id.BeginSession(Session{
		ID: pending.ID, State: state, Text: d.Text, Until: pending.Until + session.MaxDelay,
	})
}

// Answer makes the answer in a session that peer has begun and whose first message was
// received. session.ErrUnknown if there is none. The other side takes one answer.
func (id *Identity) Answer(sessionID [sha256.Size]byte, d Draft) (letter *session.Letter, peer string, err error) {
	kept, ok := id.Session(sessionID)
	if !ok || kept.begunHere() {
		return nil, "", fmt.Errorf("%w: %s has received no first message in session %x", session.ErrUnknown, id.Name(), sessionID[:4])
	}
	s := new(session.Session)
	if err := s.UnmarshalBinary(kept.State); err != nil {
		return nil, "", err
	}
	letter, err = s.Answer(d.ReplyTo, d.Text, rand.Reader)
	return letter, s.Peer, err
}

// Received is a message that was opened.
type Received struct {
	Kind    session.Kind
	Session [sha256.Size]byte
	From    string // the other side's identity, which is proven
	Text    []byte
	ReplyTo session.Address // where the other side can be reached, in this session
}

// Receive opens a message for own identity id, which works once. Of a first message it
// verifies on the copy who the sender is; bring that up to date first (Sync), or take
// session.ErrBehind for an answer.
func (c *Client) Receive(ctx context.Context, id *Identity, m *session.Message) (*Received, error) {
	keys, err := id.PrivateKeys()
	if err != nil {
		return nil, err
	}
	if m.Kind == session.Answer {
		return id.receiveAnswer(keys, m, c.now())
	}
	inbox := session.Inbox{Identity: id.Name(), Keys: keys, Hashchain: c, KeyInits: ownKeyInits{id}}
	s, text, err := inbox.Open(ctx, m, c.now())
	if err != nil {
		return nil, err
	}
	return &Received{Kind: m.Kind, Session: s.ID, From: s.Peer, Text: text, ReplyTo: s.ReplyTo}, nil
}

func (id *Identity) receiveAnswer(keys []*ecdh.PrivateKey, m *session.Message, now uint64) (*Received, error) {
	kept, ok := id.Session(m.For)
	if !ok || !kept.begunHere() {
		return nil, fmt.Errorf("%w: %s waits for no answer in session %x", session.ErrUnknown, id.Name(), m.For[:4])
	}
	pending := new(session.Pending)
	if err := pending.UnmarshalBinary(kept.State); err != nil {
		return nil, err
	}
	reply, text, err := pending.Open(m, keys, now)
	if err != nil {
		return nil, err
	}
	if err := id.EndSession(m.For); err != nil { // before it is shown: it opens once
		return nil, err
	}
	return &Received{Kind: m.Kind, Session: m.For, From: pending.Peer, Text: text, ReplyTo: reply}, nil
}

// begunHere reports whether it was the own identity that began the session, and waits for
// an answer.
func (s *Session) begunHere() bool { return s.KeyInit == [sha256.Size]byte{} }

// Peer returns the identity on the other side, and where it can be reached if it has begun
// the session; begunHere tells that the own identity has, and waits for an answer.
func (s *Session) Peer() (peer string, replyTo session.Address, begunHere bool, err error) {
	if s.begunHere() {
		begun := new(session.Pending)
		err := begun.UnmarshalBinary(s.State)
		return begun.Peer, session.Address{}, true, err
	}
	received := new(session.Session)
	err = received.UnmarshalBinary(s.State)
	return received.Peer, received.ReplyTo, false, err
}

// ownKeyInits are the KeyInits of an own identity, as package session asks for them.
type ownKeyInits struct{ id *Identity }

// Find implements session.KeyInits.
func (o ownKeyInits) Find(_ context.Context, digest [sha256.Size]byte) (*keyinit.KeyInit, *ecdh.PrivateKey, error) {
	k, private, err := o.id.KeyInit(digest)
	if errors.Is(err, ErrUnknown) {
		err = fmt.Errorf("%w: it was for another identity, or was used up", session.ErrUnknown)
	}
	return k, private, err
}

// Begin implements session.KeyInits.
func (o ownKeyInits) Begin(_ context.Context, s *session.Session, text []byte) error {
	state, err := s.MarshalBinary()
	if err != nil {
		return err
	}
	err = o.id.BeginSession(Session{ID: s.ID, KeyInit: s.KeyInit, State: state, Text: text, Until: s.Until + session.MaxDelay})
	if errors.Is(err, ErrUsed) {
		err = session.ErrReplay
	}
	return err
}
