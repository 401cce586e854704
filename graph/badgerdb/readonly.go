package badgerdb

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/dgraph-io/badger/v4"
)

// Unfinished finds what a killed process has left half done in a database that is read
// only, and removes it: the keys are then read as if they were deleted.
type Unfinished func(db *DB, remove func(keys [][]byte) error) error

// OpenReadOnly opens a database only to read it, after it has checked every byte of the files. It
// leaves the folder as it is, to the last byte and time, so the file system may be
// mounted to be read only, and whoever may read the files can open it so. Several can at once;
// nobody can open the database to write meanwhile. unfinished may be nil. Close it.
//
// Badger does not read a log that ends in the middle, as a killed process leaves it, unless
// it may cut it. So it is given a folder in the system's temporary one, which has links to
// the tables and copies of the logs, each up to its last whole transaction. The copies are as
// large as what was written since the last table: less than Badger's memtables. They are
// removed as soon as Badger has read them, the folder when the database is closed.
//
// The errors are those of Open; ErrDiskFull is about the temporary folder.
func OpenReadOnly(ctx context.Context, opt Options, unfinished Unfinished) (*DB, error) {
	dir := opt.Badger.Dir
	release, err := lock(dir, toRead)
	if err != nil {
		return nil, err
	}
	db := &DB{disk: disk{dir: dir, memTable: opt.Badger.MemTableSize, free: opt.Free}}
	found, err := Check(ctx, dir, opt.MaxValue)
	if err = errors.Join(err, damageError(dir, found)); err != nil {
		return nil, errors.Join(err, release())
	}
	s := &scratch{opt: opt}
	db.closed = func() error { return errors.Join(s.remove(), release()) }
	if err := s.fill(ctx); err != nil {
		return nil, errors.Join(err, db.closed())
	}
	if db.DB, err = s.open(); err != nil {
		return nil, errors.Join(err, db.closed())
	}
	if unfinished != nil {
		if err := s.finish(db, unfinished); err != nil {
			return nil, errors.Join(err, db.Close())
		}
	}
	s.clear()
	return db, nil
}

// scratch is the folder that Badger is given to read a database.
type scratch struct {
	opt      Options // of the database
	dir      string
	begun    bool  // the database has a manifest
	newest   int   // number of the newest log
	memTable int64 // how large memtables have to be for the logs, in bytes
}

// fill makes the folder, with all that Badger needs to read the database.
func (s *scratch) fill(ctx context.Context) error {
	of, err := filepath.Abs(s.opt.Badger.Dir)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(of)
	if err != nil {
		return err
	}
	if s.dir, err = os.MkdirTemp("", "keytree-read-"); err != nil { // mode 0700
		return fmt.Errorf("reading a database takes a temporary folder (TMPDIR names another one): %w", err)
	}
	var names []string
	for _, e := range entries {
		name := e.Name()
		names = append(names, name)
		if name == badger.ManifestFilename || name == badger.KeyRegistryFileName || strings.HasSuffix(name, ".sst") {
			if err := os.Symlink(filepath.Join(of, name), filepath.Join(s.dir, name)); err != nil {
				return fmt.Errorf("reading a database takes links to its files: %w", err)
			}
		}
		s.begun = s.begun || name == badger.ManifestFilename
	}
	for _, name := range filesInOrder(names, ".mem") {
		if err := errors.Join(ctx.Err(), s.copyLog(of, name)); err != nil {
			return err
		}
	}
	return nil
}

// copyLog copies a log, which was checked, up to its last whole transaction; if it has none, not at
// all.
func (s *scratch) copyLog(of, name string) error {
	content, err := os.ReadFile(filepath.Join(of, name))
	if err != nil {
		return err
	}
	if _, err := fmt.Sscanf(name, "%d.mem", &s.newest); err != nil {
		return err
	}
	l, err := readLog(content, math.MaxUint64-1, s.opt.MaxValue) // nothing is missed: it was checked
	if err != nil || l.last == 0 {
		return err
	}
	if err := s.room(l.end); err != nil {
		return err
	}
	s.memTable = max(s.memTable, l.memory)
	return os.WriteFile(filepath.Join(s.dir, name), content[:l.end], 0o600)
}

// room returns ErrDiskFull if so many bytes have no room in the scratch folder.
func (s *scratch) room(bytes int) error {
	free, ok, err := s.opt.Free(s.dir)
	if err == nil && ok && free < uint64(bytes) {
		err = fmt.Errorf("%w: %s has %d MiB free, the copy of a log of %s takes %d: make room, or name another folder in TMPDIR",
			ErrDiskFull, filepath.Dir(s.dir), free>>20, s.opt.Badger.Dir, bytes>>20+1)
	}
	return err
}

// open opens the database in the folder; an empty one if it was not begun.
func (s *scratch) open() (*badger.DB, error) {
	opt := s.opt
	// The logs may be of a process that had more memory.
	opt.Badger = opt.Badger.WithDir(s.dir).WithValueDir(s.dir).WithMemTableSize(max(opt.Badger.MemTableSize, s.memTable))
	db, err := badger.Open(opt.badger().WithReadOnly(s.begun).WithBypassLockGuard(true))
	return db, opening(s.opt.Badger.Dir, err)
}

// finish has what is half done removed from what the database is read as.
func (s *scratch) finish(db *DB, unfinished Unfinished) error {
	r := removals{path: filepath.Join(s.dir, fmt.Sprintf("%05d.mem", s.newest+1)), version: db.MaxVersion()}
	err := errors.Join(unfinished(db, r.remove), r.close())
	if err != nil || r.file == nil {
		return err
	}
	if err := db.DB.Close(); err != nil {
		return err
	}
	s.memTable = max(s.memTable, r.memory)
	db.DB, err = s.open()
	return err
}

// clear removes the copies, which Badger has read, and the links, behind which it has the files
// open: what is killed now leaves an empty folder. Where open files cannot be removed, they
// stay until remove.
func (s *scratch) clear() {
	entries, err := os.ReadDir(s.dir)
	for _, e := range entries {
		err = errors.Join(err, os.Remove(filepath.Join(s.dir, e.Name())))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.opt.Log.Debug().Err(err).Msg("the copies stay until the end")
	}
}

func (s *scratch) remove() error {
	if s.dir == "" {
		return nil
	}
	return os.RemoveAll(s.dir)
}

// removals is a log, in the scratch folder, of transactions that delete keys.
type removals struct {
	path    string
	version uint64   // of the last transaction
	file    *os.File // nil if there is none yet
	w       *bufio.Writer
	memory  int64 // as logRange
}

func (r *removals) remove(keys [][]byte) (err error) {
	if r.file == nil {
		if r.file, err = os.OpenFile(r.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
			return err
		}
		r.w = bufio.NewWriter(r.file)
		r.w.Write(make([]byte, logHeader)) // errors stay in w until Flush
	}
	r.version++
	for _, key := range keys {
		record := logDelete(key, r.version)
		r.memory += int64(len(record)) + nodeMemory
		r.w.Write(record)
	}
	_, err = r.w.Write(logEnd(r.version))
	return err
}

func (r *removals) close() error {
	if r.file == nil {
		return nil
	}
	return errors.Join(r.w.Flush(), r.file.Close())
}
