package statelog

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/keyserver/tlog"
	"github.com/keytree-bch/keytree/protocol"
	format "github.com/keytree-bch/keytree/protocol/tlog"
)

const network = "regtest"

// rig is a graph of made-up blocks, a clock, and a Publisher that runs.
type rig struct {
	t     testing.TB
	graph *graph.Graph
	dir   string
	clock atomic.Int64
	*Publisher
	end func() error
}

func newGraph(t testing.TB, opt graph.Options) *graph.Graph {
	t.Helper()
	opt.MemTable, opt.Log = 8<<20, zerolog.Nop()
	g, err := graph.Open(filepath.Join(t.TempDir(), "graph"), graph.Params{Network: network}, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

func newRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{t: t, graph: newGraph(t, graph.Options{}), dir: t.TempDir()}
	r.clock.Store(1_700_000_000)
	return r
}

// mine adds n blocks, whose hashes depend on a name.
func (r *rig) mine(n int, name string) {
	r.t.Helper()
	grow(r.t, r.graph, n, name)
}

func grow(t testing.TB, g *graph.Graph, n int, name string) {
	t.Helper()
	for range n {
		b := graph.Block{}
		if tip, ok := g.Tip(); ok {
			b.Height, b.PrevHash = tip.Height+1, tip.Hash
		}
		b.Hash = sha256.Sum256(fmt.Append(nil, name, b.Height))
		if err := g.Connect(b); err != nil {
			t.Fatal(err)
		}
	}
}

// reorganise replaces the last n blocks by n + 1 others.
func (r *rig) reorganise(n int, name string) {
	r.t.Helper()
	for range n {
		if err := r.graph.Disconnect(); err != nil {
			r.t.Fatal(err)
		}
	}
	r.mine(n+1, name)
}

func (r *rig) options() Options {
	return Options{
		Chain: r.graph, Dir: filepath.Join(r.dir, "state"), KeyFile: filepath.Join(r.dir, "state.key"), Host: "keys.example.org",
		Now: func() time.Time { return time.Unix(r.clock.Load(), 0) }, Every: 5 * time.Millisecond, interval: 10 * time.Millisecond, Log: zerolog.Nop(),
	}
}

// start runs a Publisher until halt, which returns what Run has returned.
func (r *rig) start() {
	r.t.Helper()
	p, err := Open(r.options())
	if err != nil {
		r.t.Fatal(err)
	}
	r.Publisher = p
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- p.Run(ctx) }()
	r.end = func() error {
		cancel()
		err := <-ran
		return errors.Join(err, p.Close())
	}
	r.t.Cleanup(func() { r.halt() })
}

func (r *rig) halt() {
	r.t.Helper()
	if r.end == nil {
		return
	}
	if err := r.end(); err != nil {
		r.t.Error(err)
	}
	r.end = nil
}

// pass lets time pass.
func (r *rig) pass(d time.Duration) { r.clock.Add(int64(d / time.Second)) }

// eventually waits for a condition.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for begun := time.Now(); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Since(begun) > time.Minute {
			t.Fatalf("never: %s", what)
		}
	}
}

// await waits until an epoch has signed so many entries, and checks them against the graph's blocks.
func (r *rig) await(epoch uint32, size uint64) format.Checkpoint {
	r.t.Helper()
	var c format.Checkpoint
	eventually(r.t, fmt.Sprintf("epoch %d signs %d entries", epoch, size), func() bool {
		l := r.Log(epoch)
		if l == nil {
			return false
		}
		signed, _, err := l.Checkpoint()
		if err == nil {
			c, err = format.Open(signed, l.Key())
		}
		return err == nil && c.Size == size
	})
	return c
}

// wantChain compares an epoch's entries with the graph's.
func (r *rig) wantChain(epoch uint32, size uint64) {
	r.t.Helper()
	l := r.Log(epoch)
	for i := uint64(0); i < size; i++ {
		width := int(min(format.TileWidth, size-i/format.TileWidth*format.TileWidth))
		bundle, err := l.Tile(r.t.Context(), format.NewTile(-1, int64(i/format.TileWidth), width))
		if err != nil {
			r.t.Fatal(err)
		}
		entries, err := format.ParseBundle(bundle, width)
		if err != nil {
			r.t.Fatal(err)
		}
		want, _, err := entryAt(r.graph, uint32(i))
		if err != nil {
			r.t.Fatal(err)
		}
		if got, err := protocol.DecodeStateEntry(entries[i%format.TileWidth]); err != nil || got != want {
			r.t.Fatalf("entry %d: %+v, %v; want %+v", i, got, err, want)
		}
	}
}

// seen waits until the tip was noticed.
func (r *rig) seen() {
	r.t.Helper()
	tip, _ := r.graph.Tip()
	eventually(r.t, "the tip is noticed", func() bool {
		k, err := readKnown(filepath.Join(r.dir, "state", "known.json"))
		if err != nil || len(k.sightings) == 0 {
			return false
		}
		last := k.sightings[len(k.sightings)-1]
		return last.Height == tip.Height && last.Block == tip.Hash.String()
	})
}

