package graph

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/dgraph-io/badger/v4"

	"github.com/keytree-bch/keytree/graph/forest"
	"github.com/keytree-bch/keytree/protocol"
)

// load derives the snapshot that a transaction sees, which reads by it from then on.
// ErrMemory if there are more than so many keys.
func load(txn *badger.Txn, params Params, most int) (*snapshot, error) {
	s := newSnapshot()
	s.state, s.undoFrom, s.txn = newState(), params.StartHeight, txn
	height, err := tipHeight(txn)
	if err != nil {
		return nil, err
	}
	if height != nil {
		record, err := readBlock(txn, *height)
		if err != nil {
			return nil, err
		}
		s.setBlock(*height, record)
	}
	value, err := read(txn, []byte{prefixUndoFrom})
	if err != nil {
		return nil, err
	}
	if value != nil {
		d := decoder{rest: value}
		s.undoFrom = d.uint32()
		if err := d.finish("undo horizon"); err != nil {
			return nil, err
		}
	}
	return s, s.state.load(txn, most)
}

// tipHeight reads the height of the tip, nil if there is no block. ErrDamaged if
// the tip is not a block that is there: then nothing can be said to lie above it.
func tipHeight(txn *badger.Txn) (*uint32, error) {
	value, err := read(txn, []byte{prefixTip})
	if err != nil {
		return nil, err
	}
	if value == nil {
		return nil, fmt.Errorf("%w: no record of the tip", ErrDamaged)
	}
	if len(value) == 0 {
		return nil, nil
	}
	d := decoder{rest: value}
	height, hash := d.uint32(), d.hash()
	if err := d.finish("tip"); err != nil {
		return nil, err
	}
	record, err := readBlock(txn, height)
	if err == nil && record.hash != hash {
		err = fmt.Errorf("%w: the tip is block %v, at its height %d is %v", ErrDamaged, hash, height, record.hash)
	}
	return &height, err
}

// blockAbove returns the height of a block record above the tip, nil if there is
// none, as it should be once what was not finished has been swept.
func blockAbove(txn *badger.Txn, tip *uint32) *uint32 {
	it := newIterator(txn, []byte{prefixBlock})
	defer it.Close()
	from := []byte{prefixBlock}
	if tip != nil {
		from = append(heightKey(prefixBlock, *tip), 0)
	}
	if it.Seek(from); !it.Valid() || len(it.Item().Key()) != 5 {
		return nil
	}
	height := binary.BigEndian.Uint32(it.Item().Key()[1:])
	return &height
}

func readTip(txn *badger.Txn) (*Tip, error) {
	height, err := tipHeight(txn)
	if err != nil || height == nil {
		return nil, err
	}
	record, err := readBlock(txn, *height)
	if err != nil {
		return nil, err
	}
	return &Tip{Height: *height, Hash: record.hash, StateHash: record.stateHash, Counts: record.counts}, nil
}

func readBlock(txn *badger.Txn, height uint32) (blockRecord, error) {
	value, err := read(txn, heightKey(prefixBlock, height))
	if err != nil {
		return blockRecord{}, err
	}
	if value == nil {
		return blockRecord{}, fmt.Errorf("%w: no record of block %d", ErrDamaged, height)
	}
	return decodeBlockRecord(value)
}

// load derives the state from the store. It believes what that says: whether the rules
// give the same is for Check to see. ErrMemory if there are more than so many keys.
func (s *state) load(txn *badger.Txn, most int) error {
	if err := s.loadKeys(txn, most); err != nil {
		return err
	}
	if err := s.loadActions(txn); err != nil {
		return err
	}
	if err := s.loadWaiting(txn); err != nil {
		return err
	}
	return s.loadBatons(txn)
}

