package graph

import (
	"errors"
	"fmt"
	"iter"
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
		// All values stay in the tables; the largest are chunks of the journal.
		WithValueThreshold(min(1<<20, opt.MemTable*15/100)).
		WithNumMemtables(3).
		WithBlockCacheSize(opt.BlockCache).
		WithIndexCacheSize(opt.BlockCache / 2).
		WithCompression(options.Snappy).
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

// begin starts a transaction with its stamp.
func (s badgerStore) begin() (*badger.Txn, error) {
	txn := s.db.NewTransaction(true)
	return txn, txn.Set(stampKey, []byte{})
}

func put(txn *badger.Txn, key string, value []byte) error {
	if value == nil {
		return txn.Delete([]byte(key))
	}
	return txn.Set([]byte(key), value)
}

// commit implements store.
func (s badgerStore) commit(entries iter.Seq2[string, []byte]) error {
	txn, err := s.begin()
	defer txn.Discard()
	for key, value := range entries {
		if err != nil {
			break
		}
		err = put(txn, key, value)
	}
	if err == nil {
		err = txn.Commit()
	}
	if errors.Is(err, badger.ErrTxnTooBig) {
		return errTooLarge
	}
	return err
}

// write implements store. It fills one transaction after the other.
func (s badgerStore) write(entries iter.Seq2[string, []byte]) error {
	txn, err := s.begin()
	defer func() { txn.Discard() }()
	held := 0 // entries in txn
	for key, value := range entries {
		if err != nil {
			break
		}
		err = put(txn, key, value)
		if errors.Is(err, badger.ErrTxnTooBig) && held > 0 {
			if err = txn.Commit(); err == nil {
				held = 0
				if txn, err = s.begin(); err == nil {
					err = put(txn, key, value)
				}
			}
		}
		held++
	}
	if err != nil || held == 0 {
		return err
	}
	return txn.Commit()
}
