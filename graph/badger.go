package graph

import (
	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"

	"github.com/keytree-bch/keytree/graph/badgerdb"
)

// maxValue is more than any value that is written, in bytes: longer ones are cut
// at chunkSize, or a little behind it.
const maxValue = 4 * chunkSize

// memTables is how many memtables there are at most.
const memTables = 3

// badgerOptions are those of the graph's database, but for what badgerdb sets.
func badgerOptions(dir string, opt Options) badger.Options {
	return badger.LSMOnlyOptions(dir).
		WithMemTableSize(opt.MemTable).
		WithNumMemtables(memTables).
		// A table of level 0 is as large as a memtable; a smaller level 1 would be
		// rewritten for each.
		WithBaseLevelSize(8 * opt.MemTable).
		WithBaseTableSize(8 << 20).
		WithBlockCacheSize(opt.BlockCache).
		WithIndexCacheSize(opt.BlockCache / 2).
		WithCompression(options.None) // hashes do not get smaller
}

// badgerStore is the store of a graph in a Badger database.
type badgerStore struct{ db *badgerdb.DB }

// commit implements store.
func (s badgerStore) commit(entries []entry) error {
	txn := s.db.NewTransaction(true)
	defer txn.Discard()
	for _, e := range entries {
		var err error
		if e.value == nil {
			err = txn.Delete(e.key)
		} else {
			err = txn.Set(e.key, e.value)
		}
		if err != nil {
			return err
		}
	}
	return s.db.Commit(txn)
}

// limits implements store.
func (s badgerStore) limits() (entries, bytes int64) {
	return s.db.MaxBatchCount(), s.db.MaxBatchSize()
}
