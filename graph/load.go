package graph

import (
	"encoding/binary"
	"fmt"

	"github.com/dgraph-io/badger/v4"
	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
)

// load derives what is held in memory from the store.
func (g *Graph) load() error {
	st := &state{forest: newForest(), ids: make(map[int32]chainhash.Hash), waiting: make(map[protocol.Reference][]waiter)}
	var tip *Tip
	undoFrom := g.params.StartHeight
	err := g.db.View(func(txn *badger.Txn) (err error) {
		if tip, err = readTip(txn); err != nil {
			return err
		}
		var top *uint32
		if tip != nil {
			top = &tip.Height
		}
		if above := blockAbove(txn, top); above != nil {
			return fmt.Errorf("%w: there is a record of block %d above the tip", ErrDamaged, *above)
		}
		if value, err := read(txn, []byte{prefixUndoFrom}); err != nil {
			return err
		} else if value != nil {
			d := decoder{rest: value}
			undoFrom = d.uint32()
			if err := d.finish("undo horizon"); err != nil {
				return err
			}
		}
		if err := st.loadForest(txn); err != nil {
			return err
		}
		return st.loadWaiting(txn, []byte{prefixWaiting})
	})
	if err != nil {
		return err
	}
	g.state, g.tip, g.undoFrom = st, tip, undoFrom
	return nil
}

// blockAbove returns the height of a block record above the tip, nil if there is
// none, as it should be.
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
	value, err := read(txn, []byte{prefixTip})
	if err != nil || value == nil {
		return nil, err
	}
	d := decoder{rest: value}
	height := d.uint32()
	if err := d.finish("tip"); err != nil {
		return nil, err
	}
	record, err := readBlock(txn, height)
	if err != nil {
		return nil, err
	}
	return &Tip{Height: height, Hash: record.hash, StateHash: record.stateHash, Counts: record.counts}, nil
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

// eachNewest visits the newest version of everything under a prefix. The slices
// are valid during the visit only.
func eachNewest(txn *badger.Txn, prefix byte, visit func(stem, value []byte) error) error {
	opt := badger.DefaultIteratorOptions
	opt.Prefix = []byte{prefix}
	it := txn.NewIterator(opt)
	defer it.Close()
	var last []byte
	for it.Rewind(); it.Valid(); it.Next() {
		key := it.Item().Key()
		if len(key) < 5 {
			return fmt.Errorf("%w: a key under %q is too short", ErrDamaged, prefix)
		}
		stem := key[:len(key)-4]
		if last != nil && string(stem) == string(last) {
			continue
		}
		last = append(last[:0], stem...)
		if err := it.Item().Value(func(value []byte) error { return visit(stem, value) }); err != nil {
			return err
		}
	}
	return nil
}

func (s *state) loadForest(txn *badger.Txn) error {
	f := s.forest
	number := func(key protocol.KeyHash) int32 {
		if n := f.find(key); n != none {
			return n
		}
		return f.addDetached(key)
	}
	err := eachNewest(txn, prefixParent, func(stem, value []byte) error {
		if len(stem) != 21 {
			return fmt.Errorf("%w: a parent's key has the wrong length", ErrDamaged)
		}
		child := number(protocol.KeyHash(stem[1:]))
		if len(value) == 0 {
			return nil
		}
		link, err := decodeAcceptRecord(value)
		if err != nil {
			return err
		}
		f.parent[child], f.accept[child] = number(link.parent), link.accept
		return nil
	})
	if err != nil {
		return err
	}
	// A root that has no links in force may still hold an id.
	err = eachNewest(txn, prefixRoot, func(stem, value []byte) error {
		if len(stem) != 21 || len(value) != 0 && len(value) != 32 {
			return fmt.Errorf("%w: a root's id has the wrong length", ErrDamaged)
		}
		n := number(protocol.KeyHash(stem[1:]))
		if len(value) == 32 {
			s.ids[n] = chainhash.Hash(value)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if !f.rooted() {
		return fmt.Errorf("%w: the links in force form a cycle", ErrDamaged)
	}
	f.build()
	return nil
}

// loadWaiting adds the stored waiting actions under prefix.
func (s *state) loadWaiting(txn *badger.Txn, prefix []byte) error {
	opt := badger.DefaultIteratorOptions
	opt.Prefix = prefix
	it := txn.NewIterator(opt)
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		key := it.Item().Key()
		value, err := it.Item().ValueCopy(nil)
		if err != nil {
			return err
		}
		if len(key) != 41 || len(value) != 32 {
			return fmt.Errorf("%w: a waiting action has the wrong length", ErrDamaged)
		}
		ref := protocol.Reference(key[1:33])
		s.waiting[ref] = append(s.waiting[ref], waiter{readPosition(key), chainhash.Hash(value)})
	}
	return nil
}
