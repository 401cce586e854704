package graph

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/badgerdb"
	"github.com/keytree-bch/keytree/graph/fsck"
	"github.com/keytree-bch/keytree/graph/store"
)

const (
	// asWriter, in the environment, makes the test executable a process that
	// connects the blocks of killBlocks to the graph in the folder it names.
	asWriter = "KEYTREE_TEST_WRITER"

	// blindWriter makes that process blind for how full the disk is.
	blindWriter = "KEYTREE_TEST_BLIND"

	killBlocks   = 300
	largeHeight  = 150
	largeActions = 120_000

	// writerLimit is the memory limit of the process (runtime/debug.SetMemoryLimit),
	// writerMost what it may really take, both in bytes and without maps of files.
	writerLimit = 300 << 20
	writerMost  = 640 << 20
)

// killChain calls connect with each block from height on.
func killChain(t testing.TB, from uint32, connect func(Block) error) error {
	r := newRandomBlocks(5)
	var prev chainhash.Hash
	for height := range uint32(killBlocks) {
		var b Block
		switch {
		case height != largeHeight:
			b = r.next(t, height, prev, 20)
		case height < from:
			b.Hash = tx("large")
		default:
			b = grow(height, prev, shapes["tree"], 1, 1+largeActions/2)
			b.Hash = tx("large")
		}
		prev = b.Hash
		if height >= from {
			if err := connect(b); err != nil {
				return err
			}
		}
	}
	return nil
}

