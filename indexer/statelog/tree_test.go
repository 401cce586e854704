package statelog

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/keytree-bch/keytree/protocol"
	format "github.com/keytree-bch/keytree/protocol/tlog"
)

func madeUp(from, n int) (entries []protocol.StateEntry) {
	for i := from; i < from+n; i++ {
		sum := func(what string) [32]byte { return sha256.Sum256(fmt.Append(nil, what, i)) }
		entries = append(entries, protocol.StateEntry{Height: uint32(i), Block: sum("block"), StateHash: sum("H"), StateRoot: sum("R")})
	}
	return entries
}

// naive is the root of RFC 6962 §2.1, by its definition.
func naive(entries []protocol.StateEntry) format.Hash {
	switch len(entries) {
	case 0:
		return sha256.Sum256(nil)
	case 1:
		b := entries[0].Bytes()
		return sha256.Sum256(append([]byte{0}, b[:]...))
	}
	k := 1
	for 2*k < len(entries) {
		k *= 2
	}
	left, right := naive(entries[:k]), naive(entries[k:])
	return sha256.Sum256(slices.Concat([]byte{1}, left[:], right[:]))
}

func (t *tree) want(tb testing.TB, entries []protocol.StateEntry) {
	tb.Helper()
	if t.Size() != uint64(len(entries)) {
		tb.Fatalf("%d entries, want %d", t.Size(), len(entries))
	}
	for size := 0; size <= len(entries); size += 1 + len(entries)/40 {
		if root, err := t.RootAt(tb.Context(), uint64(size)); err != nil || root != naive(entries[:size]) {
			tb.Fatalf("root of %d entries: %v, %v", size, root, err)
		}
	}
	for i, want := range entries {
		if e, err := t.entry(uint64(i)); err != nil || e != want {
			tb.Fatalf("entry %d: %+v, %v", i, e, err)
		}
	}
}

// TestTree adds entries in pieces, takes some back, and opens the files again, also after a process or
// the power has failed while it wrote.
func TestTree(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "1")
	open := func() *tree {
		t.Helper()
		tr, err := openTree(dir)
		if err != nil {
			t.Fatal(err)
		}
		return tr
	}
	tr := open()
	tr.want(t, nil)
	all := madeUp(0, 300)
	for at, n := 0, 1; at < 300; n++ {
		piece := all[at:min(300, at+n)]
		if err := tr.append(piece); err != nil {
			t.Fatal(err)
		}
		at += len(piece)
	}
	tr.want(t, all)

	for size1 := uint64(1); size1 <= 300; size1 += 23 {
		proof, err := tr.Consistency(t.Context(), size1, 300)
		if err != nil {
			t.Fatal(err)
		}
		older, newer := format.Checkpoint{Size: size1, Root: naive(all[:size1])}, format.Checkpoint{Size: 300, Root: naive(all)}
		if err := format.CheckConsistency(older, newer, proof); err != nil {
			t.Error(err)
		}
	}
	if hashes, err := tr.TileHashes(t.Context(), 8, 0, 1); err != nil || hashes[0] != naive(all[:256]) {
		t.Errorf("%v, %v", hashes, err)
	}
	if bundle, err := tr.Bundle(t.Context(), 256, 44); err != nil {
		t.Error(err)
	} else if entries, err := format.ParseBundle(bundle, 44); err != nil || len(entries) != 44 {
		t.Error(err)
	} else if b := all[299].Bytes(); string(entries[43]) != string(b[:]) {
		t.Error("the last entry of the bundle is another")
	}
	for what, f := range map[string]func() error{
		"root":  func() error { _, err := tr.RootAt(t.Context(), 301); return err },
		"tile":  func() error { _, err := tr.TileHashes(t.Context(), 8, 1, 1); return err },
		"proof": func() error { _, err := tr.Consistency(t.Context(), 3, 301); return err },
		"entry": func() error { _, err := tr.entry(300); return err },
		"some":  func() error { _, err := tr.Bundle(t.Context(), 256, 45); return err },
	} {
		if f() == nil {
			t.Errorf("%s beyond the end was answered", what)
		}
	}
	if err := tr.truncate(200); err != nil {
		t.Fatal(err)
	}
	tr.want(t, all[:200])
	other := slices.Concat(all[:200], madeUp(1000, 60))
	if err := tr.append(other[200:]); err != nil {
		t.Fatal(err)
	}
	tr.want(t, other)
	if err := tr.close(); err != nil {
		t.Fatal(err)
	}

	for _, damage := range []struct {
		file string
		at   int64
		cut  bool
		size int
	}{
		{"entries", 260*entrySize - 1, true, 259},
		{"hashes", (format260() - 1) * hashSize, true, 259},
		{"entries", 250*entrySize + 50, false, 250},
		{"hashes", 2 * hashSize, false, 1},
	} {
		f, err := os.OpenFile(filepath.Join(dir, damage.file), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if damage.cut {
			err = f.Truncate(damage.at)
		} else {
			_, err = f.WriteAt([]byte{1, 2, 3}, damage.at)
		}
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		tr := open()
		tr.want(t, other[:damage.size])
		if err := tr.append(other[damage.size:]); err != nil {
			t.Fatal(err)
		}
		tr.want(t, other)
		tr.close()
	}
}

// format260 is how many hashes a tree of 260 entries has: 260 leaves, and its perfect subtrees.
func format260() (n int64) {
	for size := int64(260); size > 0; size /= 2 {
		n += size
	}
	return n
}
