package client

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/keyinit"
	"github.com/keytree-bch/keytree/keyserver/session"
)

// Draft is what a message needs besides its two sides.
type Draft struct {
	ReplyTo session.Address // where the other side writes back, in this session
	Text    []byte
}

// digest tells drafts apart.
func (d *Draft) digest() [sha256.Size]byte {
	return sha256.Sum256(canonical.Marshal([]string{d.ReplyTo.Mix, canonical.Encode(d.ReplyTo.Nym), canonical.Encode(d.Text)}))
}

// Deliverer brings letters on their way.
type Deliverer interface {
	// Ready returns an error if Send would fail now. It sends nothing.
	Ready(ctx context.Context) error
	// Send brings a letter on its way. After session.ErrUnsure it may have been taken or
	// not; after any other error nobody has it.
	Send(ctx context.Context, letter *session.Letter) error
}

// Sent is a first message that was sent.
type Sent struct {
	Session [sha256.Size]byte
	To      string          // the other side's identity
	By      session.Address // where the letter went
}

// Send begins a session with whoever is behind a name, for own identity id: it brings the
// copy up to date, looks the name up, takes one of its KeyInits from the keyserver, which is
// used up then, makes the first message and has it delivered. What opens the answer is on
// disk before.
//
// Nothing is taken from the keyserver before by is ready. If it fails nevertheless, the
// KeyInit is kept for the next call. If nobody knows whether somebody has the letter
// (session.ErrUnsure; or this process was killed), the next call with the same name and draft
// sends the same letter.
func (c *Client) Send(ctx context.Context, id *Identity, name string, d Draft, pay Payment, by Deliverer) (*Sent, error) {
	if _, err := c.Sync(ctx); err != nil {
		return nil, err
	}
	to, err := c.Lookup(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := by.Ready(ctx); err != nil {
		return nil, fmt.Errorf("%w: no KeyInit was taken", err)
	}
	kept := id.unsentTo(to.Identity, d.digest())
	if kept == nil {
		if kept, err = c.startSession(ctx, id, to, d, pay); err != nil {
			return nil, err
		}
	}
	if err := by.Send(ctx, kept.Unsent.Letter); errors.Is(err, session.ErrUnsure) {
		return nil, fmt.Errorf("%w: to send the same text again is harmless: it is the same message, which opens once", err)
	} else if err != nil {
		// Its KeyInit is as good as before.
		return nil, errors.Join(fmt.Errorf("%w: nobody has it, and what was fetched is kept for the next try", err), id.EndSession(kept.ID))
	}
	sent := &Sent{Session: kept.ID, To: to.Identity, By: kept.Unsent.Letter.To}
	return sent, errors.Join(id.delivered(kept.ID), c.UsedKeyInit(to, kept.Unsent.KeyInit))
}

// startSession makes the first message of a session, and keeps it.
func (c *Client) startSession(ctx context.Context, id *Identity, to *Contact, d Draft, pay Payment) (*Session, error) {
	self, err := c.Lookup(ctx, id.Name())
	if err != nil {
		return nil, err
	}
	keys, err := id.PrivateKeys()
	if err != nil {
		return nil, err
	}
	from := &session.Self{History: self.History, Keys: keys}
	if err := from.Check(d.ReplyTo, d.Text); err != nil { // before a KeyInit is taken
		return nil, err
	}
	k, _, err := c.fetchKeyInit(ctx, to, pay, id.keyInitsInUse())
	if err != nil {
		return nil, err
	}
	letter, pending, err := session.Start(&session.Recipient{UID: to.Message(), KeyInit: k}, from, d.ReplyTo, d.Text, c.now(), rand.Reader)
	if errors.Is(err, session.ErrRecipient) { // and the next one may do
		return nil, errors.Join(err, c.UsedKeyInit(to, k.Digest()))
	}
	if err != nil {
		return nil, err
	}
	state, err := pending.MarshalBinary()
	if err != nil {
		return nil, err
	}
	s := Session{
		ID: pending.ID, State: state, Text: d.Text, Until: pending.Until + session.MaxDelay,
		Unsent: &Unsent{Letter: letter, KeyInit: k.Digest(), Draft: d.digest()},
	}
	return &s, id.BeginSession(s)
}

// unsentTo returns the session with an identity whose first message, made of a draft, may
// have been sent or not; nil if there is none.
func (id *Identity) unsentTo(name string, draft [sha256.Size]byte) *Session {
	for _, s := range id.Sessions() {
		if s.Unsent == nil || s.Unsent.Draft != draft {
			continue
		}
		if peer, _, _, err := s.Peer(); err == nil && peer == name {
			return &s
		}
	}
	return nil
}

// keyInitsInUse are the others' of first messages that may have been sent or not.
func (id *Identity) keyInitsInUse() (digests [][sha256.Size]byte) {
	for _, s := range id.record.Sessions {
		if s.Unsent != nil {
			digests = append(digests, s.Unsent.KeyInit)
		}
	}
	return digests
}

// delivered records that somebody has taken the first message of a session.
func (id *Identity) delivered(sessionID [sha256.Size]byte) error {
	return id.changeSession(sessionID, func(s *Session) { s.Unsent = nil })
}

// changeSession changes a recorded session.
func (id *Identity) changeSession(sessionID [sha256.Size]byte, change func(*Session)) error {
	before := id.record
	id.record.Sessions = slices.Clone(id.record.Sessions)
	for i := range id.record.Sessions {
		if s := &id.record.Sessions[i]; s.ID == sessionID {
			change(s)
		}
	}
	if err := id.save(); err != nil {
		id.record = before
		return err
	}
	return nil
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
// session.ErrBehind for an answer. What was received stays among Identity.Sessions, an
// answer until EndSession.
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
	if ok && kept.Answer != nil {
		return nil, fmt.Errorf("%w: %s has opened the answer in session %x", session.ErrReplay, id.Name(), m.For[:4])
	}
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
	received := &Received{Kind: m.Kind, Session: m.For, From: pending.Peer, Text: text, ReplyTo: reply}
	// Before it is shown: it opens once. Until it was shown it is kept.
	err = id.changeSession(m.For, func(s *Session) { s.State, s.Unsent, s.Answer, s.Until = nil, nil, received, now+session.MaxDelay })
	return received, err
}

// begunHere reports whether it was the own identity that began the session, and waits for
// an answer.
func (s *Session) begunHere() bool { return s.KeyInit == [sha256.Size]byte{} }

// Peer returns the identity on the other side, and where it can be reached if it has written;
// begunHere tells that the own identity has begun the session.
func (s *Session) Peer() (peer string, replyTo session.Address, begunHere bool, err error) {
	if s.Answer != nil {
		return s.Answer.From, s.Answer.ReplyTo, true, nil
	}
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
