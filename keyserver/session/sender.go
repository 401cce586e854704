package session

import (
	"context"
	"fmt"
	"slices"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// Hashchain is the recipient's own copy of the hashchain, verified and current.
type Hashchain interface {
	// Search returns all entries about an identity (mapped), in their order; none if
	// there is none, or if the chain is not of the identity's domain.
	Search(ctx context.Context, identity string) ([]hashchain.Entry, error)
}

// verifySender checks that UID messages are all that the hashchain has of their
// identity, that each allows the next, and that the last is valid now and has the
// key that the sender has proven to own. What needs no search comes first.
func verifySender(ctx context.Context, chain Hashchain, history []uid.Message, key []byte, now uint64) error {
	if len(history) == 0 {
		return fmt.Errorf("%w: UIDMESSAGES: expected at least one", ErrSender)
	}
	for i := range history {
		if err := verifyNext(history[:i], &history[i], now); err != nil {
			return fmt.Errorf("%w: UIDMESSAGES[%d]: %w", ErrSender, i, err)
		}
	}
	c := &history[len(history)-1].Content
	if !uid.Trusted(c.NotAfter, now) {
		return fmt.Errorf("%w: %w: %s was valid until %s, it is %s", ErrSender, uid.ErrExpired, c.Identity, uid.Date(c.NotAfter), uid.Date(now))
	}
	own := canonical.Encode(key)
	if !slices.ContainsFunc(c.PubKeys, func(k uid.KeyEntry) bool { return k.PubKey == own }) {
		return fmt.Errorf("%w: the message is not by a key in PUBKEYS of %s", ErrSender, c.Identity)
	}

	entries, err := chain.Search(ctx, c.Identity)
	if err != nil {
		return fmt.Errorf("searching the hashchain for %s: %w", c.Identity, err)
	}
	for i := range min(len(entries), len(history)) {
		if hash, ok := entries[i].Open(c.Identity); !ok || hash != history[i].Hash() {
			return fmt.Errorf("%w: UIDMESSAGES[%d]: not the one that the hashchain has for %s", ErrSender, i, c.Identity)
		}
	}
	switch have, want := len(entries), len(history); {
	case have < want:
		return fmt.Errorf("%w: it has %d entries of %s, the sender's has %d", ErrBehind, have, c.Identity, want)
	case have > want:
		return fmt.Errorf("%w: %s has changed its keys since (the hashchain has %d entries, the message %d): ask for another message",
			ErrSender, c.Identity, have, want)
	}
	return nil
}

// verifyNext checks a UID message against those before it of the same identity.
func verifyNext(before []uid.Message, m *uid.Message, now uint64) error {
	if err := m.Check(); err != nil {
		return err
	}
	if len(before) == 0 {
		return m.VerifyCreation()
	}
	previous := &before[len(before)-1]
	if m.Content.MsgCount > 0 {
		return m.VerifyUpdate(previous)
	}
	// The name may have gone to somebody else, but only long after it expired.
	if p := &previous.Content; p.Identity != m.Content.Identity || uid.Taken(p.NotAfter, now) {
		return fmt.Errorf("%w: MSGCOUNT is 0, but the message before it, valid until %s, keeps the name taken", uid.ErrInvalid, uid.Date(p.NotAfter))
	}
	return m.VerifyCreation()
}