// noticed has the tip be noticed, whatever was before it.
func (r *rig) noticed() {
	r.t.Helper()
	r.pass(lookAgain)
	r.seen()
}

// TestPublishes has an entry wait for ten blocks on top and for two hours, also across a restart.
func TestPublishes(t *testing.T) {
	r := newRig(t)
	r.mine(30, "")
	r.start()
	r.seen()
	r.pass(2*time.Hour - time.Second)
	r.halt()
	r.mine(1, "")
	r.start()
	r.seen()
	if size := r.Size(); size != 0 {
		t.Errorf("%d entries before two hours are over", size)
	}
	r.pass(time.Second)
	c := r.await(1, 21) // 0 to 20, with 21 to 30 on top
	if c.Origin != "keys.example.org/state/regtest/1/1" {
		t.Errorf("origin %s", c.Origin)
	}
	r.wantChain(1, 21)
	r.halt()

	if err := os.Remove(filepath.Join(r.dir, "state", "known.json")); err != nil {
		t.Fatal(err)
	}
	r.mine(300, "")
	r.start()
	r.seen()
	if size := r.Size(); size != 21 {
		t.Errorf("%d entries though nothing tells since when they are known", size)
	}
	r.pass(2 * time.Hour)
	r.await(1, 321)
	r.wantChain(1, 321)

	// What is lost comes back, and is not signed otherwise.
	r.halt()
	if err := os.RemoveAll(filepath.Join(r.dir, "state")); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.seen()
	r.pass(2 * time.Hour)
	eventually(t, "the entries are there again", func() bool { return r.Size() == 321 })
	r.mine(1, "")
	r.seen()
	r.pass(2 * time.Hour)
	r.await(1, 322)
}

// TestFreezes takes blocks off the chain: entries that were not signed go with them; where one was, the log is
// frozen and the next epoch begins, and stays when the first chain comes back.
func TestFreezes(t *testing.T) {
	r := newRig(t)
	r.mine(30, "")
	r.start()
	r.noticed()
	r.pass(2 * time.Hour)
	frozen := r.await(1, 20)
	vkey := r.Log(1).Key().String()
	for _, restart := range []bool{false, true} {
		if restart {
			r.halt()
			r.start()
		}
		r.reorganise(10, fmt.Sprint("shallow", restart)) // the newest that was published is below
		r.noticed()
	}
	if r.Status().Epoch != 1 {
		t.Fatal("a shallow reorganisation has ended the epoch")
	}
	r.reorganise(15, "deep")
	eventually(t, "the next epoch", func() bool { return r.Status().Epoch == 2 })
	r.noticed()
	r.pass(2 * time.Hour)
	tip, _ := r.graph.Tip()
	r.await(2, uint64(tip.Height)-9)
	r.wantChain(2, uint64(tip.Height)-9)
	if r.Log(2).Key().String() == vkey {
		t.Error("the next epoch has the first one's key")
	}
	if c := r.await(1, 20); c != frozen {
		t.Errorf("frozen: %+v, was %+v", c, frozen)
	}

	// Back to a chain with the blocks that were published first.
	for range tip.Height {
		if err := r.graph.Disconnect(); err != nil {
			t.Fatal(err)
		}
	}
	r.mine(60, "")
	eventually(t, "a third epoch", func() bool { return r.Status().Epoch == 3 })
	r.halt()
	r.start()
	r.noticed()
	r.pass(2 * time.Hour)
	r.await(3, 51)
	if c := r.await(1, 20); c != frozen {
		t.Errorf("frozen: %+v, was %+v", c, frozen)
	}
	if r.Log(4) != nil || r.Log(0) != nil {
		t.Error("there are epochs too many")
	}
}

