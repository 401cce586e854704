package links

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/statemap"
	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/proof"
)

// RecordMap returns the records as of the state's block; nil if none are kept. It never changes.
func (s *State) RecordMap() *statemap.Map { return s.records }

// ActionsAbove returns how many actions came in blocks above a height.
func (s *State) ActionsAbove(height uint32) int {
	above := search(s.blocks.Len(), func(i int32) bool { return s.blocks.Ref(i).height > height })
	if above == s.blocks.Len() {
		return 0
	}
	return int(s.actions - s.blocks.Ref(above).first)
}

// PastRecords are the records of the state root as of a block of the state's chain. It is not safe for concurrent use.
type PastRecords struct {
	state  *State
	store  *store.Iterators
	ledger ledger
	keys   pastKeys
	height uint32
}

// NewPastRecords returns the records as of a height, up to the state's own. The iterators read what the state is of.
func NewPastRecords(s *State, it *store.Iterators, height uint32) *PastRecords {
	return &PastRecords{s, it, s.ledger(it.Txn(), never), newPastKeys(s, it, height), height}
}

// keyOf implements statemap.KeyByRef.
func (p *PastRecords) keyOf(ref int32) (protocol.MapKey, error) {
	return p.state.keyByRef(&p.ledger)(ref)
}

// PastRecord is a record of the state root as of a block.
type PastRecord struct {
	statemap.Shown
	Next *protocol.MapKey // of the parent's record, or of that of the id that it merged into; nil if there is none
}

// Find returns the record at which the search for a map key ends in the map as of the height: its own, if there is one;
// else another that shows that there is none. ok is false of a map without records. What the store has is compared with
// the map's hash: ErrDamaged. Other errors are the store's.
func (p *PastRecords) Find(m *statemap.Map, key protocol.MapKey) (found PastRecord, ok bool, err error) {
	leaf, ok, err := m.Find(key, p.keyOf)
	if err != nil || !ok {
		return found, false, err
	}
	if found, err = p.read(leaf.Ref); err != nil {
		return found, false, err
	}
	if protocol.MapLeafHash(found.Key, found.Record) != leaf.Hash {
		return found, false, fmt.Errorf("%w: the record %x as of block %d is not what the state root was made of", store.ErrDamaged, found.Record, p.height)
	}
	return found, true, nil
}

// Show adds to an empty tree what shows some records (statemap.Map.Show).
func (p *PastRecords) Show(m *statemap.Map, t *proof.StateTree, records []statemap.Shown) error {
	return m.Show(t, records, p.keyOf)
}

// read reads the record that is found by a number.
func (p *PastRecords) read(ref int32) (r PastRecord, err error) {
	if ref >= 0 {
		if ref >= p.state.keys.Len() {
			return r, fmt.Errorf("%w: there is a record of key %d, there are %d keys", store.ErrDamaged, ref, p.state.keys.Len())
		}
		key := p.state.keys.Key(ref)
		of, ok, err := p.ofKey(ref)
		if err == nil && !ok {
			err = fmt.Errorf("%w: there is no record of key %x as of block %d", store.ErrDamaged, key, p.height)
		}
		r.Shown = statemap.Shown{Key: of.MapKey(), Record: of.AppendTo(nil)}
		if of.HasParent() {
			next := protocol.MapKeyOf(of.Parent)
			r.Next = &next
		}
		return r, err
	}
	a, err := p.ledger.action(^ref)
	if err != nil {
		return r, err
	}
	of, _, ok, err := p.ofID(a.txid)
	if err == nil && !ok {
		err = fmt.Errorf("%w: there is no record of identity %v as of block %d", store.ErrDamaged, a.txid, p.height)
	}
	r.Shown = statemap.Shown{Key: of.MapKey(), Record: of.AppendTo(nil)}
	if of.Merged {
		next := protocol.MapKeyOfID(of.Into)
		r.Next = &next
	}
	return r, err
}

// ofKey returns the record of a key; ok is false if there is none. What has not changed since the height is in memory.
func (p *PastRecords) ofKey(n int32) (record protocol.KeyRecord, ok bool, err error) {
	if place := p.state.places.Ref(n); place.named && place.stands <= p.height {
		return p.state.keyRecordOf(n), true, nil
	}
	r, err := p.keys.record(n)
	return r.ofKey(p.state.keys.Key(n)), err == nil && (r.hasParent || !r.id.none()), err
}

// ofKey returns the record of the state root of a key that has this record.
func (r *keyRecord) ofKey(key protocol.KeyHash) protocol.KeyRecord {
	record := protocol.KeyRecord{Key: key, Height: r.since}
	if r.hasParent {
		record.Parent, record.Accept = r.parent, r.accept.tx
	} else {
		record.ID = r.id.tx
	}
	return record
}

// ofID returns the record of an id, and the number of the action that names it; ok is false if there is none.
func (p *PastRecords) ofID(id chainhash.Hash) (record protocol.IDRecord, number int32, ok bool, err error) {
	value, err := p.store.Version(store.IdentityStem(id), p.height)
	if err != nil || value == nil {
		return record, none, false, err
	}
	r, err := decodeIdentityRecord(value)
	if err != nil {
		return record, none, false, err
	}
	if r.merged() {
		return protocol.IDRecord{ID: id, Merged: true, Into: r.into}, r.number, true, nil
	}
	var root keyRecord
	if n := p.state.keys.Find(r.root); n != none {
		root, err = p.keys.record(n)
	}
	if err == nil && root.id.tx != id {
		err = fmt.Errorf("%w: as of block %d identity %v has root %x, which is not its root", store.ErrDamaged, p.height, id, r.root)
	}
	return protocol.IDRecord{ID: id, Root: r.root}, root.id.number, err == nil, err
}

