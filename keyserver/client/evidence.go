package client

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"sort"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// What a keyserver says can come from somebody between it and the client, unless the
// keyserver has signed it.
var (
	// ErrMisbehaviour says that a keyserver has signed what an honest one does not.
	ErrMisbehaviour = errors.New("the keyserver misbehaves")
	// ErrContradiction says that another history is shown than before. Try another
	// network, and compare fingerprint and head with others': if the copy is wrong,
	// Resync begins it again.
	ErrContradiction = errors.New("the keyserver, or somebody between, shows another history than before")
	// ErrUnsigned says that something was shown for which there is no message that the
	// keyserver has signed. Try again, or on another network.
	ErrUnsigned = errors.New("the keyserver, or somebody between, shows what the keyserver has not signed")
)

// Misbehaviour says what a keyserver has signed. It wraps ErrMisbehaviour. What has
// been taken from it before stays as it is; what it said this time is not believed.
type Misbehaviour struct {
	Position uint64 // in the hashchain
	Problem  string
	File     string // with the evidence
	cause    error
}

func (m *Misbehaviour) Error() string {
	return fmt.Sprintf("%v: position %d: %s (evidence is kept in %s)", ErrMisbehaviour, m.Position, m.Problem, m.File)
}

func (m *Misbehaviour) Unwrap() []error { return []error{ErrMisbehaviour, m.cause} }

// Unproven says what was shown that does not fit, and that nothing convicts the
// keyserver of. It wraps ErrContradiction or ErrUnsigned. Nothing of it is kept.
type Unproven struct {
	Position uint64 // in the hashchain
	Problem  string
	kind     error
}

func (u *Unproven) Error() string {
	return fmt.Sprintf("%v: position %d: %s", u.kind, u.Position, u.Problem)
}

func (u *Unproven) Unwrap() error { return u.kind }

func unproven(kind error, position uint64, format string, args ...any) error {
	return &Unproven{position, fmt.Sprintf(format, args...), kind}
}

// evidence is a file of evidence. The replies, which the keyserver has signed, prove
// something to others who have the same hashchain up to Covers. Only those who have seen the
// rest know it.
type evidence struct {
	Problem  string `json:"problem"`
	Position uint64 `json:"position"`
	Domain   string `json:"domain"`
	URL      string `json:"url"`
	Time     uint64 `json:"time"` // at which it was noticed first, Unix seconds

	Size uint64 `json:"size"` // entries in the local copy
	Head string `json:"head"` // hash of the last of them, hex

	Mine     string          `json:"mine,omitempty"`     // entry in the local copy
	Previous string          `json:"previous,omitempty"` // entry before it
	Theirs   string          `json:"theirs,omitempty"`   // entry that the keyserver shows instead
	Reply    json.RawMessage `json:"reply,omitempty"`    // signed by the keyserver
	Key      []byte          `json:"key,omitempty"`      // public, by which it must be signed
	Message  json.RawMessage `json:"message,omitempty"`  // UID message, signed by its author
	// Covers is the signed reply about an entry whose hash covers what Reply
	// contradicts.
	Covers json.RawMessage `json:"covers,omitempty"`
	// Checkpoint is one of the keyserver's log that the copy does not contain, Log the keyserver's
	// signed word about whose it is.
	Checkpoint string                        `json:"checkpoint,omitempty"`
	Log        *hashchain.SignedLogStatement `json:"log,omitempty"`
}

// exhibit is what evidence is made of; any part but the reply may be missing.
type exhibit struct {
	theirs  *hashchain.Entry
	reply   *uid.Reply
	message *uid.Message
	covers  *uid.Reply // by default that of the copy
	// checkpoint is one of another history, log says whose.
	checkpoint string
	log        *hashchain.SignedLogStatement
	keys       serverKeys // by default those of the copy
	cause      error
}

