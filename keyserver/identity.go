package keyserver

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/store"
	"github.com/keytree-bch/keytree/keyserver/token"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// MaxLastEntryAge is how long ago, in seconds, the LASTENTRY of a new identity may
// have ceased to be the last.
const MaxLastEntryAge = 24 * 60 * 60

// CreateUID registers an identity (keyserver/WIRE.md §11) and
// returns what is then stored under the message's UIDIndex. The message must be
// its first; the name is free if nobody has it, or if who had it has let it expire
// for twice uid.Rollover.
func (s *Service) CreateUID(ctx context.Context, m *uid.Message, payment string) (*uid.Reply, error) {
	if err := s.admit(m); err != nil {
		return nil, err
	}
	free := func(view store.Getter, now uint64) error {
		r, exists, err := readIdentity(view, m.Content.Identity)
		if err == nil && exists && uid.Taken(r.notAfter, now) {
			err = fmt.Errorf("%w: %s, by the entry at position %d", ErrTaken, m.Content.Identity, r.position)
		}
		return err
	}
	// Before signatures are verified, for whoever cannot have the name or pay for it.
	var spend []token.ID
	look, err := s.lookAhead(ctx, func(view store.Getter) (err error) {
		if err = free(view, s.now()); err == nil {
			spend, err = s.unspentIn(view, []string{payment})
		}
		if err == nil && s.writer.far { // whether it is refused for this is decided later
			t := &tx{view: view, now: s.now(), state: *s.writer.state.Load()}
			_ = t.checkLastEntry(m.Content.LastEntry, true)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := m.VerifyCreation(); err != nil {
		return nil, err
	}
	a, err := prepare(m)
	if err != nil {
		return nil, err
	}
	a.look = look
	return s.accept(ctx, a, spend, func(t *tx) error {
		if err := free(t.view, t.now); err != nil { // it may have changed since
			return err
		}
		return t.checkLastEntry(m.Content.LastEntry, true)
	})
}

// UpdateUID replaces an identity's message by the next one, and returns what is
// then stored under its UIDIndex.
func (s *Service) UpdateUID(ctx context.Context, m *uid.Message, payment string) (*uid.Reply, error) {
	if err := s.admit(m); err != nil {
		return nil, err
	}
	spend, err := s.unspentTokens(ctx, []string{payment}) // before signatures are verified
	if err != nil {
		return nil, err
	}
	for {
		var (
			before   identityRecord
			previous *uid.Message
		)
		err := s.view(ctx, func(view store.Reader) (err error) {
			var exists bool
			before, exists, err = readIdentity(view, m.Content.Identity)
			if err == nil && !exists {
				err = fmt.Errorf("%w: identity %s", ErrUnknown, m.Content.Identity)
			}
			if err == nil {
				previous, err = readByHash(view, before.uidHash)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		if now := s.now(); !uid.Updatable(before.notAfter, now) {
			return nil, fmt.Errorf("%w: %s expired at %s and could be updated until %s", uid.ErrExpired,
				m.Content.Identity, uid.Date(before.notAfter), uid.Date(before.notAfter+uid.Rollover))
		}
		if err := m.VerifyUpdate(previous); err != nil {
			return nil, err
		}
		a, err := prepare(m)
		if err != nil {
			return nil, err
		}
		a.before, a.beforeKey = before.uidHash, uid.SigKeyHash(previous.Content.SigKey.Public())
		reply, err := s.accept(ctx, a, spend, func(t *tx) error {
			r, _, err := readIdentity(t.view, m.Content.Identity)
			if err == nil && r.uidHash != before.uidHash {
				err = errOvertaken
			}
			if err != nil {
				return err
			}
			return t.checkLastEntry(m.Content.LastEntry, false)
		})
		if !errors.Is(err, errOvertaken) {
			return reply, err
		}
	}
}

// errOvertaken says that another update came in between: this one must be
// verified against that.
var errOvertaken = errors.New("overtaken by another update")

// admit checks what the message and the time alone tell.
func (s *Service) admit(m *uid.Message) error {
	if err := m.Check(); err != nil {
		return err
	}
	if _, domain, _ := uid.Split(m.Content.Identity); domain != s.opt.Domain {
		return fmt.Errorf("%w: %s: this is the keyserver of %s", ErrDomain, domain, s.opt.Domain)
	}
	if err := uid.CheckReserved(m.Content.Identity); err != nil {
		return err
	}
	if err := m.Content.CheckTime(s.now()); err != nil {
		return err
	}
	return m.VerifyLink(s.opt.LinkAuthority)
}

// accept has a message that was verified entered, if decide agrees, and tokens spent.
func (s *Service) accept(ctx context.Context, a *accepted, spend []token.ID, decide func(*tx) error) (reply *uid.Reply, err error) {
	err = s.makeChange(&change{ctx: ctx, ahead: a.look, apply: func(t *tx) (err error) {
		if err := decide(t); err != nil {
			return err
		}
		if err := unspent(t.view, spend); err != nil {
			return err
		}
		t.spend(spend)
		reply, err = t.enter(a)
		return err
	}})
	if err != nil {
		return nil, err
	}
	return reply, nil
}

// accepted is a message with all that can be made of it before its position is known.
type accepted struct {
	message *uid.Message
	sealed  uid.Sealed
	entry   hashchain.Entry // but for its hash
	look    *ahead          // what was read for it; nil if not enough was

	before    hashchain.Hash // UIDHash of the message that this one follows; 0 if not known
	beforeKey sigKeyHash     // of its SIGKEY
}

// prepare does so much of entering a message that the writer has little left to do.
func prepare(m *uid.Message) (*accepted, error) {
	sealed, err := m.Seal(rand.Reader)
	if err != nil {
		return nil, err
	}
	entry, err := hashchain.Prepare(m.Content.Identity, sealed.Hash, rand.Reader)
	return &accepted{message: m, sealed: sealed, entry: entry}, err
}

// enter appends a message's entry to the chain and stores what belongs to it. The reply
// is whole only when the change is on disk: its signature is made meanwhile.
func (t *tx) enter(a *accepted) (*uid.Reply, error) {
	c := &a.message.Content
	before, exists, err := readIdentity(t.view, c.Identity)
	if err != nil {
		return nil, err
	}
	if exists {
		old := a.beforeKey
		if before.uidHash != a.before {
			previous, err := t.message(before.uidHash)
			if err != nil {
				return nil, err
			}
			old = uid.SigKeyHash(previous.Content.SigKey.Public())
		}
		t.delete(sigKeyKey(old, c.Identity))
	}
	position := t.state.chain.Size
	entry := a.entry.Behind(t.state.chain.Head)
	if err := t.append(entry); err != nil {
		return nil, err
	}
	reply, sign := new(uid.Reply), t.state.keys.sign
	t.setLater(replyKey(entry.UIDIndex()), len(a.sealed.Encrypted)+replyOverhead, func() []byte {
		*reply = *uid.NewReply(a.sealed.Encrypted, &entry, position, sign)
		return reply.Canonical()
	})
	t.messages[a.sealed.Hash] = a.message
	record := identityRecord{position, c.NotAfter, a.sealed.Hash}
	t.set(identityKey(c.Identity), record.encode())
	t.set(append(positionsOf(c.Identity), number(position)...), nil)
	t.set(sigKeyKey(uid.SigKeyHash(c.SigKey.Public()), c.Identity), nil)
	if link := c.ChainLink; link != nil && link.Authoritative {
		for _, domain := range link.Domains {
			if _, known, err := t.view.Get(linkKey(domain)); err != nil {
				return nil, err
			} else if !known {
				t.set(linkKey(domain), append(number(position), c.Identity...))
			}
		}
	}
	return reply, nil
}

// replyOverhead is at least how many bytes a canonical uid.Reply has besides
// UIDMESSAGEENCRYPTED: names, entry, position and signature.
const replyOverhead = 512

// message returns a message that was accepted, also where its reply is not there yet.
func (t *tx) message(uidHash hashchain.Hash) (*uid.Message, error) {
	for _, recent := range []map[hashchain.Hash]*uid.Message{t.messages, t.recent} {
		if m := recent[uidHash]; m != nil {
			return m, nil
		}
	}
	return readByHash(t.view, uidHash)
}

// checkLastEntry returns ErrLastEntry unless text is an entry of this chain; if
// it must be fresh, one that was the last at some time within MaxLastEntryAge.
func (t *tx) checkLastEntry(text string, fresh bool) error {
	entry, err := hashchain.Parse(text)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrLastEntry, err)
	}
	foreign := fmt.Errorf("%w is not an entry of this hashchain", ErrLastEntry)
	b, ok, err := t.view.Get(byHashKey(entry.Hash()))
	if err != nil || !ok {
		return errors.Join(err, foreign)
	}
	position, err := decodeNumber(b)
	if err != nil {
		return err
	}
	here, err := readEntry(t.view, position)
	if err != nil {
		return err
	}
	if here.entry != entry {
		return foreign
	}
	if !fresh || position+1 == t.state.chain.Size {
		return nil
	}
	successor, err := readEntry(t.view, position+1)
	if err != nil {
		return err
	}
	if t.now > successor.time && t.now-successor.time > MaxLastEntryAge {
		return fmt.Errorf("%w is at position %d and was followed %d seconds ago, at most %d are allowed: update the hashchain",
			ErrLastEntry, position, t.now-successor.time, MaxLastEntryAge)
	}
	return nil
}
