package graph

import (
	"context"
	"fmt"

	"github.com/dgraph-io/badger/v4"
	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
)

// View answers questions as of one block. Every answer of one view is about the
// same state, whatever is connected meanwhile; if the block is taken back, the
// answer is ErrReorganised, until it comes back. A view holds
// resources of the store until Close. It is not safe for concurrent use; make
// one per request.
type View struct {
	g        *Graph
	snapshot *snapshot // held until Close
	ledger   ledger    // of snapshot
	block    blockRecord
	height   uint32

	// taken is snapshot.taken of the one that was current when the view's block was last
	// known to be on the chain.
	taken uint64

	iterators map[byte]*badger.Iterator // by prefix
	known     map[protocol.KeyHash]place
	closed    bool
}

// place is where a key stands in its tree, as found by walking stored parents.
type place struct {
	root  protocol.KeyHash
	depth uint32
	id    chainhash.Hash // of the tree, zero if it has none
}

// maxKnown bounds View.known, which lets many questions of one view share the
// upper part of their walks.
const maxKnown = 1 << 17

// At returns a view as of height, nil meaning the tip. ErrEmpty before the first
// block; ErrHeight before the start height and beyond the tip.
func (g *Graph) At(height *uint32) (*View, error) {
	s, err := g.hold()
	if err != nil {
		return nil, err
	}
	v, err := s.at(g, height)
	if err != nil {
		s.release()
	}
	return v, err
}

// at returns a view of a snapshot, which it holds from then on instead of the caller.
func (s *snapshot) at(g *Graph, height *uint32) (*View, error) {
	if s.tip == nil {
		return nil, ErrEmpty
	}
	v := &View{g: g, snapshot: s, ledger: s.ledger(), height: s.tip.Height, block: s.block, taken: s.taken}
	if height == nil || *height == s.tip.Height {
		return v, nil
	}
	v.height = *height
	if v.height < g.params.StartHeight || v.height > s.tip.Height {
		return nil, fmt.Errorf("%w: expected %d to %d, got %d", ErrHeight, g.params.StartHeight, s.tip.Height, v.height)
	}
	var err error
	if v.block, err = readBlock(s.txn, v.height); err != nil {
		return nil, err
	}
	return v, nil
}

// Close releases the view. Closing twice does nothing.
func (v *View) Close() {
	if v.closed {
		return
	}
	v.closed = true
	for _, it := range v.iterators {
		it.Close()
	}
	v.iterators = nil
	v.snapshot.release()
}

// Height returns the height that the view is as of.
func (v *View) Height() uint32 { return v.height }

// Hash returns the hash of the block that the view is as of.
func (v *View) Hash() chainhash.Hash { return v.block.hash }

// iterator returns the view's iterator over a prefix, anywhere in it.
func (v *View) iterator(prefix byte) *badger.Iterator {
	it := v.iterators[prefix]
	if it == nil {
		it = newIterator(v.snapshot.txn, []byte{prefix})
		if v.iterators == nil {
			v.iterators = make(map[byte]*badger.Iterator)
		}
		v.iterators[prefix] = it
	}
	return it
}

// stillThere returns ErrReorganised if the view's block is not on the chain any more.
func (v *View) stillThere() error {
	if s := v.g.current.Load(); s.broken == nil && s.taken == v.taken {
		return nil
	}
	s, err := v.g.hold()
	if err != nil {
		return err
	}
	defer s.release()
	if err := s.hasBlock(v.height, &v.block); err != nil {
		return err
	}
	v.taken = s.taken
	return nil
}

// version returns the version as of the view of the thing with the given stem,
// which it may change; nil if there is none, which is not the same as an empty
// one.
func (v *View) version(stem []byte) (value []byte, err error) {
	it := v.iterator(stem[0])
	n := len(stem)
	stem = version(stem, v.height)
	it.Seek(stem)
	if !it.ValidForPrefix(stem[:n]) {
		return nil, nil
	}
	value, err = it.Item().ValueCopy(nil)
	if err != nil {
		return nil, fmt.Errorf("reading the database: %w", err)
	}
	if value == nil {
		value = []byte{}
	}
	return value, nil
}

// links returns the record of a key as of the view, an empty one if there is
// none; its id may be missing. It is in memory, unless the key has moved since.
func (v *View) links(key protocol.KeyHash) (r keyRecord, err error) {
	s := v.snapshot.state
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
func (v *View) storedKey(key protocol.KeyHash) (r keyRecord, err error) {
	value, err := v.version(keyStem(key))
	if err == nil && value != nil {
		r, err = decodeKeyRecord(value)
	}
	return r, err
}

// Resolve says which identity is behind a key (identity-rules §5, §6). A key
// that was never linked is its own. As of the tip it takes time logarithmic in
// the identity's size; as of an older block, linear in the key's depth then.
// Errors are the store's or the context's.
func (v *View) Resolve(ctx context.Context, key protocol.KeyHash) (Resolution, error) {
	if err := v.stillThere(); err != nil {
		return Resolution{}, err
	}
	if v.height == v.snapshot.tip.Height {
		return v.snapshot.state.resolve(key), nil
	}
	return v.resolveStored(ctx, key)
}

// resolve says which identity is behind a key now.
func (s *state) resolve(key protocol.KeyHash) Resolution {
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
func (v *View) resolveStored(ctx context.Context, key protocol.KeyHash) (Resolution, error) {
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
func (v *View) Identity(id chainhash.Hash) (Identity, error) {
	value, err := v.version(identityStem(id))
	if err != nil {
		return Identity{}, err
	}
	if value == nil {
		return Identity{}, fmt.Errorf("identity %v as of height %d: %w", id, v.height, ErrNotFound)
	}
	answer := Identity{ID: id}
	if len(value) == 0 {
		name, err := v.survivor(id)
		if err != nil {
			return Identity{}, err
		}
		answer.MergedInto = &name
		if value, err = v.version(identityStem(name)); err != nil {
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
// as of the view (state.merge).
func (v *View) survivor(id chainhash.Hash) (chainhash.Hash, error) {
	for {
		value, err := v.version(nameStem(id))
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