// misbehaves keeps evidence of a problem at a position and returns the error. The
// same problem is kept once. While nothing says which hashchain is the keyserver's,
// anybody can make and sign one in its name: it is Unproven then.
func (c *Client) misbehaves(position uint64, x exhibit, format string, args ...any) error {
	if c.pin == nil {
		return unproven(ErrUnsigned, position, format+"; the hashchain is not known to be the keyserver's, for want of a fingerprint", args...)
	}
	if x.covers == nil {
		x.covers = c.state.Covers
	}
	if x.keys == nil {
		x.keys = c.state.Keys
	}
	m := &Misbehaviour{Position: position, Problem: fmt.Sprintf(format, args...), cause: x.cause}
	e := evidence{
		Problem: m.Problem, Position: position, Domain: c.state.Domain, URL: c.state.URL,
		Size: c.Size(), Head: c.Head().String(), Checkpoint: x.checkpoint, Log: x.log,
	}
	text := func(position uint64) string {
		entry, err := c.chain.At(position)
		if err != nil {
			return ""
		}
		return entry.String()
	}
	if position < c.Size() {
		e.Mine = text(position)
	}
	if position > 0 && position <= c.Size() {
		e.Previous = text(position - 1)
	}
	if x.theirs != nil {
		e.Theirs = x.theirs.String()
	}
	e.Reply, e.Key = x.reply.Canonical(), x.keys.inForce(position)
	if x.covers != nil {
		e.Covers = x.covers.Canonical()
	}
	if x.message != nil {
		e.Message = x.message.Canonical()
	}
	content, err := json.Marshal(e)
	if err != nil {
		return errors.Join(m, err)
	}
	sum := sha256.Sum256(content)
	m.File = c.path(evidenceDir, fmt.Sprintf("%d-%x.json", position, sum[:8]))
	if _, err := readFile(m.File); err == nil {
		return m
	}
	e.Time = c.now()
	if err := writeJSON(m.File, e); err != nil {
		return errors.Join(m, fmt.Errorf("keeping evidence: %w", err))
	}
	return m
}

// fork finds where the keyserver's chain differs from the copy, of which it has
// the first end positions: the first position with another entry.
func (c *Client) fork(ctx context.Context, caps *capabilities, end uint64) (position uint64, theirs *hashchain.Entry, err error) {
	seen := make(map[uint64]hashchain.Entry)
	differs := func(i int) bool {
		if err != nil {
			return true
		}
		var mine hashchain.Entry
		var got []hashchain.Entry
		if mine, err = c.chain.At(uint64(i)); err == nil {
			got, err = c.wire.entries(ctx, caps, uint64(i), 1)
		}
		if err != nil {
			return true
		}
		seen[uint64(i)] = got[0]
		return got[0] != mine
	}
	position = uint64(sort.Search(int(end), differs))
	if e, ok := seen[position]; ok && err == nil {
		theirs = &e
	}
	return position, theirs, err
}

const anotherEntry = "another entry is shown there than the copy has"

// contradicts says what it means that an entry is shown at a position where the copy
// has another: misbehaviour, if the keyserver has signed it, too.
func (c *Client) contradicts(ctx context.Context, caps *capabilities, position uint64, theirs *hashchain.Entry) error {
	if c.state.Covers != nil {
		reply, err := c.wire.reply(ctx, caps, theirs.UIDIndex())
		if err == nil && c.state.Keys.signed(reply, position, theirs) == nil {
			return c.misbehaves(position, exhibit{theirs: theirs, reply: reply}, "the entry was rewritten: the keyserver has signed that another one is there")
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return unproven(ErrContradiction, position, "%s", anotherEntry)
}

// otherReply says what it means that a reply is not the one that was asked for, about a
// position: misbehaviour, if the keyserver has signed what the copy contradicts.
func (c *Client) otherReply(position uint64, reply *uid.Reply, problem error) error {
	at := reply.Entry.HashchainPos
	if c.state.Covers != nil && at < c.Size() && reply.Verify(c.state.Keys.inForce(at)) == nil {
		mine, err := c.chain.At(at)
		if err != nil {
			return err
		}
		if reply.Entry.HashchainEntry != mine.String() {
			return c.misbehaves(at, exhibit{reply: reply}, "the keyserver has signed that another entry is there")
		}
	}
	return unproven(ErrUnsigned, position, "%v", problem)
}
