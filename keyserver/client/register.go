package client

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/token"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

var (
	// ErrTaken says that a name is not free: choose another.
	ErrTaken = errors.New("identity is taken")
	// ErrExists says that an identity has been created already.
	ErrExists = errors.New("identity exists already")
	// ErrOvertaken says that the hashchain has a message of an own identity that this
	// client did not make. If no other copy of the keys did, somebody else has them:
	// Recover takes the identity back, and changes them.
	ErrOvertaken = errors.New("identity was changed elsewhere")
	// ErrPending says that what was begun for an identity has not come to its end:
	// make the same call again.
	ErrPending = errors.New("not in the hashchain yet")
)

// Registration is what an identity tells those who write to it, and how the call is paid
// for.
type Registration struct {
	ForwardSec string // uid.Strict, Mandatory or Optional; "" is Strict, or as before
	MixAddress string // with Optional only: where first messages go
	NymAddress string // with Optional only: for whom they are there, base64
	Token      string
	// Paper is called with the private escrow key (PaperKey) when one was made, before
	// anything is sent: once, unless it fails or the process ends meanwhile. The
	// identity is not registered before it has returned nil.
	Paper func(paperKey string) error
}

func (w *Registration) apply(c *uid.Content) {
	if w.ForwardSec != "" {
		c.Preferences.ForwardSec, c.MixAddress, c.NymAddress = w.ForwardSec, w.MixAddress, w.NymAddress
	}
}

// Create registers an identity in profile 1.1, if the copy of the hashchain, brought
// up to date, has none of that name. Keys are generated and on disk, encrypted under
// the passphrase, before anything is sent.
//
// What can be known before is checked before Registration.Paper is called: uid.ErrReserved,
// ErrTaken, ErrPassphrase, ErrToken, ErrPlaintext, ErrClock.
//
// If it fails, or the process is killed, nobody may know whether the keyserver took
// the message. Calling it again goes on with the same keys and registration,
// first looking whether the entry is there; it never makes a second identity. A name that
// the keyserver gives to nobody, or has given to somebody else, is forgotten.
func (c *Client) Create(ctx context.Context, identity string, passphrase []byte, w Registration) (*Identity, error) {
	identity, err := uid.Map(identity)
	if err != nil {
		return nil, err
	}
	if domain := domainOf(identity); domain != c.state.Domain {
		return nil, fmt.Errorf("%w: domain %s: this is the keyserver of %s", ErrUnsupported, domain, c.state.Domain)
	}
	if err := uid.CheckReserved(identity); err != nil {
		return nil, err
	}
	id, err := c.OpenIdentity(identity, passphrase)
	switch {
	case errors.Is(err, ErrNoIdentity):
		id, err = c.begin(ctx, identity, passphrase, w)
	case err == nil && id.record.Message != nil:
		err = fmt.Errorf("%w: %s", ErrExists, identity)
	}
	if err != nil {
		return nil, err
	}
	return id, id.finish(ctx, w)
}

// begin makes the keys and the first message of an identity.
func (c *Client) begin(ctx context.Context, identity string, passphrase []byte, w Registration) (*Identity, error) {
	if _, err := c.Sync(ctx); err != nil {
		return nil, err
	}
	if err := c.checkFree(ctx, identity); err != nil {
		return nil, err
	}
	if err := c.ready(ctx, w.Token); err != nil {
		return nil, err
	}
	id, err := c.newIdentity(identity, passphrase)
	if err != nil {
		return nil, err
	}
	private, public, err := newPubKey()
	if err != nil {
		return nil, err
	}
	p := &pending{Method: "CreateUID", Unsent: true, Token: w.Token, SigKey: newSigKey(), PubKey: private, Escrow: newSigKey()}
	m := &uid.Message{Content: uid.Content{
		Identity:    identity,
		Preferences: uid.Preferences{Ciphersuites: []string{uid.Ciphersuite}, ForwardSec: uid.Strict},
		PubKeys:     uid.KeyList{uid.NewKeyEntry(uid.ECDHE25519, public)},
		RepoURIs:    []string{c.state.Domain},
		SigKey:      uid.NewKeyEntry(uid.Ed25519, publicOf(p.SigKey)),
		Version:     uid.Version11,
	}}
	escrow := uid.NewKeyEntry(uid.Ed25519, publicOf(p.Escrow))
	m.Content.SigEscrow = &escrow
	w.apply(&m.Content)
	if err := c.signCreation(p, m); err != nil {
		return nil, err
	}
	id.record.Pending = p
	return id, id.save()
}

