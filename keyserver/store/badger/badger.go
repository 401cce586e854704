// Package badger keeps a keyserver's data in a folder, in Badger: the engine that keytree
// brings along. How it deals with Badger's files is graph/badgerdb's; this package puts the
// keyserver's interface in front of it.
//
// Every commit is one transaction of Badger's, synced. Badger's readers would wait for the
// commit that is being made, and so for the disk. So after each commit one transaction is begun
// for all who read until the next one.
//
//	badger.go    the store
//	open.go      opening one to write or to read, making one
//	read.go      what a reader reads
//	snapshot.go  the state that was committed last, for readers
//
// What never belongs here: what keys and values mean; Badger's files.
package badger

import (
	"context"
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"

	"github.com/keytree-bch/keytree/graph/badgerdb"
	"github.com/keytree-bch/keytree/keyserver/store"
)

// folder is a store in a folder. It implements store.Store.
type folder struct {
	db        *badgerdb.DB
	readOnly  bool
	snapshots snapshots // of db; replaced by Commit and Close
}

func newFolder(db *badgerdb.DB, readOnly bool) *folder {
	f := &folder{db: db, readOnly: readOnly}
	f.snapshots.replace(db.NewTransaction(false))
	return f
}

// View implements store.Store. It does not look at ctx: nothing that it does takes long.
func (f *folder) View(_ context.Context, read func(store.Reader) error) error {
	return f.snapshots.read(func(txn *badger.Txn) error { return read(reader{txn}) })
}

// Commit implements store.Store.
func (f *folder) Commit(writes []store.Write) error {
	if f.readOnly {
		return store.ErrReadOnly
	}
	if f.db.IsClosed() {
		return store.ErrClosed
	}
	txn := f.db.NewTransaction(true)
	defer txn.Discard()
	for _, w := range writes {
		if len(w.Key) > 0 && w.Key[0] == badgerdb.Stamp {
			return fmt.Errorf("a key that begins with %q, which is that of every transaction's stamp", badgerdb.Stamp)
		}
		var err error
		if w.Delete {
			err = txn.Delete(w.Key)
		} else {
			err = txn.Set(w.Key, w.Value)
		}
		if err != nil {
			return err
		}
	}
	if err := f.db.Commit(txn); err != nil {
		return err
	}
	f.snapshots.replace(f.db.NewTransaction(false))
	return nil
}

// Limit implements store.Store. Badger refuses a transaction that reaches its limits of writes
// and bytes, and counts the stamp and what it ends a transaction with itself.
func (f *folder) Limit() store.Weight {
	const (
		stamp    = 1 + store.WriteOverhead
		end      = 32
		reaching = 1
	)
	return store.Weight{
		Writes: f.db.MaxBatchCount() - 1 - 1 - reaching,
		Bytes:  f.db.MaxBatchSize() - stamp - end - reaching,
	}
}

// Room implements store.Store.
func (f *folder) Room(bytes uint64) error { return translate(f.db.Room(bytes)) }

// Size implements store.Store: the tables, without what was written lately.
func (f *folder) Size() uint64 {
	tables, _ := f.db.Size()
	return uint64(tables)
}

// Inspect implements store.Store. Where Badger cannot read a table it takes what is in it for
// missing, so tables have to be searched for damage.
func (f *folder) Inspect(ctx context.Context) error { return translate(f.db.Inspect(ctx)) }

// Close implements store.Store.
func (f *folder) Close() error {
	f.snapshots.replace(nil)
	return f.db.Close()
}

// translate makes an error of badgerdb's one of the store's, too. Its text stays.
func translate(err error) error {
	for theirs, ours := range map[error]error{
		badgerdb.ErrDamaged:  store.ErrDamaged,
		badgerdb.ErrDiskFull: store.ErrDiskFull,
		badgerdb.ErrLocked:   store.ErrLocked,
	} {
		if errors.Is(err, theirs) {
			return translated{err, ours}
		}
	}
	return err
}

// translated is an error that is one of the store's.
type translated struct {
	error
	is error
}

// Unwrap returns both.
func (t translated) Unwrap() []error { return []error{t.error, t.is} }
