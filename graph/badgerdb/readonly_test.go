package badgerdb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dgraph-io/badger/v4"

	"github.com/keytree-bch/keytree/graph/durable/durabletest"
)

// records returns all records of a database that are not of Badger's own.
func records(t *testing.T, db *DB) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := db.View(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.DefaultIteratorOptions)
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			value, err := it.Item().ValueCopy(nil)
			if err != nil {
				return err
			}
			all[string(it.Item().Key())] = string(value)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// scratchIn has temporary folders made in one, which is returned.
func scratchIn(t *testing.T) string {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	return dir
}

func wantEmpty(t *testing.T, dir string) {
	t.Helper()
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("left in the temporary folder: %v, %v", entries, err)
	}
}

// TestReadOnly compares what OpenReadOnly reads with what is read after opening, and that
// the files are as they were.
func TestReadOnly(t *testing.T) {
	if testing.Short() {
		t.Skip("it opens one database after the other, in one goroutine")
	}
	for name, prepare := range map[string]func(t *testing.T, dir string) error{
		"killed": func(*testing.T, string) error { return nil },
		"killed in the middle of a transaction": func(_ *testing.T, dir string) error {
			return inLog(dir, func(content []byte, end int) []byte {
				return append(content[:end], logDelete([]byte("key 1001"), 101)...)
			})
		},
		"killed in the middle of a record": func(_ *testing.T, dir string) error {
			return inLog(dir, func(content []byte, end int) []byte {
				return append(content[:end], logDelete([]byte("key 1001"), 101)[:20]...)
			})
		},
		"a log not begun": func(_ *testing.T, dir string) error {
			return os.WriteFile(filepath.Join(dir, "00009.mem"), nil, 0o600)
		},
		"a log without a transaction": func(_ *testing.T, dir string) error {
			return os.WriteFile(filepath.Join(dir, "00009.mem"), make([]byte, 1<<20), 0o600)
		},
		"a manifest that ends in the middle": func(_ *testing.T, dir string) error {
			f, err := os.OpenFile(filepath.Join(dir, badger.ManifestFilename), os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				return err
			}
			_, err = f.Write([]byte{0, 0, 0})
			return errors.Join(err, f.Close())
		},
		"closed": func(t *testing.T, dir string) error {
			db, err := Open(t.Context(), testOptions(dir))
			if err != nil {
				return err
			}
			return db.Close()
		},
		"nothing yet": func(_ *testing.T, dir string) error {
			return errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700))
		},
	} {
		t.Run(name, func(t *testing.T) {
			temporary := scratchIn(t)
			dir, same := makeDatabase(t), filepath.Join(t.TempDir(), "copy")
			if err := prepare(t, dir); err != nil {
				t.Fatal(err)
			}
			if err := os.CopyFS(same, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			opened, err := Open(t.Context(), testOptions(same))
			if err != nil {
				t.Fatal(err)
			}
			want := records(t, opened)
			if err := opened.Close(); err != nil {
				t.Fatal(err)
			}
			if name != "nothing yet" && len(want) != 101 {
				t.Fatalf("%d records are opened", len(want))
			}

			before := durabletest.Files(t, dir)
			db, err := OpenReadOnly(t.Context(), testOptions(dir), nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := records(t, db); !maps.Equal(got, want) {
				t.Errorf("reading tells %d records, opening %d", len(got), len(want))
			}
			if left, err := filepath.Glob(filepath.Join(temporary, "*", "*")); err != nil || len(left) > 0 && name != "nothing yet" {
				t.Errorf("there are still copies of what was read: %v, %v", left, err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			if after := durabletest.Files(t, dir); !maps.Equal(after, before) {
				t.Errorf("changed from %v to %v", slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(after)))
			}
			wantEmpty(t, temporary)
		})
	}
}

// inLog changes the log of makeDatabase's, given where its last transaction ends.
func inLog(dir string, change func(content []byte, end int) []byte) error {
	logs, err := filepath.Glob(filepath.Join(dir, "*.mem"))
	if err != nil {
		return err
	}
	content, err := os.ReadFile(logs[0])
	if err != nil {
		return err
	}
	l, err := readLog(content, 0, 1<<20)
	if err != nil {
		return err
	}
	return os.WriteFile(logs[0], change(content, l.end), 0o600)
}

// TestReadOnlyUnfinished removes some records from what is read.
func TestReadOnlyUnfinished(t *testing.T) {
	temporary, dir := scratchIn(t), makeDatabase(t)
	before := durabletest.Files(t, dir)
	keys := [][]byte{[]byte("key 3"), []byte("key 1003"), []byte("there is none")}
	db, err := OpenReadOnly(t.Context(), testOptions(dir), func(db *DB, remove func([][]byte) error) error {
		if all := records(t, db); len(all) != 101 {
			t.Errorf("%d records at first", len(all))
		}
		return errors.Join(remove(keys[:1]), remove(keys[1:]))
	})
	if err != nil {
		t.Fatal(err)
	}
	all := records(t, db)
	for _, key := range keys {
		if _, ok := all[string(key)]; ok || len(all) != 99 {
			t.Errorf("%d records are left, %s among them: %v", len(all), key, ok)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	why := errors.New("why")
	if _, err := OpenReadOnly(t.Context(), testOptions(dir), func(_ *DB, remove func([][]byte) error) error {
		return errors.Join(remove(keys), why)
	}); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
	if after := durabletest.Files(t, dir); !maps.Equal(after, before) {
		t.Error("the files were changed")
	}
	wantEmpty(t, temporary)
}

// TestReadOnlyMore reads a log that was written with more memory than there is now.
func TestReadOnlyMore(t *testing.T) {
	if testing.Short() {
		t.Skip("it opens one database after the other, in one goroutine")
	}
	scratchIn(t)
	dir, left := t.TempDir(), filepath.Join(t.TempDir(), "left")
	large := testOptions(dir)
	large.Badger.MemTableSize = 32 << 20
	db, err := Open(t.Context(), large)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 20 {
		txn := db.NewTransaction(true)
		if err := errors.Join(txn.Set(fmt.Appendf(nil, "key %d", n), make([]byte, 1<<20-1)), db.Commit(txn)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.CopyFS(left, os.DirFS(dir)), db.Close()); err != nil {
		t.Fatal(err)
	}
	if db, err = OpenReadOnly(t.Context(), testOptions(left), nil); err != nil {
		t.Fatal(err)
	}
	if all := records(t, db); len(all) != 21 {
		t.Errorf("%d records", len(all))
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestReadOnlyRefused(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	temporary, dir := scratchIn(t), makeDatabase(t)
	db, err := OpenReadOnly(t.Context(), testOptions(dir), nil)
	if err != nil {
		t.Fatal(err)
	}
	if other, err := OpenReadOnly(t.Context(), testOptions(dir), nil); err != nil || other.Close() != nil {
		t.Errorf("two read: %v", err)
	}
	if _, err := Open(t.Context(), testOptions(dir)); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "wait") {
		t.Errorf("to write what is read: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	full := testOptions(dir)
	full.Free = func(string) (uint64, bool, error) { return 1, true, nil }
	if _, err := OpenReadOnly(t.Context(), full, nil); !errors.Is(err, ErrDiskFull) || !strings.Contains(err.Error(), temporary) {
		t.Errorf("without room for the copies: %v", err)
	}
	if db, err = Open(t.Context(), testOptions(dir)); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenReadOnly(t.Context(), testOptions(dir), nil); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
		t.Errorf("what is open: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "000001.sst"), 10); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenReadOnly(t.Context(), testOptions(dir), nil); !errors.Is(err, ErrDamaged) {
		t.Errorf("damaged: %v", err)
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	if _, err := OpenReadOnly(stopped, testOptions(makeDatabase(t)), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	wantEmpty(t, temporary)
	t.Setenv("TMPDIR", filepath.Join(temporary, "nothing"))
	if _, err := OpenReadOnly(t.Context(), testOptions(makeDatabase(t)), nil); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "TMPDIR") {
		t.Errorf("without a temporary folder: %v", err)
	}
}
