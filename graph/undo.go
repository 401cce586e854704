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
	g.writer.Lock()
	defer g.writer.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.broken != nil:
		return g.broken
	case g.tip == nil:
		return fmt.Errorf("%w: there is no block to disconnect", ErrHorizon)
	case g.tip.Height < g.undoFrom:
		return fmt.Errorf("%w: block %d cannot be disconnected, only those from %d on", ErrHorizon, g.tip.Height, g.undoFrom)
	}
	w, t, err := g.takeBack()
	if err != nil {
		return err
	}
	g.taken++
	if err := g.commit(w); err != nil {
		return g.restore(err)
	}
	tip, err := g.undoInMemory(t)
	if err != nil {
		return g.restore(fmt.Errorf("disconnecting block %d: %w", t.height, err))
	}
	g.publish(tip)
	return nil
}

// takenBack is what a block did that is being taken back.
type takenBack struct {
	height  uint32
	actions []storedAction
	effects []storedEffect
	changed [][]byte // what it added under k and n

	anchors []storedAnchorTx
	chains  [][]byte // stems of the chains of anchors that it changed
}

// takeBack reads what the tip did, and collects the writes that take it back.
func (g *Graph) takeBack() (*writes, *takenBack, error) {
	txn := g.db.NewTransaction(false)
	defer txn.Discard()
	t := &takenBack{height: g.tip.Height}
	block, err := readBlock(txn, t.height)
	if err != nil {
		return nil, nil, err
	}
	encoded, err := readChunks(txn, prefixEffects, t.height)
	if err != nil {
		return nil, nil, err
	}
	if t.effects, err = decodeStoredEffects(encoded, g.state.txids.len(), g.state.keys.len()); err != nil {
		return nil, nil, err
	}
	if t.actions, err = readActions(txn, t.height); err != nil {
		return nil, nil, err
	}
	if t.anchors, err = readAnchorTxs(txn, t.height); err != nil {
		return nil, nil, err
	}
	removed, err := removal(txn, t.height)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range removed {
		if e.key[0] == prefixKey || e.key[0] == prefixName {
			t.changed = append(t.changed, e.key)
		}
		if e.key[0] == prefixChain {
			t.chains = append(t.chains, e.key[:chainStemSize])
		}
	}
	seq, err := nextStale(txn)
	if err != nil {
		return nil, nil, err
	}
	var w writes
	if t.height == g.params.StartHeight {
		w.setNoTip()
	} else {
		w.setTip(t.height-1, block.prev)
	}
	value := binary.BigEndian.AppendUint64(nil, seq)
	w.set(staleKey(t.height, block.hash), append(value, block.prev[:]...))
	w.entries = append(w.entries, removed...)
	return &w, t, nil
}

// undoInMemory reverses what a block did whose records have been removed, and
// returns the new tip.
func (g *Graph) undoInMemory(t *takenBack) (tip *Tip, err error) {
	s := g.state
	first := s.txids.len() - int32(len(t.actions))
	err = g.db.View(func(txn *badger.Txn) error {
		if tip, err = readTip(txn); err != nil {
			return err
		}
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
		return s.undoAnchors(txn, t.anchors, t.chains)
	})
	if err != nil {
		return nil, err
	}
	for range t.actions {
		s.txids.drop()
	}
	s.actions = s.actions[:first]
	if len(t.actions) > 0 {
		s.blocks = s.blocks[:len(s.blocks)-1]
	}
	// Keys that were first mentioned in the block.
	for n := s.keys.len() - 1; n >= 0 && s.places[n].mentions == 0; n-- {
		s.keys.drop()
		s.forest.Drop()
		s.places = s.places[:n]
	}
	return tip, nil
}

// forgetMentions takes the block's actions off the lists of the keys that they
// mention.
func (s *state) forgetMentions(t *takenBack, first int32) {
	for i, a := range slices.Backward(t.actions) {
		keys, n := s.mentions(first+int32(i), t.height)
		for j, key := range keys[:n] {
			s.places[key].mention = a.previous[j]
			s.places[key].mentions--
		}
	}
}

// undo reverses an effect, but for what reload reads back.
func (s *state) undo(txn *badger.Txn, o *storedEffect, first int32) error {
	n := o.action
	a := &s.actions[n]
	switch o.effect {
	case IdentityNamed, IdentityMerged:
		return nil
	case ActionWaiting:
		s.unwait(n)
		return nil
	case LinkFormed:
		s.forest.Cut(a.child)
		s.actions[o.target].ended = none
	case LinkCut:
		s.forest.Link(a.child, a.parent)
		s.actions[o.target].ended = none
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
	s.wait(n, stored.reference)
	return nil
}

// stored reads an action.
func (s *state) stored(txn *badger.Txn, action int32) (storedAction, error) {
	span := s.blocks[s.spanOf(action)]
	within := uint32(action - span.first)
	chunk, err := read(txn, chunkKey(prefixActions, span.height, within/actionsPerChunk))
	if err != nil {
		return storedAction{}, err
	}
	return actionInChunk(chunk, int(within%actionsPerChunk))
}

// reload sets what the record of a key or name says that has just been removed to
// what the version before it says.
func (s *state) reload(txn *badger.Txn, removed []byte) error {
	stem := removed[:len(removed)-4]
	value, since, err := newestVersion(txn, stem)
	if err != nil {
		return err
	}
	if stem[0] == prefixName {
		return s.reloadName(s.txids.find(chainhash.Hash(stem[1:])), value)
	}
	var r keyRecord
	if value != nil {
		if r, err = decodeKeyRecord(value); err != nil {
			return err
		}
	}
	key := s.keys.find(protocol.KeyHash(stem[1:]))
	s.setPlace(key, &r)
	s.places[key].moved = since // or earlier: that version may have brought an id alone
	return nil
}

// newestVersion reads the newest version of the thing with the given stem, and the
// height from which on it holds; nil if there is none.
func newestVersion(txn *badger.Txn, stem []byte) (value []byte, since uint32, err error) {
	it := newIterator(txn, stem)
	defer it.Close()
	if it.Rewind(); !it.Valid() {
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
	p := &s.places[key]
	p.accept, p.id, p.first, p.next = none, none, none, none
	if r.id != (chainhash.Hash{}) {
		p.id = s.txids.find(r.id)
	}
	if r.hasFirst {
		p.first = s.keys.find(r.first)
		s.places[p.first].previous = none
	} else {
		p.last = none
	}
	if r.hasNext {
		p.next = s.keys.find(r.next)
		s.places[p.next].previous = key
	}
	if !r.hasParent {
		p.previous = none
		return
	}
	p.accept = s.txids.find(r.accept)
	if !r.hasNext {
		s.places[s.keys.find(r.parent)].last = key
	}
}

func (s *state) reloadName(id int32, value []byte) error {
	if value == nil {
		delete(s.names, id)
		return nil
	}
	r, err := decodeNameRecord(value)
	if err != nil {
		return err
	}
	n := name{up: none, weight: r.weight, survivor: none}
	if r.up != (chainhash.Hash{}) {
		n.up = s.txids.find(r.up)
	} else {
		n.survivor = s.txids.find(r.survivor)
	}
	s.names[id] = n
	return nil
}