// TestAnchored is what anchors commit to: the entries that were signed, of one epoch after the other.
func TestAnchored(t *testing.T) {
	r := newRig(t)
	r.mine(30, "")
	r.start()
	r.seen()
	r.pass(2 * time.Hour)
	r.await(1, 20)
	a, err := r.Anchored(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := func(a *Anchored, epoch uint32, size uint64) {
		t.Helper()
		c := r.await(epoch, size)
		last, err := r.current().entry(size - 1)
		if err != nil {
			t.Fatal(err)
		}
		b := last.Bytes()
		got := a.Chain()
		if a.Epoch() != epoch || got.Size != size || got.Head != sha256.Sum256(b[:]) || format.Hash(got.Root()) != c.Root {
			t.Errorf("epoch %d, %+v, want %+v", a.Epoch(), got, c)
		}
		if at, err := a.ChainAt(t.Context(), size); err != nil || at.Root() != got.Root() || at.Head != got.Head {
			t.Errorf("%+v, %v", at, err)
		}
		if _, err := a.ChainAt(t.Context(), size+1); err == nil {
			t.Error("what is not there was answered")
		}
	}
	want(a, 1, 20)
	r.mine(3, "")
	r.noticed()
	r.pass(2 * time.Hour)
	want(a, 1, 23)
	if err := a.SetAnchorChain(t.Context(), "one"); err != nil || a.AnchorChain() != "one" {
		t.Errorf("%q, %v", a.AnchorChain(), err)
	}
	r.halt()
	r.start()
	if a, err = r.Anchored(t.Context()); err != nil || a.AnchorChain() != "one" {
		t.Fatalf("%q, %v", a.AnchorChain(), err)
	}
	r.reorganise(20, "deep")
	<-a.Frozen()
	r.noticed()
	r.pass(2 * time.Hour)
	if a, err = r.Anchored(t.Context()); err != nil || a.AnchorChain() != "" {
		t.Fatalf("%q, %v", a.AnchorChain(), err)
	}
	want(a, 2, 24)
}

// TestTakesBack has entries that no checkpoint covers go with their blocks.
func TestTakesBack(t *testing.T) {
	r := newRig(t)
	r.mine(30, "")
	opt := r.options()
	opt.KeyFile = "" // so that nothing is signed
	p, err := Open(opt)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	step := func(size uint64) {
		t.Helper()
		if err := p.step(t.Context()); err != nil {
			t.Fatal(err)
		}
		if p.Size() != size {
			t.Fatalf("%d entries, want %d", p.Size(), size)
		}
	}
	step(0)
	r.pass(2 * time.Hour)
	step(20)
	for range 15 { // while blocks are taken off, nothing is concluded
		if err := r.graph.Disconnect(); err != nil {
			t.Fatal(err)
		}
		step(20)
	}
	r.mine(40, "other")
	r.pass(lookAgain)
	step(15)
	r.pass(2 * time.Hour)
	step(45)
	before := p.current().tree
	for i := range uint64(45) {
		want, _, err := entryAt(r.graph, uint32(i))
		if got, e := before.entry(i); e != nil || err != nil || got != want {
			t.Fatalf("entry %d: %+v, want %+v", i, got, want)
		}
	}
}

// TestNoStateRoot refuses by name what has no root.
func TestNoStateRoot(t *testing.T) {
	r := newRig(t)
	r.graph = newGraph(t, graph.Options{NoStateRoot: true})
	p, err := Open(r.options()) // nothing is there yet
	if err != nil {
		t.Fatal(err)
	}
	r.mine(30, "")
	if err := p.step(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.pass(2 * time.Hour)
	if err := p.step(t.Context()); !errors.Is(err, ErrNoStateRoot) {
		t.Errorf("got %v, want ErrNoStateRoot", err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(r.options()); !errors.Is(err, ErrNoStateRoot) {
		t.Errorf("got %v, want ErrNoStateRoot", err)
	}
}

// TestFiles refuses files that do not belong together.
func TestFiles(t *testing.T) {
	r := newRig(t)
	r.mine(30, "")
	r.start()
	if _, err := Open(r.options()); !errors.Is(err, tlog.ErrLocked) {
		t.Errorf("got %v, want ErrLocked", err)
	}
	r.halt()
	opt := r.options()
	opt.Host = "other.example.org"
	if _, err := Open(opt); !errors.Is(err, tlog.ErrMismatch) {
		t.Errorf("got %v, want ErrMismatch", err)
	}
	if err := os.Remove(r.options().KeyFile + ".json"); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(r.options()); !errors.Is(err, tlog.ErrMismatch) {
		t.Errorf("got %v, want ErrMismatch", err)
	}
}

// TestKnown forgets what was taken off the chain, and, after the clock was set back, what is yet to come.
func TestKnown(t *testing.T) {
	k, err := readKnown(filepath.Join(t.TempDir(), "known.json"))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_700_000_000, 0)
	gone := uint32(1 << 31)
	see := func(height uint32) {
		t.Helper()
		if err := k.see(height, chainhash.Hash{byte(height)}, now, func(h uint32, b string) bool { return h < gone && b == chainhash.Hash{byte(h)}.String() }); err != nil {
			t.Fatal(err)
		}
		if k, err = readKnown(k.path); err != nil {
			t.Fatal(err)
		}
	}
	for h := uint32(1); h <= 200; h++ {
		see(h)
		see(h)
		now = now.Add(time.Minute)
	}
	if h, ok := k.until(now); !ok || h != 81 {
		t.Errorf("known until %d, %v", h, ok)
	}
	if n := len(k.sightings); n > 125 {
		t.Errorf("%d sightings are kept", n)
	}
	gone = 150
	see(151)
	for _, s := range k.sightings {
		if s.Height >= 150 && s.Height != 151 {
			t.Errorf("%+v is kept", s)
		}
	}
	now = now.Add(-time.Hour)
	see(152)
	if h, ok := k.until(now); ok {
		t.Errorf("known until %d after the clock was set back", h)
	}
}