// signCreation gives a first message the present time and end of the hashchain, and
// makes it the pending one.
func (c *Client) signCreation(p *pending, m *uid.Message) error {
	if err := c.refresh(&m.Content); err != nil {
		return err
	}
	m.Sign(ed25519.NewKeyFromSeed(p.SigKey))
	m.SignEscrow(ed25519.NewKeyFromSeed(p.Escrow))
	if err := errors.Join(m.Check(), m.VerifyCreation()); err != nil {
		return err
	}
	p.set(m, c.now())
	return nil
}

// refresh writes the present time and end of the hashchain.
func (c *Client) refresh(content *uid.Content) error {
	last, err := c.chain.At(c.Size() - 1)
	if err != nil {
		return err
	}
	now := c.opt.Now()
	content.LastEntry = last.String()
	content.NotBefore = 0 // clocks differ, and there is nothing to wait for
	content.NotAfter = uint64(now.AddDate(1, 0, 0).Unix())
	return nil
}

// checkFree returns ErrTaken if the copy has a name, unless it expired so long ago
// that the keyserver gives it away.
func (c *Client) checkFree(ctx context.Context, identity string) error {
	contact, err := c.Lookup(ctx, identity)
	if errors.Is(err, ErrUnknown) {
		return nil
	}
	if err != nil {
		return err
	}
	if uid.Taken(contact.Message().Content.NotAfter, c.now()) {
		return fmt.Errorf("%w: %s, since the entry at position %d", ErrTaken, identity, contact.Positions[0])
	}
	return nil
}

// Update replaces an own identity's message by one with a new SIGKEY that is valid
// for another year; PUBKEYS and SIGESCROW stay. Like Create it can be called again.
// KeyInits belong to a SIGKEY: make new ones afterwards.
func (c *Client) Update(ctx context.Context, id *Identity, w Registration) error {
	if _, err := c.Sync(ctx); err != nil {
		return err
	}
	if id.record.Pending != nil {
		return id.finish(ctx, w)
	}
	if err := c.ready(ctx, w.Token); err != nil {
		return err
	}
	contact, err := id.latest(ctx)
	if err != nil {
		return err
	}
	p := &pending{Method: "UpdateUID", Unsent: true, Token: w.Token, SigKey: newSigKey()}
	m, err := id.next(contact, p, w)
	if err != nil {
		return err
	}
	m.SignUser(id.sigKey())
	if err := id.hold(p, m, contact); err != nil {
		return err
	}
	return id.finish(ctx, w)
}

// Recover replaces the keys of an identity with the help of its escrow key from
// paper, whether the folder has the identity or not. With newPaper the escrow key is
// replaced, too; else the paper stays good. ErrPaperKey if it is another's.
func (c *Client) Recover(ctx context.Context, identity string, passphrase []byte, paperKey ed25519.PrivateKey, newPaper bool, w Registration) (*Identity, error) {
	identity, err := uid.Map(identity)
	if err != nil {
		return nil, err
	}
	if _, err := c.Sync(ctx); err != nil {
		return nil, err
	}
	contact, err := c.Lookup(ctx, identity)
	if err != nil {
		return nil, err
	}
	content := &contact.Message().Content
	escrow := content.SigEscrow
	if escrow == nil || !bytes.Equal(escrow.Public(), paperKey.Public().(ed25519.PublicKey)) {
		return nil, fmt.Errorf("%w: it is not the SIGESCROW of %s", ErrPaperKey, identity)
	}
	if !uid.Updatable(content.NotAfter, c.now()) {
		return nil, fmt.Errorf("%w: %s expired at %s, and the keyserver does not let it be updated any more", uid.ErrExpired, identity, uid.Date(content.NotAfter))
	}
	id, err := c.OpenIdentity(identity, passphrase)
	if errors.Is(err, ErrNoIdentity) {
		id, err = c.newIdentity(identity, passphrase)
	}
	if err != nil {
		return nil, err
	}
	if p := id.record.Pending; p != nil {
		done, err := id.seen(ctx)
		switch again := p.Message.EscrowSignature != "" && p.Message.VerifyUpdate(contact.Message()) == nil; {
		case err == nil && done && p.Method == "UpdateUID":
			return id, nil
		case err == nil && !done && again:
			if p.Acknowledged == nil && p.unfit(c.now()) != nil {
				if err := id.remake(paperKey); err != nil {
					return nil, err
				}
				if err := id.save(); err != nil {
					return nil, err
				}
			}
			return id, id.finish(ctx, w)
		case err != nil && !errors.Is(err, ErrOvertaken) && !errors.Is(err, ErrTaken):
			return nil, err
		}
	}
	if err := c.ready(ctx, w.Token); err != nil {
		return nil, err
	}

	p := &pending{Method: "UpdateUID", Unsent: true, Token: w.Token, SigKey: newSigKey()}
	private, public, err := newPubKey()
	if err != nil {
		return nil, err
	}
	p.PubKey = private
	if newPaper {
		p.Escrow = newSigKey()
	}
	m, err := id.next(contact, p, w)
	if err != nil {
		return nil, err
	}
	m.Content.PubKeys = uid.KeyList{uid.NewKeyEntry(uid.ECDHE25519, public)}
	m.Sign(ed25519.NewKeyFromSeed(p.SigKey))
	m.SignEscrow(paperKey)
	if err := id.hold(p, m, contact); err != nil {
		return nil, err
	}
	return id, id.finish(ctx, w)
}

