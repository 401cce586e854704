package graph

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/dgraph-io/badger/v4"
	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
)

// Disconnect takes the tip back: afterwards the graph is as it was before that
// block was connected (identity-rules §8). The block is remembered as stale for
// those who watch. ErrHorizon if it lies below the undo horizon. Failing is as
// with Connect.
func (g *Graph) Disconnect() error {
	return g.takeStep(func(base *snapshot) (*change, error) {
		switch {
		case base.tip == nil:
			return nil, fmt.Errorf("%w: there is no block to disconnect", ErrHorizon)
		case base.tip.Height < base.undoFrom:
			return nil, fmt.Errorf("%w: block %d cannot be disconnected, only those from %d on", ErrHorizon, base.tip.Height, base.undoFrom)
		}
		c, err := g.disconnecting(base)
		if err != nil {
			err = fmt.Errorf("disconnecting block %d: %w", base.tip.Height, err)
		}
		return c, err
	})
}

// disconnecting returns the change that takes the tip of a snapshot back.
func (g *Graph) disconnecting(base *snapshot) (*change, error) {
	t, err := takeBack(base)
	if err != nil {
		return nil, err
	}
	seq, err := nextStale(base.txn)
	if err != nil {
		return nil, err
	}
	c := newChange(base)
	c.next.taken++
	if t.height == g.params.StartHeight {
		c.next.tip, c.next.block = nil, blockRecord{}
		c.setNoTip()
	} else {
		before, err := readBlock(base.txn, t.height-1)
		if err != nil {
			return nil, err
		}
		c.next.setBlock(t.height-1, before)
		c.setTip(t.height-1, before.hash)
	}
	value := binary.BigEndian.AppendUint64(nil, seq)
	c.set(staleKey(t.height, base.block.hash), append(value, base.block.prev[:]...))
	c.entries = append(c.entries, t.removed...)
	return c, c.next.state.takeBack(base.txn, t)
}

// takenBack is what a block did that is being taken back.
type takenBack struct {
	height  uint32
	actions []storedAction
	effects []storedEffect
	anchors []storedAnchorTx

	removed []entry  // deletions of all that it added
	changed [][]byte // of their keys, those under k and n
	chains  [][]byte // of their keys, those under c
}

// takeBack reads what the tip of a snapshot did.
func takeBack(base *snapshot) (*takenBack, error) {
	t := &takenBack{height: base.tip.Height}
	encoded, err := readChunks(base.txn, prefixEffects, t.height)
	if err != nil {
		return nil, err
	}
	if t.effects, err = decodeStoredEffects(encoded, base.state.txids.Len(), base.state.keys.Len()); err != nil {
		return nil, err
	}
	if t.actions, err = readActions(base.txn, t.height); err != nil {
		return nil, err
	}
	if t.anchors, err = readAnchorTxs(base.txn, t.height); err != nil {
		return nil, err
	}
	if t.removed, err = removal(base.txn, t.height); err != nil {
		return nil, err
	}
	for _, e := range t.removed {
		switch e.key[0] {
		case prefixKey, prefixName:
			t.changed = append(t.changed, e.key)
		case prefixChain:
			t.chains = append(t.chains, e.key)
		}
	}
	return t, nil
}

// takeBack reverses what a block did. txn reads the store with the block.
func (s *state) takeBack(txn *badger.Txn, t *takenBack) error {
	first := s.txids.Len() - int32(len(t.actions))
	s.forgetMentions(t, first)
	for _, e := range slices.Backward(t.effects) {
		if err := s.undo(txn, &e, first); err != nil {
			return err
		}
	}
	for _, key := range t.changed {
		if err := s.reload(txn, key); err != nil {
			return err
		}
	}
	if err := s.undoAnchors(txn, t.anchors, t.chains); err != nil {
		return err
	}
	for n := s.txids.Len() - 1; n >= first; n-- {
		s.txids.Remove(n)
	}
	s.actions.Truncate(first)
	if len(t.actions) > 0 {
		s.blocks.Truncate(s.blocks.Len() - 1)
	}
	// Keys that were first mentioned in the block.
	for n := s.keys.Len() - 1; n >= 0 && s.mentioned.Ref(n).count == 0; n-- {
		s.keys.Remove(n)
		s.forest.Drop()
		s.places.Truncate(n)
		s.mentioned.Truncate(n)
	}
	return nil
}

