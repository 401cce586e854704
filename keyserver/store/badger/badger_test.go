package badger

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/graph/badgerdb"
	"github.com/keytree-bch/keytree/graph/durable/durabletest"
	"github.com/keytree-bch/keytree/keyserver/store"
	"github.com/keytree-bch/keytree/keyserver/store/storetest"
)

// place is a folder for one store. It implements storetest.Place.
type place struct{ Place }

func newPlace(t *testing.T) place {
	dir := filepath.Join(t.TempDir(), "store")
	return place{Place{Dir: dir, MemTable: 8 << 20, Log: zerolog.Nop()}}
}

func (p place) Create(ctx context.Context, fill func(store.Store) error) error {
	err := p.Place.Create(ctx, fill)
	if left, _ := filepath.Glob(p.Dir + ".*"); len(left) > 0 {
		return errors.Join(err, errors.New("a temporary folder is left"))
	}
	return err
}

func (p place) Crashed(t *testing.T) storetest.Place {
	copied := newPlace(t)
	if err := os.CopyFS(copied.Dir, os.DirFS(p.Dir)); err != nil {
		t.Fatal(err)
	}
	return copied
}

func (p place) Damage(t *testing.T) {
	tables, err := filepath.Glob(filepath.Join(p.Dir, "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatalf("%d tables, %v", len(tables), err)
	}
	content, err := os.ReadFile(tables[0])
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)/3] ^= 1
	if err := os.WriteFile(tables[0], content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestConformance(t *testing.T) {
	if free, ok, err := badgerdb.FreeSpace("/dev/shm"); err == nil && ok && free > 1<<30 {
		t.Setenv("TMPDIR", "/dev/shm") // it writes often
	}
	storetest.Run(t, func(t *testing.T) storetest.Place { return newPlace(t) })
}

// TestStamp: what keytree writes with every transaction is no part of what is stored, and
// nobody else writes there.
func TestStamp(t *testing.T) {
	s, err := newPlace(t).Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Commit([]store.Write{{Key: []byte("a")}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit([]store.Write{{Key: []byte("b")}, {Key: []byte{badgerdb.Stamp, 1}}}); err == nil {
		t.Error("a key of the stamp's was written")
	}
	err = s.View(t.Context(), func(r store.Reader) error {
		n, err := store.Count(r, nil)
		if n != 1 {
			t.Errorf("%d keys are stored, want 1", n)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestErrors: errors are those of both packages, and read as they did.
func TestErrors(t *testing.T) {
	for _, test := range []struct{ theirs, ours error }{
		{badgerdb.ErrDamaged, store.ErrDamaged},
		{&badgerdb.DamageError{Dir: "dir", Found: []badgerdb.Damage{{File: "file", Problem: "gone"}}}, store.ErrDamaged},
		{badgerdb.ErrDiskFull, store.ErrDiskFull},
		{badgerdb.ErrLocked, store.ErrLocked},
	} {
		err := translate(test.theirs)
		if !errors.Is(err, test.theirs) || !errors.Is(err, test.ours) || err.Error() != test.theirs.Error() {
			t.Errorf("%v became %v", test.theirs, err)
		}
	}
	for _, err := range []error{nil, os.ErrPermission} {
		if got := translate(err); got != err {
			t.Errorf("%v became %v", err, got)
		}
	}
}

// TestReadOnlyLeavesAll: a folder that was read is what it was.
func TestReadOnlyLeavesAll(t *testing.T) {
	p := newPlace(t)
	if _, err := p.OpenReadOnly(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a folder that is not there: %v", err)
	}
	if _, err := os.Stat(p.Dir); !os.IsNotExist(err) {
		t.Error("it was made")
	}
	s, err := p.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Commit([]store.Write{{Key: []byte("a"), Value: bytes.Repeat([]byte("x"), 1000)}}), s.Close()); err != nil {
		t.Fatal(err)
	}
	before := durabletest.Files(t, p.Dir)
	r, err := p.OpenReadOnly(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if after := durabletest.Files(t, p.Dir); !maps.Equal(before, after) {
		t.Errorf("the folder had %v, and has %v", before, after)
	}
}
