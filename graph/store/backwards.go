package store

import (
	"bytes"

	"github.com/dgraph-io/badger/v4"
)

// EachKeyBefore visits the keys with a prefix that come before a key, which has it, the last one first,
// until visit says that it is enough. The slices are the store's, and good until visit returns.
func EachKeyBefore(txn *Txn, prefix, before []byte, visit func(key []byte) (more bool, err error)) error {
	opt := badger.DefaultIteratorOptions
	opt.PrefetchValues = false
	opt.Prefix = prefix
	opt.Reverse = true
	it := txn.under.NewIterator(opt)
	defer it.Close()
	if it.Seek(before); it.Valid() && bytes.Equal(it.Item().Key(), before) {
		it.Next()
	}
	over := with(txn.over, prefix)
	over = over[:from(over, before)]
	for it.Valid() || len(over) > 0 {
		order := -1 // of what lies over the database and what is in it
		switch {
		case !it.Valid():
			order = 1
		case len(over) > 0:
			order = bytes.Compare(over[len(over)-1].Key, it.Item().Key())
		}
		var key []byte
		if order < 0 {
			key = it.Item().Key()
		} else {
			if entry := over[len(over)-1]; entry.Value != nil { // else it is deleted
				key = entry.Key
			}
			over = over[:len(over)-1]
		}
		if key != nil {
			if more, err := visit(key); err != nil || !more {
				return err
			}
		}
		if order <= 0 {
			it.Next()
		}
	}
	return nil
}

// LastChunk returns the number of the last chunk under a prefix of the block at height, of those up to a number; any is
// false if there is none.
func LastChunk(txn *Txn, prefix byte, height, upTo uint32) (last uint32, any bool, err error) {
	of := HeightKey(prefix, height)
	before := append(ChunkKey(prefix, height, upTo), 0)
	err = EachKeyBefore(txn, of, before, func(key []byte) (bool, error) {
		d := Decoder{Rest: key[len(of):]}
		last, any = d.Uint32(), true
		return false, d.Finish("key of a chunk")
	})
	return last, any, err
}
