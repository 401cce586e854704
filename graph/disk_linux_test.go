package graph

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/badgerdb"
	"github.com/keytree-bch/keytree/graph/fsck"
)

// smallDisk mounts a file system of so many bytes for the time of the test, and
// returns a folder on it.
func smallDisk(t *testing.T, bytes string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("keytree", dir, "tmpfs", 0, "size="+bytes); err != nil {
		t.Skipf("mounting a small file system needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill takes all space but so many bytes, until empty is called.
func fill(t *testing.T, dir string, left uint64) (empty func()) {
	t.Helper()
	free, _, err := badgerdb.FreeSpace(dir)
	if err != nil || free < left {
		t.Fatalf("%d bytes free: %v", free, err)
	}
	path := filepath.Join(dir, "filler")
	if err := os.WriteFile(path, make([]byte, free-left), 0o600); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDiskFull lets the disk fill up, as the graph sees coming.
func TestDiskFull(t *testing.T) {
	if testing.Short() {
		t.Skip("it opens one database after the other, in one goroutine")
	}
	dir := smallDisk(t, "64m")
	reserve := badgerdb.ReserveMemTables * uint64(faultOptions().MemTable)
	open := func() (*Graph, error) { return Open(filepath.Join(dir, "graph"), testParams, faultOptions()) }
	wantFull := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, ErrDiskFull) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "MiB free") {
			t.Errorf("%s on a full disk: %v", what, err)
		}
	}
	tasks, outcomes := faultTasks(t, 400)

	empty := fill(t, dir, reserve-1<<20)
	_, err := open()
	wantFull("making a graph", err)
	empty()
	g, err := open()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { g.Close() }()
	const large = 5 // the step that is too large for one transaction
	for n, task := range tasks {
		if n > 0 {
			left := reserve - 1<<20
			if n == large {
				left = reserve + 1<<17 // enough for another, not for this one
			}
			empty := fill(t, dir, left)
			wantFull("a step", task.do(g))
			if have := g.outcome(t); have != outcomes[n-1] {
				t.Fatalf("a step failed for lack of space and changed the graph: %+v", have.tip)
			}
			g.checkMemory(t)
			empty()
		}
		if err := task.do(g); err != nil {
			t.Fatal(err)
		}
		if n == large {
			empty := fill(t, dir, reserve-1<<20)
			if err := g.Close(); err != nil {
				t.Fatal(err)
			}
			_, err := open()
			wantFull("opening a graph", err)
			empty()
			if g, err = open(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if have, want := g.outcome(t), outcomes[len(outcomes)-1]; have != want {
		t.Errorf("ended with %+v, want %+v", have.tip, want.tip)
	}
	g.wantSound(t)
}

// TestDiskFullUnseen lets the disk fill up so fast that nobody sees it coming:
// the process ends at a write through a memory map. When there is space again,
// the graph opens and continues.
func TestDiskFullUnseen(t *testing.T) {
	if underRace {
		t.Skip("filling the disk takes minutes under the race detector; TestDiskFull writes to a full one there")
	}
	disk := smallDisk(t, "400m")
	dir := filepath.Join(disk, "graph")
	empty := fill(t, disk, 1<<20)
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), executable, "-test.run=^TestWriter$", "-test.v")
	cmd.Env = append(os.Environ(), asWriter+"="+dir, blindWriter+"=1")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "tip 3\n") {
		t.Fatalf("the process ended with %v and said %s", err, out)
	}
	first, _, _ := strings.Cut(string(out[strings.LastIndex(string(out), "tip "):]), "\ngoroutine")
	t.Logf("it ended so: %s", first)
	empty()

	report, err := fsck.Check(t.Context(), dir, testParams, faultOptions().fsck(), nil)
	if err != nil || len(report.Findings) > 0 {
		t.Fatalf("%v\n%v", err, lines(report))
	}
	g, err := Open(dir, testParams, faultOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	reference, err := Open(t.TempDir(), testParams, faultOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer reference.Close()
	landed, _ := g.Tip()
	enough := errors.New("enough")
	err = killChain(t, 0, func(b Block) error {
		if err := reference.Connect(b); err != nil {
			return err
		}
		tip, _ := reference.Tip()
		if b.Height == landed.Height && tip != landed {
			t.Errorf("the graph is at %+v, want %+v", landed, tip)
		}
		if b.Height > landed.Height {
			if err := g.Connect(b); err != nil {
				return err
			}
		}
		if b.Height == landed.Height+5 {
			return enough
		}
		return nil
	})
	if err != enough {
		t.Fatal(err)
	}
	if have, want := g.outcome(t), reference.outcome(t); have != want || want.tip.Hash == (chainhash.Hash{}) {
		t.Errorf("ended with %+v, want %+v", have.tip, want.tip)
	}
}
