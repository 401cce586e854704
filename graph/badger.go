package graph

import (
	"context"
	"errors"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"

	"github.com/keytree-bch/keytree/graph/badgerfiles"
)

// maxValue is more than any value that is written, in bytes: longer ones are cut
// at chunkSize, or a little behind it.
const maxValue = 4 * chunkSize

// ready makes sure that Badger can be let at the files in dir, unless some are
// damaged.
func ready(ctx context.Context, dir string) (found []badgerfiles.Damage, err error) {
	release, err := badgerfiles.Lock(dir)
	if err != nil {
		return nil, err
	}
	found, err = badgerfiles.Check(ctx, dir, maxValue)
	if err == nil && len(found) == 0 {
		err = badgerfiles.RemoveUnbegun(dir)
	}
	return found, errors.Join(err, release())
}

// openBadger opens the database in dir, or makes one there. The files must be
// ready: Badger drops without a word what it cannot read.
func openBadger(dir string, opt Options) (*badger.DB, error) {
	return badgerfiles.Open(badger.LSMOnlyOptions(dir).
		WithMemTableSize(opt.MemTable).
		// All values stay in the tables.
		WithValueThreshold(min(1<<20, opt.MemTable*15/100)).
		WithNumMemtables(3).
		// A table of level 0 is as large as a memtable; a smaller level 1 would be
		// rewritten for each.
		WithBaseLevelSize(8*opt.MemTable).
		WithBaseTableSize(8<<20).
		WithBlockCacheSize(opt.BlockCache).
		WithIndexCacheSize(opt.BlockCache/2).
		// Hashes do not get smaller.
		WithCompression(options.None).
		// What is damaged after it was checked must at least not be taken for data.
		WithChecksumVerificationMode(options.OnBlockRead).
		// DB.Sync leaves out the log of a memtable that has just been filled; a step
		// of many transactions would not be on disk after it.
		WithSyncWrites(true).
		WithDetectConflicts(false). // one writer
		WithMetricsEnabled(false).
		WithValueLogFileSize(1<<20), // it stays empty
		opt.Log)
}

// badgerStore is the store of a graph in a Badger database.
type badgerStore struct{ db *badger.DB }

// stampKey is written by every transaction. So the versions that Badger gives
// to transactions have no gaps, which is how badgerfiles.Check tells that
// some are missing.
var stampKey = []byte{prefixStamp}

// commit implements store.
func (s badgerStore) commit(entries []entry) error {
	txn := s.db.NewTransaction(true)
	defer txn.Discard()
	err := txn.Set(stampKey, []byte{})
	for _, e := range entries {
		if err != nil {
			return err
		}
		if e.value == nil {
			err = txn.Delete(e.key)
		} else {
			err = txn.Set(e.key, e.value)
		}
	}
	if err != nil {
		return err
	}
	return txn.Commit()
}

// limits implements store.
func (s badgerStore) limits() (entries, bytes int64) {
	return s.db.MaxBatchCount(), s.db.MaxBatchSize()
}
