package store

import (
	"fmt"
	"slices"

	"github.com/keytree-bch/keytree/graph/badgerdb"
)

// Committer is where a graph's writes go, and the place where they can be made to
// fail. Reads need no such place: they are of Badger's snapshots.
type Committer interface {
	// Commit writes all entries or none, and has them on disk when it returns nil.
	// After an error, which of the two it was can only be told by reading. The
	// entries are no more than Badger writes at once, each key once.
	Commit(entries []Entry) error
	// Limits returns how many entries, and bytes, one commit must stay below.
	Limits() (entries, bytes int64)
}

// Commit writes entries in their order, in pieces that are written as a whole.
// After an error, those up to some piece have been written.
func Commit(to Committer, entries []Entry) error {
	maxCount, maxSize := to.Limits()
	for piece := range pieces(entries, maxCount, maxSize) {
		if err := to.Commit(piece); err != nil {
			return fmt.Errorf("writing the database: %w", err)
		}
	}
	return nil
}

// Badger is a Badger database as a Committer.
type Badger struct{ DB *badgerdb.DB }

// Commit implements Committer.
func (s Badger) Commit(entries []Entry) error {
	txn := s.DB.NewTransaction(true)
	defer txn.Discard()
	for _, e := range entries {
		var err error
		if e.Value == nil {
			err = txn.Delete(e.Key)
		} else {
			err = txn.Set(e.Key, e.Value)
		}
		if err != nil {
			return err
		}
	}
	return s.DB.Commit(txn)
}

// Limits implements Committer.
func (s Badger) Limits() (entries, bytes int64) {
	return s.DB.MaxBatchCount(), s.DB.MaxBatchSize()
}

// Sweep removes what lies above the tip: blocks that were not written as a whole, or not removed
// as a whole. tip is nil if there is none. follows visits the keys that a block has added and that
// its undo record leaves out, since they follow from its other records.
func Sweep(db *badgerdb.DB, to Committer, tip *uint32, follows Following) error {
	txn := NewTxn(db.NewTransaction(false))
	defer txn.Discard()
	from := uint32(0)
	if tip != nil {
		from = *tip + 1
	}
	var heights []uint32
	err := EachKey(txn, []byte{PrefixUndo}, HeightKey(PrefixUndo, from), func(key []byte) error {
		d := Decoder{Rest: key[1:]}
		height := d.Uint32()
		d.Uint32()
		if !slices.Contains(heights[max(0, len(heights)-1):], height) {
			heights = append(heights, height)
		}
		return d.Finish("key of an undo record")
	})
	for _, height := range heights {
		if err == nil {
			err = remove(txn, to, height, follows)
		}
	}
	return err
}

// Following visits the keys that the block at height has added and that follow from its other records.
type Following func(txn *Txn, height uint32, visit func(key []byte) error) error

// removeAtOnce is how many records are removed at once.
const removeAtOnce = 10_000

// remove removes all that belongs to the block at height.
func remove(txn *Txn, to Committer, height uint32, follows Following) error {
	var entries []Entry
	deletes := func(key []byte) error {
		if entries = append(entries, Entry{Key: key}); len(entries) < removeAtOnce {
			return nil
		}
		err := Commit(to, entries)
		entries = entries[:0]
		return err
	}
	if err := EachAdded(txn, height, deletes); err != nil {
		return err
	}
	// They go before the records that they follow from, after which they were written.
	if err := follows(txn, height, deletes); err != nil {
		return err
	}
	for _, prefix := range []byte(blockPrefixes) {
		if err := EachKey(txn, HeightKey(prefix, height), nil, deletes); err != nil {
			return err
		}
	}
	if err := EachKey(txn, HeightKey(PrefixUndo, height), nil, deletes); err != nil {
		return err
	}
	return Commit(to, entries)
}

// EachAdded visits the keys that the block at height has added, from its undo record.
func EachAdded(txn *Txn, height uint32, visit func(key []byte) error) error {
	return EachKey(txn, HeightKey(PrefixUndo, height), nil, func(key []byte) error {
		chunk, err := Read(txn, key)
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
