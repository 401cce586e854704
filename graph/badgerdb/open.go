package badgerdb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/rs/zerolog"
)

// ErrLocked says that somebody else has the database open.
var ErrLocked = errors.New("database in use")

// errLocked says who has the database in dir open, as far as that can be told, and what to do.
func errLocked(dir string, reading bool) error {
	if reading {
		return fmt.Errorf("%w: %s: somebody reads it, as keytree fsck and backup do: wait until that is done", ErrLocked, dir)
	}
	who := "another process"
	if pid, err := os.ReadFile(filepath.Join(dir, pidFile)); err == nil {
		if n, err := strconv.ParseUint(strings.TrimSpace(string(pid)), 10, 32); err == nil {
			who = fmt.Sprintf("process %d", n)
		}
	}
	return fmt.Errorf("%w: %s: %s has it open, is it a keytree server? Stop it first", ErrLocked, dir, who)
}

// pidFile is where Badger writes which process has a database open.
const pidFile = "LOCK"

// purpose is what a folder is locked for: any number can read, or one can write.
type purpose int

const (
	toRead purpose = iota
	toWrite
)

// Stamp is the key that every transaction writes; no other key begins with it. So
// the versions that Badger gives to transactions have no gaps, which is how it can
// be told that some are missing.
const Stamp = 'W'

// Options say what database to open.
type Options struct {
	// Badger is where the database is, and how large its memtables, tables and caches
	// are. What the checks rely on is set by Open.
	Badger badger.Options
	// MaxValue is more than any value that is written has, in bytes, and at most
	// 1 MiB.
	MaxValue int
	// Free is FreeSpace, but in tests.
	Free func(dir string) (bytes uint64, ok bool, err error)
	Log  zerolog.Logger
}

// DB is an open database. Reading is Badger's; writing ends with Commit. All methods
// may be called concurrently.
type DB struct {
	*badger.DB
	disk   disk
	closed func() error // what Close does behind Badger's; nil: nothing
}

// Dir is the folder of the database.
func (db *DB) Dir() string { return db.disk.dir }

// Close closes the database, once.
func (db *DB) Close() error {
	err := db.DB.Close()
	if db.closed != nil {
		err = errors.Join(err, db.closed())
	}
	return err
}

// Open opens a database, or makes one in its folder, which must exist, if there is
// room and after it has checked every byte of the files. Close it.
//
// ErrDiskFull; ErrLocked; ErrDamaged, as a DamageError if files are the reason; or
// an error of the file system.
func Open(ctx context.Context, opt Options) (*DB, error) {
	db := &DB{disk: disk{dir: opt.Badger.Dir, memTable: opt.Badger.MemTableSize, free: opt.Free}}
	if err := db.Room(0); err != nil {
		return nil, err
	}
	if err := writable(db.disk.dir); err != nil { // Badger's error would not wrap the system's
		return nil, err
	}
	if err := ready(ctx, db.disk.dir, opt.MaxValue); err != nil {
		return nil, err
	}
	var err error
	if db.DB, err = badger.Open(opt.badger()); err != nil {
		return nil, opening(db.disk.dir, err)
	}
	return db, nil
}

// badger returns the options of Badger with what the checks rely on.
func (o Options) badger() badger.Options {
	return o.Badger.
		WithLogger(badgerLog{o.Log}).
		// All values stay in the tables; Badger wants the threshold below its largest
		// batch.
		WithValueThreshold(min(1<<20, o.Badger.MemTableSize*15/100)).
		WithValueLogFileSize(1 << 20). // it stays empty
		// What is damaged after it was checked must at least not be taken for data.
		WithChecksumVerificationMode(options.OnBlockRead).
		// DB.Sync leaves out the log of a memtable that has just been filled; a step
		// of many transactions would not be on disk after it.
		WithSyncWrites(true).
		WithDetectConflicts(false). // one writer
		WithMetricsEnabled(false)
}

// opening makes an error of Badger's one of this package's, as Badger opens the database in dir.
func opening(dir string, err error) error {
	switch {
	case err == nil:
		return nil
	case strings.Contains(err.Error(), "Cannot acquire directory lock"): // Badger has no error value for it
		return errLocked(dir, false)
	case errors.Is(err, badger.ErrTruncateNeeded), errors.Is(err, badger.ErrEncryptionKeyMismatch):
		return fmt.Errorf("%w: %s: %w", ErrDamaged, dir, err)
	}
	return err
}

// InUse returns ErrLocked if somebody writes or reads the database in dir: what
// writes asks before it changes anything beside the database. nil if there is no such folder.
func InUse(dir string) error {
	release, err := lock(dir, toWrite)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return release()
}

// ready makes sure that Badger can be let at the files in dir: it drops without a
// word what it cannot read.
func ready(ctx context.Context, dir string, maxValue int) error {
	release, err := lock(dir, toWrite)
	if err != nil {
		return err
	}
	found, err := Check(ctx, dir, maxValue)
	if err == nil && len(found) == 0 {
		err = removeUnbegun(dir)
	}
	return errors.Join(err, damageError(dir, found), release())
}

// Room returns ErrDiskFull unless so many bytes of keys and values can be written
// without touching what has to stay free on the disk.
func (db *DB) Room(bytes uint64) error { return db.disk.room(bytes) }

// Commit stamps a transaction and makes it durable: after nil it is on disk. After
// an error, whether it is can only be told by reading.
func (db *DB) Commit(txn *badger.Txn) error {
	if err := txn.Set([]byte{Stamp}, []byte{}); err != nil {
		return err
	}
	return txn.Commit()
}

// Inspect checks the tables of the open database: a DamageError if one has been
// damaged since it was opened, an error of the file system or the context's.
func (db *DB) Inspect(ctx context.Context) error {
	c := &check{dir: db.disk.dir, live: true}
	if err := c.all(ctx); err != nil {
		return err
	}
	return damageError(db.disk.dir, c.damage)
}

// badgerLog passes what Badger reports on; its chatter about files and levels
// is for debugging only.
type badgerLog struct{ zerolog.Logger }

func (l badgerLog) write(level zerolog.Level, format string, args []any) {
	l.WithLevel(level).Str("from", "badger").Msg(strings.TrimSpace(fmt.Sprintf(format, args...)))
}

func (l badgerLog) Errorf(format string, args ...any)   { l.write(zerolog.ErrorLevel, format, args) }
func (l badgerLog) Warningf(format string, args ...any) { l.write(zerolog.WarnLevel, format, args) }
func (l badgerLog) Infof(format string, args ...any)    { l.write(zerolog.DebugLevel, format, args) }
func (l badgerLog) Debugf(format string, args ...any)   { l.write(zerolog.TraceLevel, format, args) }