// TestWriter is not a test but the process that TestKill kills.
func TestWriter(t *testing.T) {
	dir := os.Getenv(asWriter)
	if dir == "" {
		t.Skip("part of TestKill")
	}
	debug.SetMemoryLimit(writerLimit)
	peak := watchMemory()
	around := dependencies{badgerdb.FreeSpace, func(db *badgerdb.DB) store.Committer { return store.Badger{DB: db} }}
	opt := Options{recentActions: 100} // and many merges of runs of txids
	if os.Getenv(blindWriter) != "" {
		opt = faultOptions()
		around.free = func(string) (uint64, bool, error) { return 0, false, nil }
	}
	g, err := open(dir, testParams, opt, around)
	if err != nil {
		t.Fatal(err)
	}
	from := uint32(0)
	if tip, ok := g.Tip(); ok {
		fmt.Printf("open %d %x\n", tip.Height, tip.StateHash)
		from = tip.Height + 1
	}
	err = killChain(t, from, func(b Block) error {
		if b.Height == largeHeight {
			fmt.Println("large")
		}
		if err := g.Connect(b); err != nil {
			return err
		}
		fmt.Println("tip", b.Height)
		if undoes(b.Height) {
			if err := g.Disconnect(); err != nil {
				return err
			}
			fmt.Println("tip", b.Height-1)
			if err := g.Connect(b); err != nil {
				return err
			}
			fmt.Println("tip", b.Height)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	fmt.Println("peak", peak()>>10) // kB
	fmt.Println("done")
}

// watchMemory watches what the process takes without maps of files, until the returned
// function is called, which returns the highest that it has been, in bytes.
func watchMemory() (peak func() int) {
	anonymous := regexp.MustCompile(`RssAnon:\s*(\d+) kB`)
	done, ended := make(chan struct{}), make(chan int)
	go func() {
		peak := 0
		for {
			status, _ := os.ReadFile("/proc/self/status")
			if m := anonymous.FindSubmatch(status); m != nil {
				n, _ := strconv.Atoi(string(m[1]))
				peak = max(peak, n<<10)
			}
			select {
			case <-done:
				ended <- peak
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	return func() int { close(done); return <-ended }
}

// TestKill kills a process that connects and disconnects blocks, one of them
// with 120,000 actions, again and again at random moments, also while it opens
// the graph. What it had reported as done is there each time, and in the end the
// graph is the one of an undisturbed run.
func TestKill(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts a process for each kill")
	}
	inMemory(t)
	kills, seed := 5, uint64(time.Now().UnixNano())
	if exhaustive() {
		kills = 200
	}
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))

	// The undisturbed run goes on at the same time.
	var (
		reference   *Graph
		hashes      = make(map[uint32]string) // state hash by height
		undisturbed sync.WaitGroup
	)
	undisturbed.Go(func() {
		var err error
		if reference, err = Open(t.TempDir(), testParams, Options{}); err != nil {
			t.Error(err)
			return
		}
		err = killChain(t, 0, func(b Block) error {
			err := reference.Connect(b)
			tip, _ := reference.Tip()
			hashes[tip.Height] = fmt.Sprintf("%x", tip.StateHash)
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
	defer func() {
		undisturbed.Wait()
		if reference != nil {
			reference.Close()
		}
	}()

	dir := filepath.Join(t.TempDir(), "graph")
	w := &writer{t: t, dir: dir, acknowledged: -1}
	large := 0 // kills on the way to the large block, or in it
	for n := range kills {
		if n%2 == 1 && w.run("large", time.Duration(random.IntN(2000))*time.Millisecond) {
			large++
		} else if n%2 == 0 {
			w.run("", time.Duration(random.IntN(400))*time.Millisecond)
		}
		if n == 0 || exhaustive() && n%20 == 0 {
			w.check()
		}
	}
	w.run("done", 0)
	t.Logf("%d kills, %d of them at the large block; peak memory of the process %d kB", kills, large, w.peak)
	if !underRace && w.peak<<10 > writerMost {
		t.Errorf("the process took %d kB of memory, at most %d expected", w.peak, writerMost>>10)
	}
	if undisturbed.Wait(); t.Failed() {
		return
	}
	for _, o := range w.opened {
		if o.hash != hashes[o.height] {
			t.Errorf("opened at %d with state hash %s, want %s", o.height, o.hash, hashes[o.height])
		}
	}

	if exhaustive() {
		w.check() // of the large block, which takes long
	}
	g, err := Open(dir, testParams, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if have, want := g.outcome(t), reference.outcome(t); have != want {
		t.Errorf("ended with %+v, want %+v", have.tip, want.tip)
	}
}

// writer is the process to be killed, in all its lives.
type writer struct {
	t            *testing.T
	dir          string
	acknowledged int // height of the tip when it last said so, -1 before
	opened       []openedAt
	peak         int // kB
}

// openedAt is what the process found when it opened the graph.
type openedAt struct {
	height uint32
	hash   string
}

// run starts the process, waits until it says a word ("" for its start), and
// kills it some time later; or lets it end, if the word is the last. It reports
// whether the word came.
func (w *writer) run(word string, later time.Duration) (came bool) {
	w.t.Helper()
	executable, err := os.Executable()
	if err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.CommandContext(w.t.Context(), executable, "-test.run=^TestWriter$", "-test.v")
	cmd.Env = append(os.Environ(), asWriter+"="+w.dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	kill := func() { time.AfterFunc(later, func() { cmd.Process.Kill() }) }
	if word == "" {
		kill()
	}
	var said []string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		line := lines.Text()
		said = append(said, line)
		var height int
		var hash string
		switch {
		case scan(line, "open %d %s", &height, &hash):
			// One step may have landed that the process did not live to report.
			low := w.acknowledged
			if low >= 0 && undoes(uint32(low)) {
				low--
			}
			if height < low || height > w.acknowledged+1 {
				w.t.Fatalf("opened at %d, reported %d before it was killed", height, w.acknowledged)
			}
			w.acknowledged = height
			w.opened = append(w.opened, openedAt{uint32(height), hash})
		case scan(line, "tip %d", &height):
			w.acknowledged = height
		case scan(line, "peak %d", &w.peak):
		}
		if line == word && !came {
			came = true
			if word != "done" {
				kill()
			}
		}
	}
	err = cmd.Wait()
	if word == "done" && (err != nil || !came) || word != "done" && err != nil && cmd.ProcessState.Exited() {
		w.t.Fatalf("the process ended by itself: %v\n%s", err, strings.Join(said, "\n"))
	}
	return came
}

// check checks what the killed process has left.
func (w *writer) check() {
	w.t.Helper()
	if _, err := os.Stat(w.dir); os.IsNotExist(err) {
		return // killed before it had made the folder
	}
	report, err := fsck.Check(w.t.Context(), w.dir, testParams, Options{}.fsck(), nil)
	if err != nil || len(report.Findings) > 0 {
		w.t.Fatalf("%v\n%v", err, lines(report))
	}
}

// undoes reports whether the process takes the block at height back once and
// connects it again.
func undoes(height uint32) bool {
	return height%10 == 9 || height == largeHeight && exhaustive()
}

func scan(line, format string, into ...any) bool {
	n, err := fmt.Sscanf(line, format, into...)
	return err == nil && n == len(into)
}
