package links

import (
	"fmt"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/statemap"
	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// The records of package statemap follow from what is held and stored: those of keys, and of identities that
// hold a tree, from where the keys stand; those that merged, from the store. A key's is found by its number, an
// identity's by ^ the number of the action that names it.

// KeepRecords lets a state that is new keep the records of the state root.
func (s *State) KeepRecords() { s.records = &statemap.Map{} }

// DropRecords lets a state keep none.
func (s *State) DropRecords() { s.records = nil }

// KeepsRecords tells whether the state keeps them.
func (s *State) KeepsRecords() bool { return s.records != nil }

// Records returns how many there are; 0 if none are kept.
func (s *State) Records() int {
	if s.records == nil {
		return 0
	}
	return s.records.Len()
}

// StateRoot returns the state root (protocol/SPEC.md §12); zero if none is kept.
func (s *State) StateRoot() [32]byte {
	if s.records == nil {
		return [32]byte{}
	}
	return s.records.Root()
}

// keyRecordOf returns the record of a key that is in an identity.
func (s *State) keyRecordOf(key int32) protocol.KeyRecord {
	r, name := protocol.KeyRecord{Key: s.keys.Key(key), Height: s.places.Ref(key).stands}, s.namedBy.Ref(key).tx
	if parent := s.forest.Parent(key); parent != none {
		r.Parent, r.Accept = s.keys.Key(parent), name
	} else {
		r.ID = name
	}
	return r
}

// leafOfKey returns the leaf of a key that is in an identity.
func (s *State) leafOfKey(key int32) statemap.Change {
	var space [protocol.KeyRecordSize]byte
	r := s.keyRecordOf(key)
	return statemap.NewChange(r.MapKey(), key, r.AppendTo(space[:0]))
}

// leafOfIdentity returns the leaf of the identity of a root.
func (s *State) leafOfIdentity(root int32) statemap.Change {
	id := s.namedBy.Ref(root)
	return leafOfID(protocol.IDRecord{ID: id.tx, Root: s.keys.Key(root)}, id.number)
}

// leafOfMerged returns the leaf of an id that merged.
func leafOfMerged(id chainhash.Hash, record identityRecord) statemap.Change {
	return leafOfID(protocol.IDRecord{ID: id, Merged: true, Into: record.into}, record.number)
}

// leafOfID returns the leaf of an id that the action of a number names.
func leafOfID(r protocol.IDRecord, number int32) statemap.Change {
	var space [protocol.IDRecordSize]byte
	return statemap.NewChange(r.MapKey(), ^number, r.AppendTo(space[:0]))
}

// keyByRef returns what finds the map key of a record, with the actions of a book.
func (s *State) keyByRef(actions book) statemap.KeyByRef {
	return func(ref int32) (protocol.MapKey, error) {
		if ref >= 0 {
			return protocol.MapKeyOf(s.keys.Key(ref)), nil
		}
		a, err := actions.action(^ref)
		return protocol.MapKeyOfID(a.txid), err
	}
}

// changeRecords makes the version of the records that has some changes.
func (s *State) changeRecords(changes []statemap.Change, actions book) error {
	next, err := s.records.Apply(changes, s.keyByRef(actions))
	if err == nil {
		s.records = &next
	}
	return err
}

// UpdateRecords gives the state the records as of the block, if it keeps them. Errors are the
// store's.
func (s *Step) UpdateRecords() error {
	if s.records == nil || len(s.changed) == 0 {
		return nil
	}
	changes := make([]statemap.Change, 0, len(s.changed)+len(s.sized))
	for _, c := range s.changed {
		if s.places.Ref(c.key).stands == s.height { // else only its place among others is another
			changes = append(changes, s.leafOfKey(c.key))
		}
	}
	for id, root := range s.sized {
		if root == none {
			changes = append(changes, leafOfMerged(id, s.merged[id]))
		} else {
			changes = append(changes, s.leafOfIdentity(root))
		}
	}
	return s.changeRecords(changes, s.Draft)
}

// takeBackRecords gives the state the records as of the block before the one that is taken back, which changed some
// keys, and added versions of identities to the store. All else of the state has been taken back.
func (s *State) takeBackRecords(txn *store.Txn, actions book, keys []protocol.KeyHash, identities [][]byte) error {
	if s.records == nil {
		return nil
	}
	changes := make([]statemap.Change, 0, len(keys)+len(identities))
	for _, hash := range keys {
		if n := s.inIdentity(hash); n != none {
			changes = append(changes, s.leafOfKey(n))
		} else {
			changes = append(changes, statemap.Change{Key: protocol.MapKeyOf(hash), Gone: true})
		}
	}
	for _, stored := range identities {
		id := chainhash.Hash(stored[1 : len(stored)-4])
		value, _, err := store.VersionBefore(txn, stored)
		if err != nil {
			return err
		}
		if value == nil {
			changes = append(changes, statemap.Change{Key: protocol.MapKeyOfID(id), Gone: true})
			continue
		}
		r, err := decodeIdentityRecord(value)
		if err != nil {
			return err
		}
		root := s.inIdentity(r.root)
		if root == none || s.namedBy.Ref(root).tx != id {
			return fmt.Errorf("%w: before the block that is taken back, identity %v had root %x, which is not its root", store.ErrDamaged, id, r.root)
		}
		changes = append(changes, s.leafOfIdentity(root))
	}
	return s.changeRecords(changes, actions)
}

// loadRecords derives the records from where the keys stand, as of the tip, and from the store. store.ErrMemory if there
// are more than so many.
func (s *State) loadRecords(txn *store.Txn, most int, keyOf statemap.KeyByRef) error {
	b := statemap.NewBuilder(min(most, s.Keys()+s.Keys()/2))
	tooMany := func() error {
		if b.Len() > most {
			return fmt.Errorf("%w: there is room for %d records of the state root, there are more", store.ErrMemory, most)
		}
		return nil
	}
	for n := range s.keys.Len() {
		if !s.places.Ref(n).named {
			continue // it was taken back
		}
		b.Add(s.leafOfKey(n))
		if s.forest.Parent(n) == none {
			b.Add(s.leafOfIdentity(n))
		}
	}
	if err := tooMany(); err != nil {
		return err
	}
	err := store.EachNewest(txn, store.PrefixIdentity, store.IdentityStemSize, func(key, value []byte) error {
		r, err := decodeIdentityRecord(value)
		if err != nil || !r.merged() {
			return err
		}
		b.Add(leafOfMerged(chainhash.Hash(key[1:store.IdentityStemSize]), r))
		return tooMany()
	})
	if err != nil {
		return err
	}
	m, err := b.Map(keyOf)
	if err == nil {
		s.records = &m
	}
	return err
}