// loadKeys derives where the keys stand from their newest records.
func (s *state) loadKeys(txn *badger.Txn, most int) error {
	var parents []int32 // by key; the forest is built of them in the end
	records := 0
	err := eachNewest(txn, prefixKey, keyStemSize, func(key, value []byte) error {
		r, err := decodeKeyRecord(value)
		if err != nil {
			return err
		}
		n := s.place(protocol.KeyHash(key[1:keyStemSize]))
		p := s.places.Edit(n)
		if !p.name.none() || r.id.none() == !r.hasParent {
			return fmt.Errorf("%w: key %x is neither in a link nor the root of an identity", ErrDamaged, key[1:keyStemSize])
		}
		if records++; records > most {
			return fmt.Errorf("%w: there is room for %d keys in links, there are more", ErrMemory, most)
		}
		parent := none
		p.name, p.moved = r.id, versionHeight(key)
		if r.hasParent {
			parent = s.place(r.parent)
			p = s.places.Edit(n)
			p.name, p.request, p.linked = r.accept, r.request, r.linked
		}
		if r.hasFirst {
			first := s.place(r.first)
			s.places.Edit(n).first = first
		}
		if r.hasNext {
			next := s.place(r.next)
			s.places.Edit(n).next, s.places.Edit(next).previous = next, n
		} else if r.hasParent {
			s.places.Edit(parent).last = n
		}
		for int(n) >= len(parents) {
			parents = append(parents, none)
		}
		parents[n] = parent
		return nil
	})
	switch {
	case err != nil:
		return err
	case int(s.keys.Len()) != records:
		return fmt.Errorf("%w: there are records of %d keys, they refer to %d", ErrDamaged, records, s.keys.Len())
	case !forest.Rooted(parents):
		return fmt.Errorf("%w: the links in force form a cycle", ErrDamaged)
	}
	s.forest.Build(parents)
	return nil
}

// loadActions counts the actions, and finds the end of each key's chain of those that
// mention it.
func (s *state) loadActions(txn *badger.Txn) error {
	it := newReader(txn, []byte{prefixActions})
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		key := it.Item().Key()
		if len(key) != 9 {
			return fmt.Errorf("%w: the key of a chunk of actions has the wrong length", ErrDamaged)
		}
		if height := binary.BigEndian.Uint32(key[1:]); s.blocks.Len() == 0 || s.blocks.At(s.blocks.Len()-1).height != height {
			s.blocks.Append(blockSpan{height, s.actions})
		}
		if err := it.Item().Value(s.loadChunk); err != nil {
			return fmt.Errorf("reading the database: %w", err)
		}
	}
	return nil
}

// loadChunk takes note of the next actions.
func (s *state) loadChunk(chunk []byte) error {
	d := decoder{rest: chunk}
	for len(d.rest) > 0 {
		a, err := decodeAction(d.take(d.length()))
		if err != nil {
			return err
		}
		keys, count := a.keys()
		for i, key := range keys[:count] {
			if n := s.keys.Find(key); n != none && a.mentions[i].chained() {
				p := s.places.Edit(n)
				p.mentioned, p.since = s.actions, a.mentions[i].since
			}
		}
		s.actions++
	}
	return d.finish("chunk of actions")
}

// loadWaiting finds what somebody waits for: those who have waited, but for those who
// were decided since.
func (s *state) loadWaiting(txn *badger.Txn) error {
	decided := make([]uint64, (int(s.actions)+63)/64) // bits, by action
	err := eachKey(txn, []byte{prefixFate}, nil, func(key []byte) error {
		d := decoder{rest: key[1:]}
		n := d.action()
		if err := d.finish("key of a late fate"); err != nil || n >= s.actions {
			return fmt.Errorf("%w: what became of action %d, there are %d", ErrDamaged, n, s.actions)
		}
		decided[n/64] |= 1 << (n % 64)
		return nil
	})
	if err != nil {
		return err
	}
	return eachKey(txn, []byte{prefixWaiting}, nil, func(key []byte) error {
		d := decoder{rest: key[1:]}
		w := wanted{by: protocol.Kind(d.byte()), what: protocol.Reference(d.hash())}
		n := d.action()
		if err := d.finish("key of an action that waits"); err != nil || n >= s.actions {
			return fmt.Errorf("%w: action %d waits, there are %d", ErrDamaged, n, s.actions)
		}
		if decided[n/64]&(1<<(n%64)) == 0 {
			s.waiting.add(w)
		}
		return nil
	})
}

// eachNewest visits the newest version of each thing under a prefix. The slices are the
// store's.
func eachNewest(txn *badger.Txn, prefix byte, stemSize int, visit func(key, value []byte) error) error {
	it := newReader(txn, []byte{prefix})
	defer it.Close()
	var stem []byte
	for it.Rewind(); it.Valid(); it.Next() {
		key := it.Item().Key()
		if len(key) != stemSize+4 {
			return fmt.Errorf("%w: the key of a version has the wrong length", ErrDamaged)
		}
		if bytes.Equal(key[:stemSize], stem) {
			continue // an older version
		}
		stem = append(stem[:0], key[:stemSize]...)
		if err := it.Item().Value(func(value []byte) error { return visit(key, value) }); err != nil {
			return fmt.Errorf("reading the database: %w", err)
		}
	}
	return nil
}
