package graph

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/graph/state"
	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

const (
	// asVictim, in the environment, makes the test executable a process that suffers the
	// attack that it names.
	asVictim = "KEYTREE_TEST_ATTACK"

	// victimMemory is what that process may take of memory, in bytes. The system refuses
	// it more.
	victimMemory = 512 << 20

	// fullBlock is how many transactions of actionBytes are in a block of 32 MB. One with
	// an author has an input with a signature besides, and is signedBytes long at least.
	fullBlock, fullSigned    = 32_000_000 / actionBytes, 32_000_000 / signedBytes
	actionBytes, signedBytes = 85, 190
)

// attack is something that somebody pays fees for to make work.
type attack struct {
	name  string
	whole int // actions of the whole attack; the short one has a twentieth
	bytes int // of one transaction at least
	block int // actions in a block
	// action makes action number n at an index of its block.
	action func(n int) links.Action
	// last, if not nil, makes the actions of a block behind all others.
	last func(n int) []links.Action
	// anchors has blocks of anchors instead, each of which goes on with a chain of the block
	// before.
	anchors bool
	// links has links in force, which nothing but memory bounds: the graph may refuse more of them, by name.
	links bool
}

func request(n int, author *protocol.KeyHash, parent protocol.KeyHash) links.Action {
	return links.Action{TxID: number(n), Author: author, Action: protocol.Action{Kind: protocol.MLR, Parent: parent}}
}

func refers(n int, kind protocol.Kind, author *protocol.KeyHash, to chainhash.Hash) links.Action {
	return links.Action{TxID: number(n), Author: author, Action: protocol.Action{Kind: kind, Ref: protocol.RefersTo(to)}}
}

// number is the txid of action number n. Like any, it is spread evenly.
func number(n int) (h chainhash.Hash) {
	binary.LittleEndian.PutUint64(h[:], uint64(n+1)*0x9e3779b97f4a7c15)
	binary.LittleEndian.PutUint64(h[8:], uint64(n+1))
	return h
}

func keyNumber(n int) *protocol.KeyHash {
	var k protocol.KeyHash
	binary.LittleEndian.PutUint64(k[:], uint64(n+1)*0x9e3779b97f4a7c15)
	return &k
}

var victim = *keyNumber(-7)

// attacks are those on the graph of links. Half of the actions of some only prepare the
// others.
var attacks = []attack{
	{"refused requests", fullBlock, actionBytes, fullBlock, func(n int) links.Action { return request(n, nil, *keyNumber(n)) }, nil, false, false},
	{"requests about one key", 1_000_000, actionBytes, fullBlock, func(n int) links.Action { return request(n, nil, victim) }, nil, false, false},
	{"open requests", 4 * fullSigned, signedBytes, fullSigned, func(n int) links.Action { return request(n, keyNumber(2*n), *keyNumber(2*n + 1)) }, nil, false, false},
	{"accepts that wait", 1_000_000, signedBytes, fullSigned, func(n int) links.Action {
		return refers(n, protocol.MLA, keyNumber(n), number(-2-n))
	}, nil, false, false},
	{"accepts that wait for one", 1_000_000, signedBytes, fullSigned, func(n int) links.Action {
		return refers(n, protocol.MLA, &victim, number(-2))
	}, func(int) []links.Action { return []links.Action{request(-2, keyNumber(1), victim)} }, false, false},
	{"revokes that wait for one", 1_000_000, signedBytes, fullSigned, func(n int) links.Action {
		return refers(n, protocol.MCR, &victim, number(-2))
	}, func(int) []links.Action { return []links.Action{request(-2, keyNumber(1), victim)} }, false, false},
	{"refused accepts", 2 * fullSigned, signedBytes, fullSigned, func(n int) links.Action {
		if n%2 == 0 {
			return request(n, keyNumber(0), victim)
		}
		return refers(n, protocol.MLA, keyNumber(0), number(n-1))
	}, nil, false, false},
	{"star", 2_000_000, signedBytes, fullSigned &^ 1, func(n int) links.Action {
		if n%2 == 0 {
			return request(n, keyNumber(n), victim)
		}
		return refers(n, protocol.MLA, &victim, number(n-1))
	}, nil, false, true},
	// The branch has an identity of its own from the last cut, which the next link merges.
	{"merges into one identity", 3_000_000, signedBytes, fullSigned / 3 * 3, func(n int) links.Action {
		switch n % 3 {
		case 0:
			return request(n, keyNumber(0), victim)
		case 1:
			return refers(n, protocol.MLA, &victim, number(n-1))
		}
		return refers(n, protocol.MCR, &victim, number(n-1))
	}, nil, false, false},
	{"anchors", 2 * anchorsPerBlock, 185, anchorsPerBlock, nil, nil, true, false},
}