// forgetMentions takes the block's actions off the lists of the keys that they
// mention.
func (s *state) forgetMentions(t *takenBack, first int32) {
	for i, a := range slices.Backward(t.actions) {
		keys, n := s.mentions(first+int32(i), t.height)
		for j, key := range keys[:n] {
			mentioned := s.mentioned.Edit(key)
			mentioned.last = a.previous[j]
			mentioned.count--
		}
	}
}

// undo reverses an effect, but for what reload reads back.
func (s *state) undo(txn *badger.Txn, o *storedEffect, first int32) error {
	n := o.action
	a := s.actions.Edit(n)
	switch o.effect {
	case IdentityNamed, IdentityMerged:
		return nil
	case ActionWaiting:
		s.waiting.remove(n, a.kind)
		return nil
	case LinkFormed:
		s.forest.Cut(a.child)
		s.actions.Edit(o.target).ended = none
	case LinkCut:
		s.forest.Link(a.child, a.parent)
		s.actions.Edit(o.target).ended = none
	}
	a.decided, a.reason = never, NoReason
	if n >= first {
		return nil
	}
	// It goes back to waiting.
	a.parent, a.child = none, none
	stored, err := s.stored(txn, n)
	if err != nil {
		return err
	}
	s.waiting.add(n, a.kind, stored.reference)
	return nil
}

// stored reads an action.
func (s *state) stored(txn *badger.Txn, action int32) (storedAction, error) {
	span := s.blocks.At(s.spanOf(action))
	within := uint32(action - span.first)
	chunk, err := read(txn, chunkKey(prefixActions, span.height, within/actionsPerChunk))
	if err != nil {
		return storedAction{}, err
	}
	return actionInChunk(chunk, int(within%actionsPerChunk))
}

// reload sets what the record of a key or name says that is taken back to what the
// version before it says.
func (s *state) reload(txn *badger.Txn, removed []byte) error {
	stem := removed[:len(removed)-4]
	value, since, err := versionBefore(txn, removed)
	if err != nil {
		return err
	}
	if stem[0] == prefixName {
		return s.reloadName(s.txids.Find(chainhash.Hash(stem[1:])), value)
	}
	var r keyRecord
	if value != nil {
		if r, err = decodeKeyRecord(value); err != nil {
			return err
		}
	}
	key := s.keys.Find(protocol.KeyHash(stem[1:]))
	s.setPlace(key, &r)
	s.places.Edit(key).moved = since // or earlier: that version may have brought an id alone
	return nil
}

// versionBefore reads the version before the one with a key, and the height from
// which on it holds; nil if there is none.
func versionBefore(txn *badger.Txn, key []byte) (value []byte, since uint32, err error) {
	it := newIterator(txn, key[:len(key)-4])
	defer it.Close()
	if it.Seek(append(slices.Clip(key), 0)); !it.Valid() {
		return nil, 0, nil
	}
	if value, err = it.Item().ValueCopy(nil); err != nil {
		return nil, 0, fmt.Errorf("reading the database: %w", err)
	}
	return value, versionHeight(it.Item().Key()), nil
}

// setPlace puts a key where a record says. Of the keys beside it, those whose own
// record is another have to be put as well, in any order.
func (s *state) setPlace(key int32, r *keyRecord) {
	p := s.places.Edit(key)
	p.accept, p.id, p.first, p.next = none, none, none, none
	if r.id != (chainhash.Hash{}) {
		p.id = s.txids.Find(r.id)
	}
	if r.hasFirst {
		p.first = s.keys.Find(r.first)
		s.places.Edit(p.first).previous = none
	} else {
		p.last = none
	}
	if r.hasNext {
		p.next = s.keys.Find(r.next)
		s.places.Edit(p.next).previous = key
	}
	if !r.hasParent {
		p.previous = none
		return
	}
	p.accept = s.txids.Find(r.accept)
	if !r.hasNext {
		s.places.Edit(s.keys.Find(r.parent)).last = key
	}
}

func (s *state) reloadName(id int32, value []byte) error {
	if value == nil {
		s.names.Delete(id)
		return nil
	}
	r, err := decodeNameRecord(value)
	if err != nil {
		return err
	}
	n := name{up: none, weight: r.weight, survivor: none}
	if r.up != (chainhash.Hash{}) {
		n.up = s.txids.Find(r.up)
	} else {
		n.survivor = s.txids.Find(r.survivor)
	}
	s.names.Set(id, n)
	return nil
}
