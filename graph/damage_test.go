package graph

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/dgraph-io/badger/v4"
	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/fsck"
	"github.com/keytree-bch/keytree/graph/store"
)

// copyFolder copies the files of a database, holes included.
func copyFolder(t testing.TB, from string) (to string) {
	t.Helper()
	to = t.TempDir()
	entries, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		in, err := os.Open(filepath.Join(from, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out, err := os.Create(filepath.Join(to, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(out, in)
		if err := errors.Join(err, in.Close(), out.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return to
}

// damageGraph makes a database with tables, and, unless it is closed properly,
// several logs. It returns its folder and what it was after each height.
func damageGraph(t *testing.T, closed bool) (dir string, after map[uint32]outcome) {
	t.Helper()
	dir, after = filepath.Join(t.TempDir(), "graph"), make(map[uint32]outcome)
	g, err := openFaulty(dir, &faultyStore{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	r := newRandomBlocks(8)
	var prev chainhash.Hash
	for height := range uint32(30) {
		b := r.next(t, height, prev, 40)
		prev = b.Hash
		if err := g.Connect(b); err != nil {
			t.Fatal(err)
		}
		after[height] = g.outcome(t)
	}
	if closed {
		if err := g.Close(); err != nil {
			t.Fatal(err)
		}
		return dir, after
	}
	// As a killed process leaves it. Under load, several memtables wait to be
	// flushed; here, the log of the one is made into three.
	dir = copyFolder(t, dir)
	logs := files(t, dir, ".mem")
	content, err := os.ReadFile(logs[len(logs)-1])
	if err != nil {
		t.Fatal(err)
	}
	size, header, rest := int64(len(content)), content[:logHeader], content[logHeader:]
	for n, transactions := range []int{10, 6, 1000} {
		part := slices.Clone(header)
		for transactions > 0 {
			size, ends := logRecord(rest)
			if size == 0 {
				break
			}
			part, rest = append(part, rest[:size]...), rest[size:]
			if ends {
				transactions--
			}
		}
		path := filepath.Join(dir, fmt.Sprintf("%05d.mem", 100+n))
		if err := errors.Join(os.WriteFile(path, part, 0o600), os.Truncate(path, size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(logs[len(logs)-1]); err != nil {
		t.Fatal(err)
	}
	return dir, after
}

// logHeader is the size of the header of Badger's logs.
const logHeader = 20

// logRecord returns the size of the record that a log goes on with, 0 if it ends,
// and whether the record ends its transaction. A record is two bytes, the lengths
// of key and value and a zero as varints, key, value and four bytes of checksum.
func logRecord(b []byte) (size int, ends bool) {
	if len(b) < 2 || b[0] == 0 {
		return 0, false
	}
	at, rest := 2, 4
	for range 3 {
		length, n := binary.Uvarint(b[at:])
		at, rest = at+n, rest+int(length)
	}
	return at + rest, b[0]&(1<<7) != 0
}

// files lists the files in dir with a suffix.
func files(t *testing.T, dir, suffix string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(paths)
	return paths
}

// wantDamage checks that the graph is not opened, with an error that names the
// file, and that Check finds the file as well.
func wantDamage(t *testing.T, dir, file, what string) {
	t.Helper()
	g, err := openFaulty(dir, &faultyStore{})
	if err == nil {
		g.Close()
		t.Errorf("%s: %s: opened", file, what)
		return
	}
	if !errors.Is(err, store.ErrDamaged) || !strings.Contains(err.Error(), file) || strings.Contains(err.Error(), "\n") {
		t.Errorf("%s: %s: error %q", file, what, err)
	}
	report, err := fsck.Check(t.Context(), dir, testParams, faultOptions().fsck(), nil)
	if err != nil || len(report.Findings) == 0 || report.Findings[0].File != file {
		t.Errorf("%s: %s: check says %v, %v", file, what, report, err)
	}
}

// wantShorter checks that the graph, if it opens, is one that there was after
// some block, and goes on; or else that the file is named. It reports which.
func wantShorter(t *testing.T, dir, file, what string, after map[uint32]outcome) (opened bool) {
	t.Helper()
	g, err := openFaulty(dir, &faultyStore{})
	if err != nil {
		if !errors.Is(err, store.ErrDamaged) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %s: error %q", file, what, err)
		}
		return false
	}
	defer g.Close()
	tip, ok := g.Tip()
	if have := g.outcome(t); ok && have != after[tip.Height] {
		t.Errorf("%s: %s: opened with tip %+v, but as it never was", file, what, tip)
	}
	g.wantSound(t)
	return true
}

// flip changes a byte of a file.
func flip(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1 << (at % 8)
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

func sizeOf(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// places are where to damage a file: the first and last bytes, and some between.
func places(size int64) (at []int64) {
	between, ends := int64(6), int64(5)
	if exhaustive() {
		between, ends = 400, 60
	}
	for n := range size {
		if n < ends || n >= size-ends || n%max(1, size/between) == 0 {
			at = append(at, n)
		}
	}
	return at
}

// TestDamagedFiles flips bytes of every kind of file, cuts them short, and
// removes them.
func TestDamagedFiles(t *testing.T) {
	if testing.Short() {
		t.Skip("it opens one database after the other")
	}
	inMemory(t)
	sound, after := damageGraph(t, true)
	try := func(name, what string, damage func(path string)) (dir string) {
		t.Helper()
		dir = copyFolder(t, sound)
		damage(filepath.Join(dir, name))
		return dir
	}
	tables := files(t, sound, ".sst")
	if len(tables) == 0 || len(files(t, sound, ".mem")) != 0 {
		t.Fatalf("%d tables, %d logs in a closed database", len(tables), len(files(t, sound, ".mem")))
	}
	table := filepath.Base(tables[0])
	values := filepath.Base(files(t, sound, ".vlog")[0])
	const manifest, registry = badger.ManifestFilename, badger.KeyRegistryFileName

	for _, name := range []string{table, manifest, registry, values} {
		size := sizeOf(t, filepath.Join(sound, name))
		dir := try(name, "missing", func(path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		})
		wantDamage(t, dir, name, "missing")
		for _, at := range places(size) {
			what := fmt.Sprintf("byte %d of %d changed", at, size)
			dir := try(name, what, func(path string) { flip(t, path, at) })
			switch {
			case name == registry && at < 16, name == values && at >= 8 && at < logHeader:
				// Random bytes that are for encryption, which is not used.
				if !wantShorter(t, dir, name, what, after) {
					t.Errorf("%s: %s: not opened", name, what)
				}
			case name == manifest:
				// The length of the last record may be what looks cut short.
				wantShorter(t, dir, name, what, after)
			default:
				wantDamage(t, dir, name, what)
			}
			os.RemoveAll(dir)

			what = fmt.Sprintf("cut to %d of %d bytes", at, size)
			dir = try(name, what, func(path string) {
				if err := os.Truncate(path, at); err != nil {
					t.Fatal(err)
				}
			})
			if name == manifest && at >= 8 || name == values && at == 0 {
				wantShorter(t, dir, name, what, after)
			} else {
				wantDamage(t, dir, name, what)
			}
			os.RemoveAll(dir)
		}
	}
}

// TestDamagedLogs does the same to the logs that a killed process leaves. What
// cannot be told from a crash leaves the graph as it was some blocks before.
func TestDamagedLogs(t *testing.T) {
	if testing.Short() {
		t.Skip("it opens one database after the other")
	}
	inMemory(t)
	sound, after := damageGraph(t, false)
	logs := files(t, sound, ".mem")
	if len(logs) < 3 {
		t.Fatalf("%d logs", len(logs))
	}
	if dir := copyFolder(t, sound); !wantShorter(t, dir, "", "nothing", after) {
		t.Fatal("the undamaged database is not opened")
	}
	opened, refused := 0, 0
	for _, log := range logs {
		name := filepath.Base(log)
		content, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		used := int64(len(strings.TrimRight(string(content), "\x00")))
		check := func(what string, damage func(path string)) {
			t.Helper()
			dir := copyFolder(t, sound)
			damage(filepath.Join(dir, name))
			if wantShorter(t, dir, "", what, after) {
				opened++
			} else {
				refused++
			}
			os.RemoveAll(dir)
		}
		check(name+" missing", func(path string) { os.Remove(path) })
		for _, at := range places(max(used, logHeader)) {
			check(fmt.Sprintf("%s: byte %d of %d changed", name, at, used), func(path string) { flip(t, path, at) })
			check(fmt.Sprintf("%s: cut to %d of %d bytes", name, at, used), func(path string) { os.Truncate(path, at) })
		}
	}
	t.Logf("%d logs: %d times opened some blocks shorter, %d times refused", len(logs), opened, refused)
	if opened == 0 || refused == 0 {
		t.Error("the damage was all of one kind")
	}
}

// TestDamageWhileOpen damages a table under an open graph: as soon as it is
// noticed, the graph answers nothing any more.
func TestDamageWhileOpen(t *testing.T) {
	inMemory(t)
	dir, _ := damageGraph(t, true)
	g, err := openFaulty(dir, &faultyStore{})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	g.inspect(t.Context())
	v, err := g.At(nil)
	if err != nil {
		t.Fatal(err)
	}
	v.Close()
	changed := g.Changed()
	table := files(t, dir, ".sst")[0]
	flip(t, table, sizeOf(t, table)/3)
	g.inspect(t.Context())
	if _, err := g.At(nil); !errors.Is(err, store.ErrDamaged) || !strings.Contains(err.Error(), filepath.Base(table)) {
		t.Errorf("a view of a damaged graph: %v", err)
	}
	if err := g.Connect(Block{Height: 30}); err == nil {
		t.Error("a damaged graph connects blocks")
	}
	select {
	case <-changed:
	default:
		t.Error("those who wait for a change were not told")
	}
}

// TestInspectWhileWriting checks the files of an open graph over and over while
// tables come and go: nothing of that may look like damage.
func TestInspectWhileWriting(t *testing.T) {
	inMemory(t)
	g, err := openFaulty(t.TempDir(), &faultyStore{})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	ctx, stop := context.WithCancel(t.Context())
	var inspecting sync.WaitGroup
	inspections := 0
	inspecting.Go(func() {
		for ctx.Err() == nil {
			g.inspect(ctx)
			inspections++
		}
	})
	r := newRandomBlocks(9)
	var prev chainhash.Hash
	for height := range uint32(25) {
		b := r.next(t, height, prev, 400)
		prev = b.Hash
		if err := g.Connect(b); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	inspecting.Wait()
	t.Logf("%d inspections", inspections)
	if _, err := g.At(nil); err != nil || inspections < 2 {
		t.Errorf("after %d inspections: %v", inspections, err)
	}
}

// TestLocked opens a graph that is open already.
func TestLocked(t *testing.T) {
	dir := t.TempDir()
	openTest(t, dir)
	if _, err := Open(dir, testParams, testOptions()); !errors.Is(err, ErrLocked) {
		t.Errorf("opened twice: %v", err)
	}
	if _, err := fsck.Check(t.Context(), dir, testParams, testOptions().fsck(), nil); !errors.Is(err, ErrLocked) {
		t.Errorf("checked while open: %v", err)
	}
}