// blocks makes the blocks of n actions, or anchors.
func (a *attack) blocks(t *testing.T, n int) iter.Seq[Block] {
	return func(yield func(Block) bool) {
		b := Block{Hash: tx("start")}
		for from := 0; a.anchors && from < n; from += a.block {
			b = blockOfAnchors(t, b.Height+1, b.Hash, a.block, b.Anchors.Txs)
			if !yield(b) {
				return
			}
		}
		if a.anchors {
			return
		}
		next := func(actions []links.Action) bool {
			b = Block{Height: b.Height + 1, PrevHash: b.Hash, Hash: tx(fmt.Sprint(a.name, b.Height+1)), Actions: actions}
			for i := range actions {
				actions[i].Index = uint32(i)
			}
			return yield(b)
		}
		for from := 0; from < n; from += a.block {
			actions := make([]links.Action, 0, min(a.block, n-from))
			for i := range cap(actions) {
				actions = append(actions, a.action(from+i))
			}
			if !next(actions) {
				return
			}
		}
		if a.last != nil {
			next(a.last(n))
		}
	}
}

// TestVictim is not a test but the process that TestAdversary attacks.
func TestVictim(t *testing.T) {
	name := os.Getenv(asVictim)
	if name == "" {
		t.Skip("part of TestAdversary")
	}
	debug.SetMemoryLimit(victimMemory * 3 / 4)
	a := &attacks[slices.IndexFunc(attacks, func(a attack) bool { return a.name == name })]
	n := a.whole
	if !exhaustive() {
		n /= 20
		a.block /= 20
		a.block -= a.block % 6
	}
	dir := t.TempDir()
	open := func() *Graph {
		g, err := Open(dir, testParams, Options{Memory: victimMemory})
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	g := open()
	base := grow(0, chainhash.Hash{}, shapes["tree"], 1, 1001)
	base.Hash = tx("start")
	if err := g.Connect(base); err != nil {
		t.Fatal(err)
	}
	peak := watchMemory()
	waits := watchWaits(t, g)
	start := time.Now()
	var tip Block
	actions := 0
	for b := range a.blocks(t, n) {
		err := g.Connect(b)
		if errors.Is(err, ErrMemory) && a.links {
			fmt.Printf("attack %q: refused beyond %d keys: %v\n", name, g.Memory().Links/(keyMemory+recordMemory), err)
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		actions += len(b.Actions) + len(b.Anchors.Txs)
		tip = b
	}
	took := time.Since(start)
	fmt.Printf("attack %q: %d actions, %.1f s, peak %d MiB, ", name, actions, took.Seconds(), peak()>>20)
	tip.Actions, tip.Anchors.Txs = nil, nil
	want, _ := g.Tip()
	peak = watchMemory()
	start = time.Now()
	if err := g.Disconnect(); err != nil {
		t.Fatal(err)
	}
	fmt.Printf("taken back in %.1f s, ", time.Since(start).Seconds())
	for b := range a.blocks(t, n) {
		if b.Height == tip.Height {
			if err := g.Connect(b); err != nil {
				t.Fatal(err)
			}
		}
	}
	fmt.Printf("peak then %d MiB, %s", peak()>>20, waits())
	if have, _ := g.Tip(); have != want {
		t.Errorf("connected again the tip is %+v, it was %+v", have, want)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	stored := tableBytes(t, dir)
	debug.FreeOSMemory()
	peak = watchMemory()
	start = time.Now()
	g = open()
	fmt.Printf(", opened in %.1f s, peak %d MiB, ", time.Since(start).Seconds(), peak()>>20)
	// What one BCH of fees pays for, at 1 satoshi a byte.
	perBCH := 1e8 / float64(a.bytes)
	held, disk := float64(stateSize(t, g))/float64(actions), float64(stored)/float64(actions)
	fmt.Printf("%.1f B held and %.0f B stored per action; 1 BCH pays for %.0f: %.1f s, %.0f MB of memory, %.0f MB of disk\n",
		held, disk, perBCH, took.Seconds()/float64(actions)*perBCH, held*perBCH/1e6, disk*perBCH/1e6)
	if have, _ := g.Tip(); have != want {
		t.Errorf("opened again the tip is %+v, it was %+v", have, want)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	fmt.Println("survived")
}

// stateSize is how much of the heap the graph's state takes, in bytes: as much as the
// same once more. Badger allocates at the same time, so it is the least of some tries.
func stateSize(t *testing.T, g *Graph) int64 {
	again := func() (s *state.State) {
		err := g.db.View(func(txn *badger.Txn) (err error) {
			s, err = state.Load(store.NewTxn(txn), links.Room{Keys: math.MaxInt, Records: math.MaxInt, Filters: int(store.Filters(victimMemory))}, true)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	least := int64(math.MaxInt64)
	for range 3 {
		before := heapInUse()
		s := again()
		least = min(least, max(0, heapInUse()-before))
		runtime.KeepAlive(s)
	}
	return least
}

// watchWaits resolves keys all the time, until the returned function is called, which
// says how long that took.
func watchWaits(t *testing.T, g *Graph) (summary func() string) {
	const every = time.Millisecond
	var asking sync.WaitGroup
	done := make(chan struct{})
	var took [1 << 16]uint32 // answers by microseconds, the last for all above
	var longest time.Duration
	asking.Go(func() {
		r := rand.New(rand.NewPCG(1, 2))
		for {
			select {
			case <-done:
				return
			case <-time.After(every):
			}
			start := time.Now()
			v, err := g.At(nil)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err = v.Resolve(t.Context(), key(fmt.Sprint(r.IntN(1000)))); err != nil && !errors.Is(err, ErrReorganised) {
				t.Error(err)
			}
			v.Close()
			d := time.Since(start)
			took[min(int(d.Microseconds()), len(took)-1)]++
			longest = max(longest, d)
		}
	})
	return func() string {
		close(done)
		asking.Wait()
		all, below := uint64(0), uint64(0)
		for _, n := range took {
			all += uint64(n)
		}
		for us, n := range took {
			if below += uint64(n); below*1000 >= all*999 {
				return fmt.Sprintf("resolve waited %.1f ms at 99.9 %%, %.1f ms at most", float64(us)/1000, float64(longest.Microseconds())/1000)
			}
		}
		return "nobody asked"
	}
}

// limitMemory returns what a shell does to have what it becomes limited to victimMemory:
// it moves into a control group. Where none can be made, which takes root, the limit is
// that of the data segment, which counts as well what Go has mapped and does not use, and
// is twice as high therefore.
func limitMemory(t *testing.T) string {
	group, err := memoryGroup()
	if err != nil {
		t.Logf("no control group: %v", err)
		return fmt.Sprintf("ulimit -s 1024 && ulimit -d %d", 2*victimMemory>>10)
	}
	t.Cleanup(func() { os.Remove(group) })
	return fmt.Sprintf("echo $$ > '%s/cgroup.procs'", group)
}

// memoryGroup makes a control group with the limit, of whichever version there is.
func memoryGroup() (dir string, err error) {
	for _, version := range []struct{ parent, limit string }{
		{"/sys/fs/cgroup/memory", "memory.limit_in_bytes"},
		{"/sys/fs/cgroup", "memory.max"},
	} {
		if _, err = os.Stat(filepath.Join(version.parent, "cgroup.procs")); err != nil {
			continue
		}
		if dir, err = os.MkdirTemp(version.parent, "keytree-test-"); err != nil {
			return "", err
		}
		if err = os.WriteFile(filepath.Join(dir, version.limit), strconv.AppendInt(nil, victimMemory, 10), 0); err != nil {
			return "", errors.Join(err, os.Remove(dir))
		}
		return dir, nil
	}
	return "", err
}

// TestAdversary has everything done to a graph that somebody may pay fees for, in
// processes that the system gives 512 MiB of memory: full blocks of each kind of action,
// a million actions that wait, or that are about one key. It prints what each took. With
// KEYTREE_EXHAUSTIVE the attacks are whole, else a twentieth of that.
func TestAdversary(t *testing.T) {
	if underRace {
		t.Skip("the race detector takes more memory than the limit")
	}
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "sh", "-c", limitMemory(t)+` && exec "$0" "$@"`,
				executable, "-test.run=^TestVictim$", "-test.v", "-test.timeout=30m")
			cmd.Env = append(os.Environ(), asVictim+"="+a.name, "TMPDIR="+t.TempDir())
			cmd.Cancel = func() error { return cmd.Process.Kill() }
			var said strings.Builder
			cmd.Stderr = &said
			out, err := cmd.Output()
			survived := false
			for lines := bufio.NewScanner(strings.NewReader(string(out))); lines.Scan(); {
				line := lines.Text()
				survived = survived || line == "survived"
				if strings.HasPrefix(line, "attack") {
					t.Log(line)
				}
			}
			if err != nil || !survived {
				t.Errorf("%v\n%s\n%.4000s", err, out, said.String())
			}
		})
	}
}
