package links

import (
	"context"
	"fmt"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// Identities answers questions about identities, their links and actions, as of one block. Every
// answer of one view is about the same state. It is not safe for concurrent use.
type Identities struct {
	state  *State
	store  *store.Iterators
	ledger ledger // of the state
	height uint32
	tip    bool // the state is as of height: nothing came later

	// stillThere returns an error if the view's block is not on the chain any more.
	stillThere func() error

	known map[protocol.KeyHash]place
}

// place is where a key stands in its tree, as found by walking stored parents.
type place struct {
	root  protocol.KeyHash
	depth uint32
	id    chainhash.Hash // of the tree, zero if it has none
}

// maxKnown bounds Identities.known, which lets many questions of one view share the
// upper part of their walks.
const maxKnown = 1 << 17

// NewIdentities returns a view as of a height of a state, whose tip is at height tip, and which
// the iterators read. They are the caller's to close, when the view is not asked any more.
// What stillThere returns if the view's block is not on the chain any more, questions return as well.
func NewIdentities(s *State, it *store.Iterators, height, tip uint32, stillThere func() error) *Identities {
	return &Identities{state: s, store: it, ledger: s.ledger(it.Txn(), tip+1), height: height, tip: height == tip, stillThere: stillThere}
}

// links returns the record of a key as of the view, an empty one if there is
// none; its id may be missing. It is in memory, unless the key has moved since.
func (v *Identities) links(key protocol.KeyHash) (r keyRecord, err error) {
	s := v.state
	n := s.keys.Find(key)
	switch {
	case n == none:
		return r, nil
	case s.places.Ref(n).moved > v.height:
		return v.storedKey(key)
	}
	return s.record(n), nil
}

// storedKey returns the record of a key as of the view from the store, an empty
// one if there is none.
func (v *Identities) storedKey(key protocol.KeyHash) (r keyRecord, err error) {
	value, err := v.store.Version(store.KeyStem(key), v.height)
	if err == nil && value != nil {
		r, err = decodeKeyRecord(value)
	}
	return r, err
}

// Resolve says which identity is behind a key (identity-rules §5, §6). A key
// that was never linked is its own. As of the tip it takes time logarithmic in
// the identity's size; as of an older block, linear in the key's depth then.
// Errors are the store's or the context's.
func (v *Identities) Resolve(ctx context.Context, key protocol.KeyHash) (Resolution, error) {
	if err := v.stillThere(); err != nil {
		return Resolution{}, err
	}
	if v.tip {
		return v.state.resolve(key), nil
	}
	return v.resolveStored(ctx, key)
}

// resolve says which identity is behind a key now.
func (s *State) resolve(key protocol.KeyHash) Resolution {
	n := s.keys.Find(key)
	if n == none {
		return Resolution{Key: key, Root: key, Path: []protocol.KeyHash{key}}
	}
	root := s.forest.Root(n)
	r := Resolution{Key: key, Root: s.keys.Key(root), Depth: uint32(s.forest.Depth(n))}
	r.ID = s.identity(root).tx
	r.Truncated = r.Depth >= MaxPath
	r.Path = make([]protocol.KeyHash, 0, min(r.Depth+1, MaxPath))
	if p := s.forest.Parent(n); p != none {
		parent, accept := s.keys.Key(p), s.places.Ref(n).name.tx
		r.Parent, r.Accept = &parent, &accept
	}
	for at := n; at != none && len(r.Path) < MaxPath; at = s.forest.Parent(at) {
		r.Path = append(r.Path, s.keys.Key(at))
	}
	return r
}

// resolveStored answers from the stored versions, walking up from parent to
// parent.
func (v *Identities) resolveStored(ctx context.Context, key protocol.KeyHash) (Resolution, error) {
	r := Resolution{Key: key}
	var walked []protocol.KeyHash // beyond known places, key first
	var top place
	for at := key; ; {
		if p, ok := v.known[at]; ok && len(r.Path) == MaxPath {
			top = p
			break
		}
		if len(r.Path) < MaxPath {
			r.Path = append(r.Path, at)
		}
		walked = append(walked, at)
		record, err := v.links(at)
		if err != nil {
			return r, err
		}
		if !record.hasParent {
			if record, err = v.storedKey(at); err != nil {
				return r, err
			}
			top = place{at, 0, record.id.tx}
			walked = walked[:len(walked)-1]
			break
		}
		if at == key {
			r.Parent, r.Accept = &record.parent, &record.accept.tx
		}
		at = record.parent
		if len(walked)%1024 == 0 && ctx.Err() != nil {
			return r, ctx.Err()
		}
	}
	r.Root, r.Depth, r.ID = top.root, top.depth+uint32(len(walked)), top.id
	r.Truncated = r.Depth >= MaxPath
	if v.known == nil {
		v.known = make(map[protocol.KeyHash]place)
	}
	for i, at := range walked[:min(len(walked), max(0, maxKnown-len(v.known)))] {
		v.known[at] = place{top.root, r.Depth - uint32(i), top.id}
	}
	return r, nil
}

// Identity describes an identity by its id_tx_hash. ErrNotFound if id names none
// as of the view.
func (v *Identities) Identity(id chainhash.Hash) (Identity, error) {
	value, err := v.store.Version(store.IdentityStem(id), v.height)
	if err != nil {
		return Identity{}, err
	}
	if value == nil {
		return Identity{}, fmt.Errorf("identity %v as of height %d: %w", id, v.height, store.ErrNotFound)
	}
	answer := Identity{ID: id}
	if len(value) == 0 {
		name, err := v.survivor(id)
		if err != nil {
			return Identity{}, err
		}
		answer.MergedInto = &name
		if value, err = v.store.Version(store.IdentityStem(name), v.height); err != nil {
			return Identity{}, err
		}
	}
	record, err := decodeIdentityRecord(value)
	if err != nil {
		return Identity{}, err
	}
	answer.Root, answer.Keys = record.root, record.keys
	if err := v.stillThere(); err != nil {
		return Identity{}, err
	}
	n, err := v.find(id)
	if err == nil {
		answer.NamedAt = v.ledger.heightOf(n)
	}
	return answer, err
}

// survivor returns the identity that the names which merged with id stand for
// as of the view (Draft.merge).
func (v *Identities) survivor(id chainhash.Hash) (chainhash.Hash, error) {
	for {
		value, err := v.store.Version(store.NameStem(id), v.height)
		if err != nil || value == nil {
			return id, err
		}
		r, err := decodeNameRecord(value)
		if err != nil || r.up == (chainhash.Hash{}) {
			return r.survivor, err
		}
		id = r.up
	}
}
