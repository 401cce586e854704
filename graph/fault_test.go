package graph

import (
	"errors"
	"os"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/badgerdb"
	"github.com/keytree-bch/keytree/graph/fsck"
	"github.com/keytree-bch/keytree/graph/store"
)

// inMemory puts the test's folders into memory where the system has such a
// place: these tests write often, and a killed process loses nothing there
// either.
func inMemory(t *testing.T) {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		t.Setenv("TMPDIR", "/dev/shm")
	}
}

// faultOptions make small memtables, few undo records and small stages, so that steps of
// many pieces, pruning and checkpoints come into play soon.
func faultOptions() Options {
	return Options{MemTable: 1 << 20, BlockCache: 1 << 20, UndoBlocks: 4, stageBytes: 8 << 10, checkpointActions: 150, recentActions: 25}
}

// fsck returns the options by which a graph of these is checked.
func (opt Options) fsck() fsck.Options {
	return fsck.Options{Memory: DefaultMemory, StageBytes: opt.stageBytes}
}

// moment is where at a write a fault strikes.
type moment int

const (
	before moment = iota // nothing has been written
	after                // all has been written, although it fails
)

var errFault = errors.New("injected fault")

// faultyStore fails at one of its Writes, and if it is dead from then on at all.
type faultyStore struct {
	store.Committer
	writes int // so far
	fail   int // the write that fails, from 1 on; 0: none
	at     moment
	dead   bool
}

func (s *faultyStore) Commit(entries []store.Entry) error {
	s.writes++
	switch {
	case s.fail == 0 || s.writes < s.fail || s.writes > s.fail && !s.dead:
		return s.Committer.Commit(entries)
	case s.writes == s.fail && s.at == after:
		if err := s.Committer.Commit(entries); err != nil {
			return err
		}
	}
	return errFault
}

// limits makes steps of some hundred entries take several Writes.
func (s *faultyStore) Limits() (entries, bytes int64) {
	_, bytes = s.Committer.Limits()
	return 40, bytes
}

// openFaulty opens a graph on a faulty store.
func openFaulty(dir string, s *faultyStore) (*Graph, error) {
	return open(dir, testParams, faultOptions(), dependencies{badgerdb.FreeSpace, func(db *badgerdb.DB) store.Committer {
		s.Committer = store.Badger{DB: db}
		return s
	}})
}

// task is one call of Connect, or of Disconnect if it has no blocks.
type task []Block

func (s task) do(g *Graph) error {
	if len(s) == 0 {
		return g.Disconnect()
	}
	return g.Connect(s...)
}

// outcome is a graph as it must be after a task.
type outcome struct {
	tip    Tip
	digest [32]byte
}

func (g *Graph) outcome(t *testing.T) outcome {
	t.Helper()
	tip, _ := g.Tip()
	return outcome{tip, g.digest(t)}
}

// faultTasks are small blocks, steps of many blocks, steps too large for one
// transaction, blocks that are taken back, and undo records that are dropped;
// with what each must come to in an undisturbed run. big is how many links the
// large block makes.
func faultTasks(t *testing.T, big int) (tasks []task, outcomes []outcome) {
	t.Helper()
	g, err := openFaulty(t.TempDir(), &faultyStore{})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	r := newRandomBlocks(3)
	do := func(s task) {
		t.Helper()
		if err := s.do(g); err != nil {
			t.Fatal(err)
		}
		tasks, outcomes = append(tasks, s), append(outcomes, g.outcome(t))
	}
	height, prev := uint32(0), chainhash.Hash{}
	follow := func() {
		tip, _ := g.Tip()
		height, prev = tip.Height+1, tip.Hash
	}
	connect := func(blocks, actions int) {
		t.Helper()
		var s task
		for range blocks {
			b := r.next(t, height, prev, actions)
			height, prev = height+1, b.Hash
			s = append(s, b)
		}
		do(s)
	}
	disconnect := func() {
		t.Helper()
		do(nil)
		follow()
	}
	connect(1, 12)
	connect(3, 12)
	disconnect()
	disconnect()
	connect(1, 15)
	large := grow(height, prev, shapes["tree"], 1, big)
	do(task{large})
	disconnect()
	do(task{large})
	follow()
	connect(105, 0)
	connect(1, 9) // drops undo records
	disconnect()
	connect(2, 9)
	if g.UndoFrom() == 0 {
		t.Fatal("no undo record was dropped")
	}
	g.wantSound(t)
	return tasks, outcomes
}

