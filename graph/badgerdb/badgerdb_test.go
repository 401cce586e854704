package badgerdb

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dgraph-io/badger/v4"
)

// makeDatabase writes a database with two tables' worth of transactions, the last
// ones of which are in a log alone, and returns its folder as a kill would leave it.
func makeDatabase(t *testing.T) string {
	t.Helper()
	dir, left := t.TempDir(), filepath.Join(t.TempDir(), "left")
	write := func(from int) *badger.DB {
		db, err := badger.Open(badger.LSMOnlyOptions(dir).WithLogger(nil).WithMemTableSize(8 << 20).WithSyncWrites(true).WithValueLogFileSize(1 << 20))
		if err != nil {
			t.Fatal(err)
		}
		for n := range 50 {
			err := db.Update(func(txn *badger.Txn) error {
				return errors.Join(txn.Set([]byte{Stamp}, nil), txn.Set(fmt.Appendf(nil, "key %d", from+n), make([]byte, 100)))
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		return db
	}
	if err := write(0).Close(); err != nil { // which writes the log into a table
		t.Fatal(err)
	}
	db := write(1000)
	if err := os.CopyFS(left, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return left
}

func TestCheck(t *testing.T) {
	if damage, err := Check(t.Context(), filepath.Join(t.TempDir(), "nothing"), 1<<20); len(damage) > 0 || err != nil {
		t.Errorf("no folder: %v %v", damage, err)
	}
	sound := makeDatabase(t)
	logs, err := filepath.Glob(filepath.Join(sound, "*.mem"))
	if err != nil || len(logs) != 1 {
		t.Fatal(logs, err)
	}
	log := filepath.Base(logs[0])
	flip := func(file string, at int) func(dir string) error {
		return func(dir string) error {
			path := filepath.Join(dir, file)
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			content[at] ^= 1
			return os.WriteFile(path, content, 0o600)
		}
	}
	remove := func(file string) func(string) error {
		return func(dir string) error { return os.Remove(filepath.Join(dir, file)) }
	}
	for name, test := range map[string]struct {
		change func(dir string) error
		file   string // that is named; "" if nothing is wrong
	}{
		"sound":               {func(string) error { return nil }, ""},
		"a log not begun":     {func(dir string) error { return os.WriteFile(filepath.Join(dir, "00009.mem"), nil, 0o600) }, ""},
		"table":               {flip("000001.sst", 100), "000001.sst"},
		"table gone":          {remove("000001.sst"), "000001.sst"},
		"log":                 {flip(log, 200), log},
		"log's header":        {flip(log, 2), log},
		"value log not empty": {flip("000002.vlog", 4000), "000002.vlog"},
		"manifest gone":       {remove("MANIFEST"), "MANIFEST"},
		"manifest":            {flip("MANIFEST", 20), "MANIFEST"},
		"registry gone":       {remove("KEYREGISTRY"), "KEYREGISTRY"},
		"registry":            {flip("KEYREGISTRY", 20), "KEYREGISTRY"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "db")
			if err := errors.Join(os.CopyFS(dir, os.DirFS(sound)), test.change(dir)); err != nil {
				t.Fatal(err)
			}
			damage, err := Check(t.Context(), dir, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			if test.file == "" && len(damage) > 0 || test.file != "" && (len(damage) == 0 || damage[0].File != test.file) {
				t.Errorf("got %v, want %q named", damage, test.file)
			}
		})
	}
}

func TestRemoveUnbegun(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"00001.mem": "", "00002.mem": "x", "000001.vlog": "", "MANIFEST": "", "000003.sst": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := removeUnbegun(dir); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) != 3 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	release, err := lock(dir, toWrite)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock(dir, toWrite); !errors.Is(err, ErrLocked) {
		t.Errorf("locked twice: %v", err)
	}
	if err := InUse(dir); !errors.Is(err, ErrLocked) {
		t.Errorf("a locked folder is in use: %v", err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	for _, free := range []string{dir, filepath.Join(dir, "nothing")} {
		if err := InUse(free); err != nil {
			t.Errorf("nobody has %s: %v", free, err)
		}
	}
	if release, err = lock(dir, toRead); err != nil {
		t.Fatal(err)
	}
	if again, err := lock(dir, toRead); err != nil || again() != nil {
		t.Errorf("two read: %v", err)
	}
	if _, err := lock(dir, toWrite); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "reads it") {
		t.Errorf("to write what is read: %v", err)
	}
	if err := release(); err != nil {
		t.Error(err)
	}
}

// testOptions are those of a small database.
func testOptions(dir string) Options {
	return Options{Badger: badger.LSMOnlyOptions(dir).WithMemTableSize(8 << 20), MaxValue: 1 << 20, Free: FreeSpace}
}

// TestOpen opens a database, writes to it and damages a table under it.
func TestOpen(t *testing.T) {
	dir := makeDatabase(t)
	full := testOptions(dir)
	full.Free = func(string) (uint64, bool, error) { return 0, true, nil }
	if _, err := Open(t.Context(), full); !errors.Is(err, ErrDiskFull) {
		t.Errorf("on a full disk: %v", err)
	}
	db, err := Open(t.Context(), testOptions(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	txn := db.NewTransaction(true)
	defer txn.Discard()
	if err := errors.Join(txn.Set([]byte("key"), []byte("value")), db.Commit(txn)); err != nil {
		t.Fatal(err)
	}
	stamped := func(txn *badger.Txn) error {
		item, err := txn.Get([]byte{Stamp})
		if err == nil && item.Version() != db.MaxVersion() {
			t.Errorf("the stamp is of transaction %d, the last one is %d", item.Version(), db.MaxVersion())
		}
		return err
	}
	if err := db.View(stamped); err != nil {
		t.Fatal(err)
	}
	if err := db.Inspect(t.Context()); err != nil {
		t.Errorf("sound: %v", err)
	}
	// In place: Badger has a memory map of the file.
	f, err := os.OpenFile(filepath.Join(dir, "000001.sst"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	_, err = f.ReadAt(b[:], 100)
	b[0] ^= 1
	if _, err2 := f.WriteAt(b[:], 100); err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	wantDamage := func(err error) {
		t.Helper()
		var damage *DamageError
		if !errors.As(err, &damage) || !errors.Is(err, ErrDamaged) || len(damage.Found) != 1 || damage.Found[0].File != "000001.sst" {
			t.Errorf("damaged: %v", err)
		}
	}
	wantDamage(db.Inspect(t.Context()))
	if _, err := Open(t.Context(), testOptions(dir)); !errors.Is(err, ErrLocked) {
		t.Errorf("opened twice: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), testOptions(dir))
	wantDamage(err)
}

func TestRoom(t *testing.T) {
	const reserve = ReserveMemTables << 20
	errAsked := errors.New("asked")
	for name, test := range map[string]struct {
		free  uint64
		ok    bool
		err   error
		bytes uint64
		want  error
	}{
		"enough":            {reserve, true, nil, 0, nil},
		"a byte less":       {reserve - 1, true, nil, 0, ErrDiskFull},
		"enough to write":   {reserve + 400, true, nil, 100, nil},
		"too much to write": {reserve + 400, true, nil, 101, ErrDiskFull},
		"not told":          {0, false, nil, 1 << 40, nil},
		"failed":            {0, false, errAsked, 0, errAsked},
	} {
		disk := disk{dir: "the folder", memTable: 1 << 20, free: func(string) (uint64, bool, error) { return test.free, test.ok, test.err }}
		if err := disk.room(test.bytes); !errors.Is(err, test.want) || err != nil && !strings.Contains(err.Error(), "the folder") {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	if free, ok, err := FreeSpace(t.TempDir()); err != nil || ok && free == 0 {
		t.Errorf("%d bytes free, %v", free, err)
	}
}
