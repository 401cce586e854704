package links

import (
	"fmt"
	"slices"

	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// TakeBack reverses what the block at height did, which is the last that the state has. txn reads
// the store with the block; identities are the keys that the block added under store.PrefixIdentity. After an
// error, which is the store's, the state is to be dropped.
func (s *State) TakeBack(txn *store.Txn, height uint32, identities [][]byte) error {
	l := s.ledger(txn, height+1)
	first := s.actions // the number of the block's first action, or of the next block's
	if n := s.blocks.Len(); n > 0 && s.blocks.At(n-1).height == height {
		first = s.blocks.At(n - 1).first
	}
	encoded, err := store.ReadChunks(txn, store.PrefixEffects, height)
	if err != nil {
		return err
	}
	effects, err := decodeStoredEffects(encoded, s.actions)
	if err != nil {
		return err
	}
	for _, e := range slices.Backward(effects) {
		if err := s.undo(&l, &e, first); err != nil {
			return err
		}
	}
	if err := s.forgetMentions(&l, first); err != nil {
		return err
	}
	changed, err := s.reload(txn, height)
	if err != nil {
		return err
	}
	if err := s.takeBackRecords(txn, &l, changed, identities); err != nil {
		return err
	}
	if first < s.actions {
		s.blocks.Truncate(s.blocks.Len() - 1)
	}
	s.actions = first
	s.index.Truncate(first)
	return nil
}

// forgetMentions takes the actions from first on off the chains of those that mention a
// key.
func (s *State) forgetMentions(l *ledger, first int32) error {
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
			return fmt.Errorf("%w: action %v does not mention key %x", store.ErrDamaged, before.txid, key)
		}
		p.since = m.since
	}
	return nil
}

// undo reverses an effect, but for what reload reads back.
func (s *State) undo(l *ledger, o *storedEffect, first int32) error {
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
			return fmt.Errorf("%w: action %v made or cut a link of keys that are in none", store.ErrDamaged, a.txid)
		}
		if o.effect == LinkFormed {
			s.forest.Cut(child)
		} else {
			s.forest.Link(child, parent, 0) // setPlace says since when
		}
	}
	if o.action < first { // it goes back to waiting
		s.waiting.add(a.wants())
	}
	return nil
}

// reload puts the keys that the block at height has changed where the versions before those say. It returns these
// keys.
func (s *State) reload(txn *store.Txn, height uint32) (changed []protocol.KeyHash, err error) {
	reader := keyReader{txn: txn, versions: &s.versions}
	err = eachKeyVersion(txn, height, func(v *keyVersion) (err error) {
		key := s.keys.Find(v.key)
		if key == none {
			return unknownKey(v.key)
		}
		var before keyVersion
		if v.previous != none {
			if before, err = reader.read(v.previous); err != nil {
				return err
			}
		}
		s.setPlace(key, &before.keyRecord)
		p := s.places.Edit(key)
		p.version, p.nth = v.previous, before.nth
		changed = append(changed, v.key)
		return nil
	})
	s.versions.takeBack(height)
	return changed, err
}

// setPlace puts a key where a record says. The keys beside it whose own record changes
// have to be put as well, in any order.
func (s *State) setPlace(key int32, r *keyRecord) {
	s.nameKey(key, r.id, r.since)
	p := s.places.Edit(key)
	p.request, p.first, p.next = none, none, none
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
	s.nameKey(key, r.accept, r.since)
	p.request = r.request
	s.forest.Date(key, r.since)
	if !r.hasNext {
		s.places.Edit(s.keys.Find(r.parent)).last = key
	}
}
