package graph

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/dgraph-io/badger/v4"

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
	c := newChange(base, 0)
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
	c.takesBack = true
	l := base.ledger()
	return c, c.next.state.takeBack(&l, t)
}

// takenBack is what a block did that is being taken back.
type takenBack struct {
	height  uint32
	first   int32 // the number of its first action, or of the next block's
	effects []storedEffect

	changed [][]byte // the keys that it added under k
	chains  [][]byte // those under c
}

// takeBack reads what the tip of a snapshot did.
func takeBack(base *snapshot) (*takenBack, error) {
	t := &takenBack{height: base.tip.Height, first: base.state.actions}
	if spans := &base.state.blocks; spans.Len() > 0 && spans.At(spans.Len()-1).height == t.height {
		t.first = spans.At(spans.Len() - 1).first
	}
	encoded, err := readChunks(base.txn, prefixEffects, t.height)
	if err != nil {
		return nil, err
	}
	if t.effects, err = decodeStoredEffects(encoded, base.state.actions); err != nil {
		return nil, err
	}
	return t, eachAdded(base.txn, t.height, func(key []byte) error {
		switch key[0] {
		case prefixKey:
			t.changed = append(t.changed, key)
		case prefixChain:
			t.chains = append(t.chains, key)
		}
		return nil
	})
}

// takeBack reverses what a block did. l reads the store with the block.
func (s *state) takeBack(l *ledger, t *takenBack) error {
	for _, e := range slices.Backward(t.effects) {
		if err := s.undo(l, &e, t.first); err != nil {
			return err
		}
	}
	if err := s.forgetMentions(l, t.first); err != nil {
		return err
	}
	for _, key := range t.changed {
		if err := s.reload(l.txn, key); err != nil {
			return err
		}
	}
	if err := s.undoAnchors(l.txn, t.height, t.chains); err != nil {
		return err
	}
	if t.first < s.actions {
		s.blocks.Truncate(s.blocks.Len() - 1)
	}
	s.actions = t.first
	return nil
}

// forgetMentions takes the actions from first on off the chains of those that mention a
// key.
func (s *state) forgetMentions(l *ledger, first int32) error {
	touched := make(map[int32]protocol.KeyHash)
	for n := s.actions - 1; n >= first; n-- {
		a, err := l.action(n)
		if err != nil {
			return err
		}
		keys, count := a.keys()
		for i, key := range keys[:count] {
			if n := s.keys.Find(key); n != none && a.mentions[i].chained() {
				s.places.Edit(n).mentioned = a.mentions[i].previous
				touched[n] = key
			}
		}
	}
	for n, key := range touched {
		p := s.places.Edit(n)
		p.since = 0
		if p.mentioned == none {
			continue
		}
		before, err := l.action(p.mentioned)
		if err != nil {
			return err
		}
		m, ok := before.mentioning(key)
		if !ok {
			return fmt.Errorf("%w: action %v does not mention key %x", ErrDamaged, before.txid, key)
		}
		p.since = m.since
	}
	return nil
}

// undo reverses an effect, but for what reload reads back.
func (s *state) undo(l *ledger, o *storedEffect, first int32) error {
	switch o.effect {
	case IdentityNamed, IdentityMerged:
		return nil
	}
	a, err := l.action(o.action)
	if err != nil {
		return err
	}
	switch o.effect {
	case ActionWaiting:
		s.waiting.remove(a.wants())
		return nil
	case LinkFormed, LinkCut:
		of, err := fateOf(l, o.action, &a)
		if err != nil {
			return err
		}
		about, err := aboutOf(l, &a, &of)
		if err != nil {
			return err
		}
		child, parent := s.keys.Find(about.child), s.keys.Find(about.parent)
		if child == none || parent == none {
			return fmt.Errorf("%w: action %v made or cut a link of keys that are in none", ErrDamaged, a.txid)
		}
		if o.effect == LinkFormed {
			s.forest.Cut(child)
		} else {
			s.forest.Link(child, parent)
		}
	}
	if o.action < first { // it goes back to waiting
		s.waiting.add(a.wants())
	}
	return nil
}

// reload sets what the record of a key says that is taken back to what the version
// before it says.
func (s *state) reload(txn *badger.Txn, removed []byte) error {
	value, since, err := versionBefore(txn, removed)
	if err != nil {
		return err
	}
	var r keyRecord
	if value != nil {
		if r, err = decodeKeyRecord(value); err != nil {
			return err
		}
	}
	key := s.keys.Find(protocol.KeyHash(removed[1 : len(removed)-4]))
	if key == none {
		return fmt.Errorf("%w: key %x has been in a link, but is not known", ErrDamaged, removed[1:len(removed)-4])
	}
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
	p.name, p.request, p.linked, p.first, p.next = r.id, none, 0, none, none
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
	p.name, p.request, p.linked = r.accept, r.request, r.linked
	if !r.hasNext {
		s.places.Edit(s.keys.Find(r.parent)).last = key
	}
}
