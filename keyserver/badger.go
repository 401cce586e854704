package keyserver

import (
	"context"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/graph/badgerdb"
)

// openBadger opens the database in dir, or makes one there, with memtables of so
// many bytes.
func openBadger(ctx context.Context, dir string, memTable int64, log zerolog.Logger) (*badgerdb.DB, error) {
	return badgerdb.Open(ctx, badgerOptions(dir, memTable, log))
}

// lookAtBadger opens the database in dir only to read it.
func lookAtBadger(ctx context.Context, dir string, memTable int64, log zerolog.Logger) (*badgerdb.DB, error) {
	return badgerdb.Look(ctx, badgerOptions(dir, memTable, log), nil)
}

func badgerOptions(dir string, memTable int64, log zerolog.Logger) badgerdb.Options {
	return badgerdb.Options{
		Badger: badger.LSMOnlyOptions(dir).
			WithMemTableSize(memTable).
			WithNumMemtables(2).
			WithBlockCacheSize(32 << 20).
			WithIndexCacheSize(16 << 20).
			WithCompression(options.Snappy),
		MaxValue: maxRecord,
		Free:     badgerdb.FreeSpace,
		Log:      log,
	}
}