// undoPerRecord is how many keys of undo records take as long to read as it takes to make one record again.
const undoPerRecord = 10

// Back makes the map as of the height from that of a newer block, by what the blocks above the height have added to the
// store: their undo records have to be there. done is false, and nothing was made, if that is more work than most, in
// records made again. Errors are the context's or the store's.
func (p *PastRecords) Back(ctx context.Context, newer *statemap.Map, height uint32, most int) (m statemap.Map, done bool, err error) {
	keys, ids := make(map[int32]bool), make(map[chainhash.Hash]bool)
	read := 0
	count := func() error {
		if read++; read%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if len(keys)+len(ids)+read/undoPerRecord > most {
			return errTooMuch
		}
		return nil
	}
	for ; height > p.height; height-- {
		err := eachKeyVersion(p.store.Txn(), height, func(v *keyVersion) error {
			n := p.state.keys.Find(v.key)
			if n == none {
				return unknownKey(v.key)
			}
			keys[n] = true
			return count()
		})
		if err == nil {
			err = store.EachAdded(p.store.Txn(), height, func(key []byte) error {
				if key[0] == store.PrefixIdentity {
					ids[chainhash.Hash(key[1:])] = true
				}
				return count()
			})
		}
		if err == errTooMuch {
			return m, false, nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return m, false, err
		}
	}
	changes := make([]statemap.Change, 0, len(keys)+len(ids))
	note := func(c statemap.Change, err error) error {
		if changes = append(changes, c); err == nil && len(changes)%1024 == 0 {
			err = ctx.Err()
		}
		return err
	}
	for _, n := range slices.Sorted(maps.Keys(keys)) { // keys of one block mostly have numbers that are close
		if err := note(p.changeOfKey(n)); err != nil {
			return m, false, err
		}
	}
	for id := range ids {
		if err := note(p.changeOfID(id)); err != nil {
			return m, false, err
		}
	}
	m, err = newer.Apply(changes, p.keyOf)
	return m, err == nil, err
}

// errTooMuch ends a visit.
var errTooMuch = errors.New("too much work")

func unknownKey(key protocol.KeyHash) error {
	return fmt.Errorf("%w: key %x has been in a link, but is not known", store.ErrDamaged, key)
}

// changeOfKey returns what the record of a key is as of the height.
func (p *PastRecords) changeOfKey(n int32) (statemap.Change, error) {
	r, ok, err := p.ofKey(n)
	if err != nil || !ok {
		return statemap.Change{Key: protocol.MapKeyOf(p.state.keys.Key(n)), Gone: true}, err
	}
	return leafOf(&r, n), nil
}

// leafOf returns the leaf of a record of a key.
func leafOf(r *protocol.KeyRecord, n int32) statemap.Change {
	var space [protocol.KeyRecordSize]byte
	return statemap.NewChange(r.MapKey(), n, r.AppendTo(space[:0]))
}

// changeOfID returns what the record of an id is as of the height.
func (p *PastRecords) changeOfID(id chainhash.Hash) (statemap.Change, error) {
	r, number, ok, err := p.ofID(id)
	if err != nil || !ok {
		return statemap.Change{Key: protocol.MapKeyOfID(id), Gone: true}, err
	}
	return leafOfID(r, number), nil
}

// Rebuild makes the map as of the height from all that the store has. Errors are the context's or the store's.
func (p *PastRecords) Rebuild(ctx context.Context) (m statemap.Map, err error) {
	b := statemap.NewBuilder(0)
	visited := 0
	visit := func() error {
		if visited++; visited%1024 == 0 {
			return ctx.Err()
		}
		return nil
	}
	blocks := &p.state.versions.blocks
	seen := make([]bool, p.state.keys.Len())
	for at := search(blocks.Len(), func(i int32) bool { return blocks.Ref(i).height > p.height }) - 1; at >= 0; at-- { // from the newest block on: of a key the first counts
		err := eachKeyVersion(p.store.Txn(), blocks.Ref(at).height, func(v *keyVersion) error {
			n := p.state.keys.Find(v.key)
			if n == none {
				return unknownKey(v.key)
			}
			if !seen[n] {
				seen[n] = true
				r := v.ofKey(v.key)
				if b.Add(leafOf(&r, n)); !v.hasParent {
					b.Add(leafOfID(protocol.IDRecord{ID: v.id.tx, Root: v.key}, v.id.number))
				}
			}
			return visit()
		})
		if err != nil {
			return m, err
		}
	}
	err = store.EachVersionAt(p.store.Txn(), store.PrefixIdentity, store.IdentityStemSize, p.height, func(stem, value []byte) error {
		r, err := decodeIdentityRecord(value)
		if err == nil && r.merged() {
			b.Add(leafOfMerged(chainhash.Hash(stem[1:]), r))
		}
		return cmp.Or(err, visit())
	})
	if err != nil {
		return m, err
	}
	return b.Map(p.keyOf)
}
