package keyserver

import (
	"context"
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/graph/badgerfiles"
)

// openBadger opens the database in disk.Dir, or makes one there, if there is room
// and after it has checked every byte of its files.
func openBadger(ctx context.Context, disk badgerfiles.Disk, log zerolog.Logger) (*badger.DB, error) {
	if err := disk.Room(0); err != nil {
		return nil, err
	}
	if err := checkFiles(ctx, disk.Dir); err != nil {
		return nil, err
	}
	return badgerfiles.Open(badger.LSMOnlyOptions(disk.Dir). // all values stay in the tables
									WithMemTableSize(disk.MemTable).
									WithValueThreshold(min(maxRecord, disk.MemTable*15/100)). // Badger wants it below its largest batch
									WithNumMemtables(2).
									WithBlockCacheSize(32<<20).
									WithIndexCacheSize(16<<20).
									WithCompression(options.Snappy).
									WithChecksumVerificationMode(options.OnBlockRead). // of what is damaged after it was checked
									WithSyncWrites(true).
									WithDetectConflicts(false). // one writer
									WithMetricsEnabled(false).
									WithValueLogFileSize(1<<20), // it stays empty
		log)
}

// checkFiles returns ErrDamaged, naming files, unless those in dir are what was
// written.
func checkFiles(ctx context.Context, dir string) error {
	release, err := badgerfiles.Lock(dir)
	if err != nil {
		return err
	}
	damage, err := badgerfiles.Check(ctx, dir, maxRecord)
	if err == nil && len(damage) == 0 {
		err = badgerfiles.RemoveUnbegun(dir)
	}
	return errors.Join(err, damaged(dir, damage), release())
}

// damaged returns ErrDamaged, naming files, if there is damage.
func damaged(dir string, damage []badgerfiles.Damage) (err error) {
	for _, d := range damage {
		err = errors.Join(err, fmt.Errorf("%w: %s: %w", ErrDamaged, dir, d))
	}
	return err
}
