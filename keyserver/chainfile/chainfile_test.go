package chainfile_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/keyserver/chainfile"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
)

var errDamaged = errors.New("the copy is damaged")

// newEntries makes entries that follow each other.
func newEntries(t *testing.T, n int) []hashchain.Entry {
	t.Helper()
	var head hashchain.Hash
	entries := make([]hashchain.Entry, n)
	for i := range entries {
		e, err := hashchain.Seal(head, fmt.Sprintf("user%d@example.org", i), hashchain.Hash{byte(i)}, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		entries[i], head = e, e.Hash()
	}
	return entries
}

func open(t *testing.T, path string, size uint64, head hashchain.Hash) *chainfile.File {
	t.Helper()
	f, err := chainfile.Open(path, size, head, errDamaged)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// TestFile appends, reads, finds, shortens and extends.
func TestFile(t *testing.T) {
	entries := newEntries(t, 9)
	path := filepath.Join(t.TempDir(), "entries")
	f := open(t, path, 0, hashchain.Hash{})
	for _, piece := range [][]hashchain.Entry{entries[:4], nil, entries[4:]} {
		if err := f.Append(piece); err != nil {
			t.Fatal(err)
		}
	}
	if f.Size() != 9 || f.Head() != entries[8].Hash() || f.Sync() != nil || f.Name() != path {
		t.Errorf("%d entries up to %v in %s", f.Size(), f.Head(), f.Name())
	}
	for from := range uint64(10) {
		for count := range 10 - from {
			read, err := f.Read(from, count)
			loaded, loadErr := f.Load(from, count)
			if err != nil || loadErr != nil || uint64(len(read)) != count || uint64(len(loaded)) != count {
				t.Fatalf("%d entries from %d: %d and %d, %v, %v", count, from, len(read), len(loaded), err, loadErr)
			}
			for i := range read {
				if read[i] != entries[from+uint64(i)] || loaded[i] != read[i] {
					t.Fatalf("entry %d is another", from+uint64(i))
				}
			}
		}
	}
	for _, beyond := range [][2]uint64{{9, 1}, {10, 0}, {0, 10}, {3, 1 << 63}} {
		if _, err := f.Read(beyond[0], beyond[1]); err == nil {
			t.Errorf("%d entries from %d are read", beyond[1], beyond[0])
		}
	}
	if at, ok, err := f.Find(&entries[5], 0, 9); at != 5 || !ok || err != nil {
		t.Errorf("entry 5 is found at %d: %v, %v", at, ok, err)
	}
	if _, ok, err := f.Find(&entries[5], 6, 9); ok || err != nil {
		t.Errorf("entry 5 is found behind itself: %v", err)
	}

	var chain hashchain.Chain
	for _, size := range []uint64{0, 5, 9} {
		if err := f.Advance(&chain, size); err != nil || chain.Size != size {
			t.Fatalf("to %d entries: %d, %v", size, chain.Size, err)
		}
		root, err := f.Root(size)
		if err != nil || root != chain.Root() {
			t.Errorf("the root over %d entries is %v, want %v (%v)", size, root, chain.Root(), err)
		}
	}

	f.Shorten(5, entries[4].Hash())
	if err := f.Extend(); err != nil || f.Size() != 9 || f.Head() != entries[8].Hash() {
		t.Errorf("extended to %d entries (%v), want 9", f.Size(), err)
	}
	f.Shorten(5, entries[4].Hash())
	if err := errors.Join(f.Truncate(), f.Extend()); err != nil || f.Size() != 5 {
		t.Errorf("cut to %d entries (%v), want 5", f.Size(), err)
	}
	if first, err := open(t, path, 0, hashchain.Hash{}).First(); err != nil || first != entries[0] {
		t.Errorf("the first entry of a file whose end is not known: %v", err)
	}
}

// TestDamage changes many a byte of a file: no entry that is not what was written is read.
func TestDamage(t *testing.T) {
	entries := newEntries(t, 3)
	path := filepath.Join(t.TempDir(), "entries")
	f := open(t, path, 0, hashchain.Hash{})
	if err := f.Append(entries); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(raw); at += 17 {
		bad := append([]byte(nil), raw...)
		bad[at] ^= 1
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Read(0, 3); !errors.Is(err, errDamaged) {
			t.Errorf("byte %d changed: got %v", at, err)
		}
		var chain hashchain.Chain
		if err := f.Advance(&chain, 3); !errors.Is(err, errDamaged) {
			t.Errorf("byte %d changed: a chain is made of it: %v", at, err)
		}
	}
	if err := os.WriteFile(path, raw[:len(raw)-1], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f.At(2); !errors.Is(err, errDamaged) || !strings.Contains(err.Error(), "ends before position 2") {
		t.Errorf("a torn file: got %v", err)
	}
	for name, end := range map[string]struct {
		size uint64
		head hashchain.Hash
	}{
		"another head":   {2, hashchain.Hash{1}},
		"behind the end": {4, entries[2].Hash()},
		"far too many":   {1 << 60, hashchain.Hash{}},
	} {
		if _, err := chainfile.Open(path, end.size, end.head, errDamaged); !errors.Is(err, errDamaged) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if f := open(t, path, 2, entries[1].Hash()); f.Extend() != nil || f.Size() != 2 {
		t.Errorf("half an entry was taken: %d", f.Size())
	}
}