// TestEveryWriteFails makes every single write fail, before it has landed and
// after it has landed; with Writes working again
// afterwards, and with none until the graph is opened anew. In each case the
// graph must be after the task or before it, memory and disk agreeing, go on
// answering questions, and come to the same end as undisturbed.
func TestEveryWriteFails(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	inMemory(t)
	tasks, outcomes := faultTasks(t, 100)
	var healthy faultyStore
	playFaulty(t, tasks, outcomes, &healthy)
	if healthy.writes < len(tasks)+10 {
		t.Fatalf("%d store.Writes in %d tasks: no step was too large for one", healthy.writes, len(tasks))
	}
	runs := 0
	for n := 1; n <= healthy.writes; n++ {
		for _, at := range []moment{before, after} {
			for _, dead := range []bool{false, true} {
				runs++
				playFaulty(t, tasks, outcomes, &faultyStore{fail: n, at: at, dead: dead})
				if t.Failed() {
					t.Fatalf("write %d of %d, moment %d, dead %v", n, healthy.writes, at, dead)
				}
			}
		}
	}
	t.Logf("%d store.Writes in %d tasks, %d runs", healthy.writes, len(tasks), runs)
}

// playFaulty plays the tasks with a fault.
func playFaulty(t *testing.T, tasks []task, outcomes []outcome, fault *faultyStore) {
	t.Helper()
	dir := t.TempDir()
	defer os.RemoveAll(dir)
	reopen := func() *Graph {
		t.Helper()
		// The first write of the start fails as well, if there is one: what has to be
		// removed has to be removed the next time.
		store := &faultyStore{fail: 1, at: after}
		g, err := openFaulty(dir, store)
		if errors.Is(err, errFault) {
			g, err = openFaulty(dir, &faultyStore{})
		}
		store.fail = 0
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	g, err := openFaulty(dir, fault)
	if err != nil {
		if !errors.Is(err, errFault) {
			t.Fatal(err)
		}
		g = reopen()
	}
	defer func() { g.Close() }()
	for n := 0; n < len(tasks); n++ {
		err := tasks[n].do(g)
		if err == nil {
			continue
		}
		if !errors.Is(err, errFault) {
			t.Fatal(err)
		}
		was := outcome{}
		if n > 0 {
			was = outcomes[n-1]
		}
		here := func() bool { // whether the task has happened
			t.Helper()
			have := g.outcome(t)
			if n == 0 {
				was.digest = have.digest // of an empty graph, by its tip
			}
			if have != was && have != outcomes[n] {
				t.Fatalf("task %d failed (%v) and left a state that is neither before nor after it: tip %+v", n, err, have.tip)
			}
			g.checkMemory(t)
			g.wantSound(t)
			return have == outcomes[n]
		}
		var done bool
		if fault.dead {
			// What has been left on the disk cannot be removed, but is not looked at.
			tip, _ := g.Tip()
			if done = tip == outcomes[n].tip; !done && tip != was.tip {
				t.Fatalf("task %d failed (%v) and left a tip that is neither before nor after it: %+v", n, err, tip)
			}
			v, err := g.At(nil)
			if err == nil {
				_, err = v.Resolve(t.Context(), key("0"))
				v.Close()
			}
			if err != nil && !errors.Is(err, ErrEmpty) {
				t.Fatalf("after task %d failed, a question fails: %v", n, err)
			}
			if err := tasks[min(n+1, len(tasks)-1)].do(g); err == nil {
				t.Fatal("a graph that cannot be written connects blocks")
			}
			g.Close()
			g = reopen()
			if here() != done {
				t.Fatalf("task %d: done is %v, after opening again it is not", n, done)
			}
		} else {
			done = here()
		}
		if done {
			continue
		}
		n-- // once more
	}
	if have := g.outcome(t); have != outcomes[len(outcomes)-1] {
		t.Fatalf("ended with %+v, want %+v", have.tip, outcomes[len(outcomes)-1].tip)
	}
	g.checkMemory(t)
	if exhaustive() {
		g.wantSound(t)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	found, err := badgerdb.Check(t.Context(), dir, store.MaxValue)
	if err != nil || len(found) > 0 {
		t.Fatal(found, err)
	}
}

// TestFailedStepThatLanded has a view of the tip open while a step lands and
// fails nevertheless: the view stays with its block.
func TestFailedStepThatLanded(t *testing.T) {
	inMemory(t)
	s := &faultyStore{fail: 3, at: after} // after the format and one block
	g, err := openFaulty(t.TempDir(), s)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	c := &chain{t: t, g: g}
	c.link("b", "B", "A")
	v := c.at(0)
	changed := g.Changed()
	second := Block{Height: 1, PrevHash: c.tip, Hash: tx("second")}
	c.accept("x", "A", "none")
	c.request("c request", "C", "B")
	c.accept("c", "B", "c request")
	second.Actions = c.queue
	if err := g.Connect(second); !errors.Is(err, errFault) {
		t.Fatal(err)
	}
	if tip, _ := g.Tip(); tip.Hash != second.Hash {
		t.Errorf("tip %v, want the block that landed", tip.Hash)
	}
	select {
	case <-changed:
	default:
		t.Error("those who wait for a change were not told")
	}
	r, err := v.Resolve(t.Context(), key("C"))
	if err != nil || r.Root != key("C") || r.Depth != 0 {
		t.Errorf("the view has moved on: %+v, %v", r, err)
	}
}
