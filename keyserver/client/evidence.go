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

// ErrMisbehaviour says that a keyserver did what an honest one does not.
var ErrMisbehaviour = errors.New("the keyserver misbehaves")

// Misbehaviour says what a keyserver did. It wraps ErrMisbehaviour. What has been
// taken from it before stays as it is; what it said this time is not believed.
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

// evidence is a file of evidence. What the keyserver has signed, replies, proves
// something to others; the rest is only known to who has seen it.
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
}

// exhibit is what evidence is made of; any part may be missing.
type exhibit struct {
	theirs  *hashchain.Entry
	reply   *uid.Reply
	message *uid.Message
	cause   error
}

// misbehaves keeps evidence of a problem at a position and returns the error. The
// same problem is kept once.
func (c *Client) misbehaves(position uint64, x exhibit, format string, args ...any) error {
	m := &Misbehaviour{Position: position, Problem: fmt.Sprintf(format, args...), cause: x.cause}
	e := evidence{
		Problem: m.Problem, Position: position, Domain: c.state.Domain, URL: c.state.URL,
		Size: c.Size(), Head: c.Head().String(),
	}
	text := func(position uint64) string {
		entry, err := c.chain.at(position)
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
	if x.reply != nil {
		e.Reply, e.Key = x.reply.Canonical(), c.signer(position)
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
		if mine, err = c.chain.at(uint64(i)); err == nil {
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
