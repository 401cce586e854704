package client

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// saveSearch is how often a long search is made one that can be resumed.
const saveSearch = time.Second

// ErrUnknown says that the copy of the hashchain has no entry of an identity.
var ErrUnknown = errors.New("not in the hashchain")

// Contact is who is behind an identity, as the copy of the hashchain has it.
type Contact struct {
	Identity string // mapped
	// History are all UID messages of the identity, the oldest first, each verified
	// against the one before it; the last is in force. A name that expired and went to
	// somebody else has the former owner's before.
	History []*uid.Message
	// Positions are those of their entries.
	Positions []uint64
	// Keys are the owner's signature keys, each since the entry that named it; the
	// last is the present one.
	Keys     []SigKey
	UIDIndex hashchain.Hash // of the message in force
}

// Message is the UID message in force.
func (c *Contact) Message() *uid.Message { return c.History[len(c.History)-1] }

// Position is that of the entry of the message in force.
func (c *Contact) Position() uint64 { return c.Positions[len(c.Positions)-1] }

// SigKey is the present public signature key.
func (c *Contact) SigKey() ed25519.PublicKey { return c.Message().Content.SigKey.Public() }

// search is lookups/HASH.json: what is known of an identity.
type search struct {
	Identity string   `json:"identity"`
	Searched uint64   `json:"searched"` // entries
	Found    []uint64 `json:"found"`    // positions among them, ascending
	// Messages are those of Found that were fetched and verified so far.
	Messages []*uid.Message `json:"messages"`

	path string
}

// hashName names the files that are about an identity.
func hashName(identity string) string {
	return fmt.Sprintf("%x.json", sha256.Sum256([]byte(identity)))
}

// openSearch returns what is known of an identity (mapped).
func (c *Client) openSearch(identity string) (*search, error) {
	s := &search{path: c.path(lookupsDir, hashName(identity))}
	err := readJSON(s.path, s)
	if errors.Is(err, fs.ErrNotExist) {
		s.Identity = identity
		return s, nil
	}
	if errors.Is(err, ErrDamaged) {
		return nil, fmt.Errorf("%w: %w", ErrDamagedCopy, err)
	}
	if err != nil {
		return nil, err
	}
	wrong := s.Identity != identity || s.Searched > c.Size() || len(s.Messages) > len(s.Found)
	for _, position := range s.Found {
		wrong = wrong || position >= s.Searched
	}
	for i := 0; !wrong && i < len(s.Messages); i++ {
		entry, err := c.chain.At(s.Found[i])
		if err != nil {
			return nil, err
		}
		uidHash, ok := entry.Open(identity)
		wrong = !ok || s.Messages[i] == nil || uidHash != s.Messages[i].Hash()
	}
	if wrong {
		return nil, fmt.Errorf("%w: %s does not belong to this copy of the hashchain", ErrDamagedCopy, s.path)
	}
	return s, nil
}

func (s *search) save() error { return writeJSON(s.path, s) }

// forward tries the entries that have not been tried yet.
func (c *Client) forward(ctx context.Context, s *search) (err error) {
	saved, begun := c.opt.Now(), s.Searched
	defer func() {
		if s.Searched != begun {
			err = errors.Join(err, s.save())
		}
	}()
	load := func(_ context.Context, first, count uint64) ([]hashchain.Entry, error) {
		return c.chain.Read(first, count)
	}
	return inPieces(ctx, s.Searched, c.Size(), load, func(first uint64, entries []hashchain.Entry) error {
		found, err := hashchain.Search(ctx, entries, s.Identity)
		if err != nil {
			return err
		}
		for _, i := range found {
			s.Found = append(s.Found, first+uint64(i))
		}
		s.Searched += uint64(len(entries))
		c.opt.Progress("searching", s.Searched, c.Size())
		if now := c.opt.Now(); now.Sub(saved) >= saveSearch {
			saved = now
			return s.save()
		}
		return nil
	})
}