// latest looks the identity up and returns ErrOvertaken unless the message in force
// is the one that was registered last.
func (id *Identity) latest(ctx context.Context) (*Contact, error) {
	contact, err := id.client.Lookup(ctx, id.Name())
	if err != nil {
		return nil, err
	}
	if contact.Message().Hash() != id.record.Message.Hash() {
		return nil, fmt.Errorf("%w: %s, by the entry at position %d", ErrOvertaken, id.Name(), contact.Position())
	}
	return contact, nil
}

// next makes the message that follows a contact's, with the keys that p has, signed
// by the new SIGKEY alone.
func (id *Identity) next(contact *Contact, p *pending, w Registration) (*uid.Message, error) {
	m := &uid.Message{Content: contact.Message().Content}
	m.Content.MsgCount++
	m.Content.SigKey = uid.NewKeyEntry(uid.Ed25519, publicOf(p.SigKey))
	if p.Escrow != nil {
		escrow := uid.NewKeyEntry(uid.Ed25519, publicOf(p.Escrow))
		m.Content.SigEscrow = &escrow
	}
	w.apply(&m.Content)
	if err := id.client.refresh(&m.Content); err != nil {
		return nil, err
	}
	m.Sign(ed25519.NewKeyFromSeed(p.SigKey))
	return m, nil
}

// hold checks a message that follows a contact's and makes it the pending one.
func (id *Identity) hold(p *pending, m *uid.Message, contact *Contact) error {
	if err := errors.Join(m.Check(), m.VerifyUpdate(contact.Message())); err != nil {
		return err
	}
	p.set(m, id.client.now())
	before := id.record
	id.record.Pending, id.record.Message, id.record.Position = p, contact.Message(), contact.Position()
	if err := id.save(); err != nil {
		id.record = before
		return err
	}
	return nil
}

// finish brings the pending message into the hashchain, if it is not there yet.
func (id *Identity) finish(ctx context.Context, w Registration) error {
	c := id.client
	if _, err := c.Sync(ctx); err != nil {
		return err
	}
	if done, err := id.seen(ctx); done || err != nil {
		return err
	}
	p := id.record.Pending
	if p.Acknowledged != nil {
		return id.checkAcknowledged()
	}
	if w.Token != "" {
		p.Token = w.Token
	}
	if err := c.ready(ctx, p.Token); err != nil {
		return err
	}
	if p.unfit(c.now()) != nil {
		if err := id.remake(nil); err != nil {
			return err
		}
	}
	if p.Escrow != nil && !p.Shown {
		if w.Paper == nil {
			return errors.New("there is an escrow key to be put on paper, and nobody to do it")
		}
		if err := w.Paper(PaperKey(ed25519.NewKeyFromSeed(p.Escrow))); err != nil {
			return err
		}
		p.Shown = true
	}
	p.Unsent = false // from here on nobody knows
	if err := id.save(); err != nil {
		return err
	}
	caps, err := c.online(ctx)
	if err != nil {
		return err
	}
	reply, err := c.wire.submit(ctx, caps, p.Method, p.Message, p.Token)
	if err != nil {
		return id.notTaken(ctx, err)
	}
	if _, err := c.Sync(ctx); err != nil {
		return err
	}
	if err := id.acknowledge(reply); err != nil {
		return err
	}
	done, err := id.seen(ctx)
	if err == nil && !done {
		err = fmt.Errorf("%w: %s", ErrPending, id.Name())
	}
	return err
}

