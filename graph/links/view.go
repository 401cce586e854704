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

	past pastKeys

	// stillThere returns an error if the view's block is not on the chain any more.
	stillThere func() error

	most  int             // work that a question may take: MaxWork, less in tests
	work  int             // of the question under way
	known map[int32]place // of keys whose link is not what it was, by number
}

// NewIdentities returns a view as of a height of a state, whose tip is at height tip, and which
// the iterators read. They are the caller's to close, when the view is not asked any more.
// What stillThere returns if the view's block is not on the chain any more, questions return as well.
func NewIdentities(s *State, it *store.Iterators, height, tip uint32, stillThere func() error) *Identities {
	return &Identities{
		state: s, store: it, ledger: s.ledger(it.Txn(), tip+1), height: height, tip: height == tip,
		past: newPastKeys(s, it, height), stillThere: stillThere, most: MaxWork,
	}
}

// Resolve says which identity is behind a key (protocol/SPEC.md §5, §6). A key
// that was never linked is its own. As of the tip it takes time logarithmic in
// the identity's size; as of an older block as much for each key that was on the way to the
// root then and is linked otherwise since. ErrWork once that is more than MaxWork; other errors
// are the store's or the context's.
func (v *Identities) Resolve(ctx context.Context, key protocol.KeyHash) (Resolution, error) {
	if err := v.stillThere(); err != nil {
		return Resolution{}, err
	}
	if v.tip {
		return v.state.resolve(key), nil
	}
	return v.resolvePast(ctx, key)
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
		parent, accept := s.keys.Key(p), s.namedBy.Ref(n).tx
		r.Parent, r.Accept = &parent, &accept
	}
	for at := n; at != none && len(r.Path) < MaxPath; at = s.forest.Parent(at) {
		r.Path = append(r.Path, s.keys.Key(at))
	}
	return r
}

// Identity describes an identity by its id_tx_hash. ErrNotFound if id names none
// as of the view. It reads at most 35 records: 32 of them are names on the way to the
// one that survives, however many have merged.
func (v *Identities) Identity(id chainhash.Hash) (Identity, error) {
	v.work = 0
	value, err := v.version(store.IdentityStem(id))
	if err != nil {
		return Identity{}, err
	}
	if value == nil {
		return Identity{}, fmt.Errorf("identity %v as of height %d: %w", id, v.height, store.ErrNotFound)
	}
	answer := Identity{ID: id}
	record, err := decodeIdentityRecord(value)
	if err != nil {
		return Identity{}, err
	}
	if record.merged() {
		name, err := v.survivor(id)
		if err != nil {
			return Identity{}, err
		}
		answer.MergedInto = &name
		if value, err = v.version(store.IdentityStem(name)); err != nil {
			return Identity{}, err
		}
		if record, err = decodeIdentityRecord(value); err != nil {
			return Identity{}, err
		}
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
		value, err := v.version(store.NameStem(id))
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