// verify fetches and verifies the messages that were found, each against the one
// before it.
func (c *Client) verify(ctx context.Context, s *search) error {
	for n := len(s.Messages); n < len(s.Found); n++ {
		position := s.Found[n]
		m, reply, err := c.fetchMessage(ctx, s.Identity, position)
		if err != nil {
			return err
		}
		switch {
		case n == 0:
			err = m.VerifyCreation()
		case m.Content.MsgCount > 0:
			err = m.VerifyUpdate(s.Messages[n-1])
		case uid.Taken(s.Messages[n-1].Content.NotAfter, c.now()):
			err = errors.New("it was registered again while it was taken")
		default:
			err = m.VerifyCreation() // somebody else has the name now
		}
		if err != nil {
			return c.misbehaves(position, exhibit{reply: reply, message: m, cause: err}, "%s: %v", s.Identity, err)
		}
		if err := c.checkLastEntry(position, m, reply); err != nil {
			return err
		}
		s.Messages = append(s.Messages, m)
		if err := s.save(); err != nil {
			return err
		}
	}
	return nil
}

// contact returns what a search that found something has come to.
func (c *Client) contact(s *search) (*Contact, error) {
	found := &Contact{Identity: s.Identity, History: s.Messages, Positions: s.Found}
	for i, m := range s.Messages {
		key := ed25519.PublicKey(m.Content.SigKey.Public())
		switch n := len(found.Keys); {
		case m.Content.MsgCount == 0:
			found.Keys = []SigKey{{s.Found[i], key}}
		case !found.Keys[n-1].Public.Equal(key):
			found.Keys = append(found.Keys, SigKey{s.Found[i], key})
		}
	}
	entry, err := c.chain.At(found.Position())
	found.UIDIndex = entry.UIDIndex()
	return found, err
}

// checkLastEntry checks that the author of a message saw the same chain.
func (c *Client) checkLastEntry(position uint64, m *uid.Message, reply *uid.Reply) error {
	if m.Content.LastEntry == "" {
		return nil // the keyserver's first message
	}
	last, err := hashchain.Parse(m.Content.LastEntry)
	if err != nil {
		return err // Check has seen that it is one
	}
	_, found, err := c.chain.Find(&last, 0, position)
	if err == nil && !found {
		err = c.misbehaves(position, exhibit{theirs: &last, reply: reply, message: m},
			"the author of the message had a LASTENTRY that is not in this hashchain before it: the keyserver shows different chains to different users")
	}
	return err
}

// Lookup tells who is behind an identity, by the copy of the hashchain as it is: it
// tries every entry that was not tried before, and verifies each UID message
// against its predecessor. Where the copy ends now it goes on next time; also after
// an interruption. ErrUnknown if there is none.
//
// The keyserver learns whose messages are fetched when they are new, but nothing of
// identities that are not found.
func (c *Client) Lookup(ctx context.Context, identity string) (*Contact, error) {
	if mapped, err := uid.Map(identity); err == nil && domainOf(mapped) != c.state.Domain {
		return nil, fmt.Errorf("%w: %s: this is the keyserver of %s, which has no other names", ErrUnknown, mapped, c.state.Domain)
	}
	s, err := c.searched(ctx, identity)
	if err != nil {
		return nil, err
	}
	if len(s.Found) == 0 {
		return nil, fmt.Errorf("%w: %s, among %d entries", ErrUnknown, s.Identity, s.Searched)
	}
	if err := c.verify(ctx, s); err != nil {
		return nil, err
	}
	return c.contact(s)
}

// Search returns the entries of the copy that are about an identity, in their order.
func (c *Client) Search(ctx context.Context, identity string) ([]hashchain.Entry, error) {
	s, err := c.searched(ctx, identity)
	if err != nil {
		return nil, err
	}
	var entries []hashchain.Entry
	for _, position := range s.Found {
		entry, err := c.chain.At(position)
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry)
	}
	return entries, nil
}

// searched returns what is known of an identity after all entries were tried.
func (c *Client) searched(ctx context.Context, identity string) (*search, error) {
	identity, err := uid.Map(identity)
	if err != nil {
		return nil, err
	}
	s, err := c.openSearch(identity)
	if err != nil {
		return nil, err
	}
	return s, c.forward(ctx, s)
}

// Trusted returns uid.ErrExpired unless a contact's message is valid now.
func (c *Client) Trusted(contact *Contact) error {
	if notAfter := contact.Message().Content.NotAfter; !uid.Trusted(notAfter, c.now()) {
		return fmt.Errorf("%w: %s expired at %s and was not renewed", uid.ErrExpired, contact.Identity, uid.Date(notAfter))
	}
	return nil
}