// notTaken says why the keyserver has not taken the pending message. A name that nobody can
// have, or that somebody else has, is forgotten; unless it is the own message, from an earlier
// call, that has it.
func (id *Identity) notTaken(ctx context.Context, err error) error {
	switch p := id.record.Pending; {
	case p.Method == "CreateUID" && refusedWith(err, codeReserved, codeDomain):
		return id.refused(err)
	case p.Method == "CreateUID" && refusedWith(err, codeTaken):
		if _, err := id.client.Sync(ctx); err != nil {
			return err
		}
		if done, err := id.seen(ctx); done || err != nil {
			return err
		}
	}
	return err
}

// ready returns an error if what is paid with a token would be refused now: ErrClock,
// ErrToken, ErrPlaintext. Nobody has signed what it goes by, so it decides nothing else.
func (c *Client) ready(ctx context.Context, tokens ...string) error {
	caps, err := c.online(ctx)
	if err != nil {
		return err
	}
	if err := c.wire.clocks.check(maxClockSkew); err != nil {
		return err
	}
	for _, t := range tokens {
		if err := errors.Join(c.wire.checkToken(t), caps.checkToken(t, c.state.Domain)); err != nil {
			return err
		}
	}
	return nil
}

// checkToken returns ErrToken if the keyserver of a domain wants a token, and this is none
// that it takes. Whether it was spent, only the keyserver knows.
func (c *capabilities) checkToken(t, domain string) error {
	if c.TokenPubKey == "" {
		return nil
	}
	if t == "" {
		return fmt.Errorf("%w: the keyserver takes one for each registration, update and KeyInit: its operator issues them", ErrToken)
	}
	issuer, err := canonical.Decode(c.TokenPubKey, ed25519.PublicKeySize)
	if err != nil {
		return nil // tokens of another kind
	}
	if _, _, err := (token.Issued{Domain: domain, Issuer: issuer}).Check(t); err != nil {
		return fmt.Errorf("%w: %w: ask the operator of this keyserver for others", ErrToken, err)
	}
	return nil
}

// acknowledge takes the answer to the pending message, if the keyserver has signed it.
// It is kept until its entry has been seen: it is the proof if that is withheld.
func (id *Identity) acknowledge(reply *uid.Reply) error {
	c, p, position := id.client, id.record.Pending, reply.Entry.HashchainPos
	entry, err := hashchain.Parse(reply.Entry.HashchainEntry)
	if err == nil {
		err = c.state.Keys.signed(reply, position, &entry)
	}
	if err == nil {
		if uidHash, ok := entry.Open(id.Name()); !ok || uidHash != p.Message.Hash() {
			err = fmt.Errorf("the answer is about another message than was sent for %s", id.Name())
		}
	}
	if err != nil {
		return c.otherReply(position, reply, err)
	}
	p.Acknowledged = reply
	if err := id.save(); err != nil {
		return err
	}
	return id.checkAcknowledged()
}

// checkAcknowledged compares what was acknowledged with the copy, which must have its
// entry.
func (id *Identity) checkAcknowledged() error {
	c, reply := id.client, id.record.Pending.Acknowledged
	position := reply.Entry.HashchainPos
	if position >= c.Size() {
		return unproven(ErrContradiction, position, "the keyserver has signed an entry of %s here, but the hashchain ends at position %d: the entry is withheld", id.Name(), c.Size()-1)
	}
	mine, err := c.chain.At(position)
	if err != nil || mine.String() == reply.Entry.HashchainEntry {
		return err
	}
	return c.misbehaves(position, exhibit{reply: reply, message: id.record.Pending.Message}, "the entry is not the one that was acknowledged for %s", id.Name())
}

