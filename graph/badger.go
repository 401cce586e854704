package graph

import (
	"errors"
	"fmt"
	"strings"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

// openBadger opens the database in dir, or makes one there. The files must have
// been checked (checkFiles): Badger drops without a word what it cannot read.
func openBadger(dir string, opt Options) (*badger.DB, error) {
	db, err := badger.Open(badger.LSMOnlyOptions(dir).
		WithLogger(badgerLog{opt.Log}).
		WithMemTableSize(opt.MemTable).
		// All values stay in the tables.
		WithValueThreshold(min(1<<20, opt.MemTable*15/100)).
		WithNumMemtables(3).
		WithBaseLevelSize(8 * opt.MemTable).
		WithBaseTableSize(8 << 20).
		WithBlockCacheSize(opt.BlockCache).
		WithIndexCacheSize(opt.BlockCache / 2).
		// Hashes do not get smaller.
		WithCompression(options.None).
		// What is damaged after it was checked must at least not be taken for data.
		WithChecksumVerificationMode(options.OnBlockRead).
		// DB.Sync leaves out the log of a memtable that has just been filled; a step
		// of many transactions would not be on disk after it.
		WithSyncWrites(true).
		WithDetectConflicts(false). // one writer
		WithMetricsEnabled(false).
		WithValueLogFileSize(1 << 20)) // it stays empty
	switch {
	case err == nil:
		return db, nil
	case strings.Contains(err.Error(), "Cannot acquire directory lock"): // Badger has no error value for it
		return nil, errLocked(dir)
	case errors.Is(err, badger.ErrTruncateNeeded), errors.Is(err, badger.ErrEncryptionKeyMismatch):
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return nil, err
}

// badgerStore is the store of a graph in a Badger database.
type badgerStore struct{ db *badger.DB }

// stampKey is written by every transaction. So the versions that Badger gives
// to transactions have no gaps, which is how checkFiles tells that some are
// missing.
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
