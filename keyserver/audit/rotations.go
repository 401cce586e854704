package audit

import (
	"context"
	"fmt"

	"github.com/keytree-bch/keytree/keyserver/chainfile"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// rotationSearch is which entries of the copy replaced the key of a domain's keyserver, as
// far as it was searched. It is dropped when entries of the copy are.
type rotationSearch struct {
	domain    string
	size      uint64 // entries that were searched
	positions []uint64
}

// rotations returns the positions of the entries in the copy that replaced the key of a
// domain's keyserver. It tries every entry, once, and only if somebody is to be convicted
// by a statement: whoever has stolen a replaced key, and stands in between, would leave
// them out of what the keyserver says.
func (a *Auditor) rotations(ctx context.Context, domain string) ([]uint64, error) {
	s := &a.search
	if s.domain != domain {
		*s = rotationSearch{domain: domain}
	}
	for s.size < a.copy.Size() {
		entries, err := a.copy.Load(s.size, min(a.copy.Size()-s.size, chainfile.AtOnce))
		if err != nil {
			return nil, err
		}
		found, err := hashchain.Search(ctx, entries, uid.KeyserverLocalpart+"@"+domain)
		if err != nil {
			return nil, context.Cause(ctx)
		}
		for _, i := range found {
			if position := s.size + uint64(i); position > 0 {
				s.positions = append(s.positions, position)
			}
		}
		s.size += uint64(len(entries))
		a.config.Progress("entries searched for the keyserver's keys", s.size, a.copy.Size())
	}
	return s.positions, nil
}

// pinsFor are what the auditor knows that bears on evidence. What the copy says of the
// keyserver's keys counts as far as an anchor commits to it.
func (a *Auditor) pinsFor(ctx context.Context, e *Evidence) (Pins, error) {
	p := a.pins()
	if len(e.Keyserver) == 0 { // no key convicts
		return p, nil
	}
	var err error
	p.Rotations, err = a.rotations(ctx, e.Domain)
	p.Asked = a.chain.Size
	return p, err
}

// AskRotations asks a keyserver with a fingerprint where it has replaced its key, as
// who reads evidence about it has to know (Pins).
//
// Each rotation is shown by a message that the key before it has signed. Whether the
// entries are in the history that others see is not checked: a keyserver can defend
// itself by a rotation that it has made up, and convicts itself by that where others
// have another entry at its position.
func AskRotations(ctx context.Context, from Keyserver, domain string, fingerprint hashchain.Hash) (positions []uint64, err error) {
	identity := uid.KeyserverLocalpart + "@" + domain
	said, err := from.Positions(ctx, identity)
	if err != nil {
		return nil, err
	}
	if len(said) > maxKeys {
		return nil, fmt.Errorf("%s: %d messages, expected at most %d", identity, len(said), maxKeys)
	}
	var replies []*uid.Reply
	for i, position := range append([]uint64{0}, said...) {
		if i > 0 && position == 0 {
			continue
		}
		entry, err := entryAt(ctx, from, position)
		if err != nil {
			return nil, err
		}
		if i == 0 && (entry.Hash() != fingerprint || !entry.Follows(hashchain.Hash{})) {
			return nil, fmt.Errorf("%s: its first entry is %s, expected the pinned %s: another keyserver", identity, entry.Hash(), fingerprint)
		}
		reply, err := from.Reply(ctx, entry.UIDIndex())
		if err != nil {
			return nil, fmt.Errorf("%s, position %d: %w", identity, position, err)
		}
		if reply.Entry.HashchainPos != position || reply.Entry.HashchainEntry != entry.String() {
			return nil, fmt.Errorf("%s, position %d: the message is of another entry", identity, position)
		}
		replies = append(replies, reply)
	}
	keys, err := readKeys(domain, replies)
	if err != nil {
		return nil, err
	}
	for _, k := range keys[1:] {
		positions = append(positions, k.position)
	}
	return positions, nil
}

// entryAt returns the entry that a keyserver shows at a position.
func entryAt(ctx context.Context, from Keyserver, position uint64) (hashchain.Entry, error) {
	for entries, err := range from.Entries(ctx, position) {
		if err != nil {
			return hashchain.Entry{}, err
		}
		if len(entries) > 0 {
			return entries[0], nil
		}
	}
	return hashchain.Entry{}, fmt.Errorf("the keyserver shows no entry at position %d", position)
}