// seen looks in the copy for the pending message. If its entry is there, all of the
// copy's messages of the identity are verified, the pending one becomes the
// registered one, and the escrow key is deleted.
func (id *Identity) seen(ctx context.Context) (done bool, err error) {
	c, p := id.client, id.record.Pending
	contact, err := c.Lookup(ctx, id.Name())
	if errors.Is(err, ErrUnknown) && p.Method == "CreateUID" {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	ours := -1
	for i, m := range contact.History {
		if p.sent(m.Hash()) {
			ours = i
		}
	}
	if ours < 0 {
		return false, id.unseen(contact)
	}
	if p.Escrow != nil && !p.Shown {
		return false, nil // nothing is sent before, but the key must not get lost whatever happened
	}
	m, reply, err := c.fetchMessage(ctx, id.Name(), contact.Positions[ours])
	if err != nil {
		return false, err
	}
	before := id.record
	r := &id.record
	r.Message, r.Position, r.Reply, r.Confirmed = m, contact.Positions[ours], reply, false
	r.SigKey = p.SigKey
	if p.PubKey != nil {
		r.PubKeys = append(r.PubKeys[:len(r.PubKeys):len(r.PubKeys)], p.PubKey)
	}
	r.Pending = nil
	id.tidy()
	if err := id.save(); err != nil {
		id.record = before
		return false, err
	}
	return true, nil
}

// unseen says what it means that the copy has messages of the identity, but not the
// pending one.
func (id *Identity) unseen(contact *Contact) error {
	p, last := id.record.Pending, contact.Message()
	switch {
	case p.Method == "CreateUID" && uid.Taken(last.Content.NotAfter, id.client.now()):
		return id.refused(fmt.Errorf("%w: %s, by somebody else, since the entry at position %d", ErrTaken, id.Name(), contact.Positions[0]))
	case p.Method == "UpdateUID" && last.Hash() != id.record.Message.Hash():
		// The keyserver can never take the pending message any more.
		id.record.Pending = nil
		err := fmt.Errorf("%w: %s, by the entry at position %d", ErrOvertaken, id.Name(), contact.Position())
		if id.record.SigKey == nil {
			return err // of a recovery that may be begun again: the file stays
		}
		return errors.Join(err, id.save())
	}
	return nil
}

// Confirm waits until further entries have followed an identity's last one, then
// verifies on the copy that it stands as it was demanded: the entry at its position
// is the acknowledged one, the keyserver gives out the same message to everybody
// who asks, and there is no other entry of the identity behind it. Only then the
// name should be told to others. It asks the keyserver again and again, with poll in
// between, when others can use the folder.
func (c *Client) Confirm(ctx context.Context, id *Identity, further uint64, poll time.Duration) error {
	for {
		after, err := c.followed(ctx, id)
		if err != nil {
			return err
		}
		c.opt.Progress("waiting", min(after, further), further)
		if after >= further {
			break
		}
		if err := c.leave(ctx, poll); err != nil {
			return err
		}
		var now record
		if err := id.vault.read(&now); err != nil {
			return err
		}
		id.record = now
	}
	if _, err := id.latest(ctx); err != nil {
		return err
	}
	r := &id.record
	entry, err := c.chain.At(r.Position)
	if err != nil {
		return err
	}
	m, reply, err := c.fetchMessage(ctx, id.Name(), r.Position)
	if err != nil {
		return err
	}
	uidHash, ok := entry.Open(id.Name())
	switch {
	case !ok || uidHash != r.Message.Hash() || entry.String() != r.Reply.Entry.HashchainEntry:
		return c.misbehaves(r.Position, exhibit{reply: r.Reply, message: r.Message}, "the entry is not the one that was acknowledged for %s", id.Name())
	case m.Hash() != r.Message.Hash() || !bytes.Equal(reply.Canonical(), r.Reply.Canonical()):
		return c.misbehaves(r.Position, exhibit{reply: reply, message: r.Message}, "the keyserver gives out another reply than it acknowledged %s with", id.Name())
	}
	r.Confirmed = true
	return id.save()
}

// followed brings the copy up to date and tells how many entries have followed an identity's
// last one.
func (c *Client) followed(ctx context.Context, id *Identity) (uint64, error) {
	if _, err := c.Sync(ctx); err != nil {
		return 0, err
	}
	if id.record.Pending != nil {
		done, err := id.seen(ctx)
		if err == nil && !done {
			err = fmt.Errorf("%w: %s: it was made but perhaps never sent", ErrPending, id.Name())
		}
		if err != nil {
			return 0, err
		}
	}
	return c.Size() - 1 - min(id.record.Position, c.Size()-1), nil
}
