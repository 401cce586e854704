package badger

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/graph/badgerdb"
	"github.com/keytree-bch/keytree/graph/durable"
	"github.com/keytree-bch/keytree/keyserver/store"
)

// Options say which store to open.
type Options struct {
	Dir string // the folder
	// MemTable is the size of Badger's memtables, in bytes. There are two, and what they
	// decide beside memory is the limit of one commit, about 15 % of it.
	MemTable int64
	Log      zerolog.Logger
}

// Open opens the store in a folder to write, or makes one there, after every byte of its files
// was checked. Close it.
//
// store.ErrDamaged, store.ErrDiskFull, store.ErrLocked, or an error of the file system.
func Open(ctx context.Context, opt Options) (store.Store, error) {
	if err := os.MkdirAll(opt.Dir, 0o700); err != nil {
		return nil, err
	}
	db, err := badgerdb.Open(ctx, opt.badgerdb())
	if err != nil {
		return nil, translate(err)
	}
	return newFolder(db, false), nil
}

// OpenReadOnly opens the store in a folder, which must be there, only to read it. The folder
// stays as it is, to the last byte (see badgerdb.OpenReadOnly). The errors are those of Open, and Commit
// returns store.ErrReadOnly.
func OpenReadOnly(ctx context.Context, opt Options) (store.Store, error) {
	db, err := badgerdb.OpenReadOnly(ctx, opt.badgerdb(), nil)
	if err != nil {
		return nil, translate(err)
	}
	return newFolder(db, true), nil
}

// Create makes a store in a folder, which must not exist or be empty, that holds what fill
// commits. It appears there when all of that is on disk. If anything fails, nothing does.
//
// store.ErrNotEmpty, what fill returns, or an error of Open.
func Create(ctx context.Context, opt Options, fill func(store.Store) error) error {
	dir := filepath.Clean(opt.Dir)
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return fmt.Errorf("%s is %w", dir, store.ErrNotEmpty)
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	temporary, err := os.MkdirTemp(filepath.Dir(dir), filepath.Base(dir)+".restoring-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temporary)
	opt.Dir = temporary
	s, err := Open(ctx, opt)
	if err != nil {
		return err
	}
	if err := errors.Join(fill(s), s.Close()); err != nil {
		return err
	}
	return durable.Rename(temporary, dir)
}

func (o Options) badgerdb() badgerdb.Options {
	return badgerdb.Options{
		Badger: badger.LSMOnlyOptions(o.Dir).
			WithMemTableSize(o.MemTable).
			WithNumMemtables(2).
			WithBlockCacheSize(32 << 20).
			WithIndexCacheSize(16 << 20).
			WithCompression(options.Snappy),
		MaxValue: store.MaxRecord,
		Free:     badgerdb.FreeSpace,
		Log:      o.Log,
	}
}
