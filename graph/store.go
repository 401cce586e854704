package graph

import (
	"fmt"
	"slices"

	"github.com/dgraph-io/badger/v4"

	"github.com/keytree-bch/keytree/graph/badgerdb"
)

// store is where a graph's writes go, and the place where they can be made to
// fail. Reads need no such place: they are of Badger's snapshots.
type store interface {
	// commit writes all entries or none, and has them on disk when it returns nil.
	// After an error, which of the two it was can only be told by reading. The
	// entries are no more than Badger writes at once, each key once.
	commit(entries []entry) error
	// limits returns how many entries, and bytes, one commit must stay below.
	limits() (entries, bytes int64)
}

// write writes entries in their order, in pieces that are written as a whole.
// After an error, those up to some piece have been written.
func (g *Graph) write(entries []entry) error {
	return write(g.store, entries)
}

func write(st store, entries []entry) error {
	maxCount, maxSize := st.limits()
	for piece := range pieces(entries, maxCount, maxSize) {
		if err := st.commit(piece); err != nil {
			return fmt.Errorf("writing the database: %w", err)
		}
	}
	return nil
}

// read returns the value of key in txn, nil if there is none.
func read(txn *badger.Txn, key []byte) ([]byte, error) {
	item, err := txn.Get(key)
	if err == badger.ErrKeyNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the database: %w", err)
	}
	v, err := item.ValueCopy(nil)
	if err != nil {
		return nil, fmt.Errorf("reading the database: %w", err)
	}
	if v == nil {
		v = []byte{}
	}
	return v, nil
}

func newIterator(txn *badger.Txn, prefix []byte) *badger.Iterator {
	opt := badger.DefaultIteratorOptions
	opt.PrefetchValues = false
	opt.Prefix = prefix
	return txn.NewIterator(opt)
}

// newReader returns an iterator that reads values as well.
func newReader(txn *badger.Txn, prefix []byte) *badger.Iterator {
	opt := badger.DefaultIteratorOptions
	opt.Prefix = prefix
	return txn.NewIterator(opt)
}

// readChunks reads a long value of a height.
func readChunks(txn *badger.Txn, prefix byte, height uint32) (value []byte, err error) {
	for n := uint32(0); ; n++ {
		chunk, err := read(txn, chunkKey(prefix, height, n))
		if err != nil || chunk == nil {
			return value, err
		}
		value = append(value, chunk...)
	}
}

// readActions reads the actions of the block at height.
func readActions(txn *badger.Txn, height uint32) (actions []storedAction, err error) {
	for n := uint32(0); ; n++ {
		chunk, err := read(txn, chunkKey(prefixActions, height, n))
		if err != nil || chunk == nil {
			return actions, err
		}
		some, err := decodeActions(chunk)
		if err != nil {
			return nil, err
		}
		actions = append(actions, some...)
	}
}

// sweep removes what lies above the tip: blocks that were not written as a whole,
// or not removed as a whole. tip is nil if there is none.
func sweep(db *badgerdb.DB, st store, tip *uint32) error {
	txn := db.NewTransaction(false)
	defer txn.Discard()
	from := uint32(0)
	if tip != nil {
		from = *tip + 1
	}
	var heights []uint32
	err := eachKey(txn, []byte{prefixUndo}, heightKey(prefixUndo, from), func(key []byte) error {
		d := decoder{rest: key[1:]}
		height := d.uint32()
		d.uint32()
		if !slices.Contains(heights[max(0, len(heights)-1):], height) {
			heights = append(heights, height)
		}
		return d.finish("key of an undo record")
	})
	for _, height := range heights {
		if err == nil {
			err = remove(txn, st, height)
		}
	}
	return err
}

// removeAtOnce is how many records are removed at once.
const removeAtOnce = 10_000

// remove removes all that belongs to the block at height.
func remove(txn *badger.Txn, st store, height uint32) error {
	var entries []entry
	deletes := func(key []byte) error {
		if entries = append(entries, entry{key: key}); len(entries) < removeAtOnce {
			return nil
		}
		err := write(st, entries)
		entries = entries[:0]
		return err
	}
	if err := eachAdded(txn, height, deletes); err != nil {
		return err
	}
	for _, prefix := range []byte(blockPrefixes) {
		if err := eachKey(txn, heightKey(prefix, height), nil, deletes); err != nil {
			return err
		}
	}
	if err := eachKey(txn, heightKey(prefixUndo, height), nil, deletes); err != nil {
		return err
	}
	return write(st, entries)
}

// eachAdded visits the keys that the block at height has added, from its undo record.
func eachAdded(txn *badger.Txn, height uint32, visit func(key []byte) error) error {
	return eachKey(txn, heightKey(prefixUndo, height), nil, func(key []byte) error {
		chunk, err := read(txn, key)
		if err != nil {
			return err
		}
		added, err := undoKeys(chunk)
		for _, key := range added {
			if err == nil {
				err = visit(key)
			}
		}
		return err
	})
}

// eachKey visits a copy of every key under a prefix, from the key from on if it
// is given.
func eachKey(txn *badger.Txn, prefix, from []byte, visit func(key []byte) error) error {
	it := newIterator(txn, prefix)
	defer it.Close()
	if from == nil {
		from = prefix
	}
	for it.Seek(from); it.Valid(); it.Next() {
		if err := visit(it.Item().KeyCopy(nil)); err != nil {
			return err
		}
	}
	return nil
}
