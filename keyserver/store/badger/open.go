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

// Place is a folder for a store. It implements store.Place.
type Place struct {
	Dir string // the folder
	// MemTable is the size of Badger's memtables, in bytes. There are two, and what they
	// decide beside memory is the limit of one commit, about 15 % of it.
	MemTable int64
	Log      zerolog.Logger
}

// Open implements store.Place, after every byte of the files was checked.
func (p Place) Open(ctx context.Context) (store.Store, error) {
	if err := os.MkdirAll(p.Dir, 0o700); err != nil {
		return nil, err
	}
	db, err := badgerdb.Open(ctx, p.badgerdb())
	if err != nil {
		return nil, translate(err)
	}
	return newFolder(db, false), nil
}

// OpenReadOnly implements store.Place. The folder stays as it is, to the last byte (see
// badgerdb.OpenReadOnly).
func (p Place) OpenReadOnly(ctx context.Context) (store.Store, error) {
	db, err := badgerdb.OpenReadOnly(ctx, p.badgerdb(), nil)
	if err != nil {
		return nil, translate(err)
	}
	return newFolder(db, true), nil
}

// Create implements store.Place. The folder must not exist or be empty.
func (p Place) Create(ctx context.Context, fill func(store.Store) error) error {
	dir := filepath.Clean(p.Dir)
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
	p.Dir = temporary
	s, err := p.Open(ctx)
	if err != nil {
		return err
	}
	if err := errors.Join(fill(s), s.Close()); err != nil {
		return err
	}
	return durable.Rename(temporary, dir)
}

// String implements store.Place.
func (p Place) String() string { return p.Dir }

func (p Place) badgerdb() badgerdb.Options {
	return badgerdb.Options{
		Badger: badger.LSMOnlyOptions(p.Dir).
			WithMemTableSize(p.MemTable).
			WithNumMemtables(2).
			WithBlockCacheSize(32 << 20).
			WithIndexCacheSize(16 << 20).
			WithCompression(options.Snappy),
		MaxValue: store.MaxRecord,
		Free:     badgerdb.FreeSpace,
		Log:      p.Log,
	}
}
