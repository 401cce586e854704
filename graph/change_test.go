package graph

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/store"
)

// pathBlock returns the block of a chain whose block h links key h+1 below key h, so that as of
// height h key h+1 has depth h+1.
func pathBlock(height uint32, prev chainhash.Hash) Block {
	return grow(height, prev, shapes["path"], int(height)+1, int(height)+2)
}

// wantPath asks about keys of the path as of the tip, whichever that is.
func wantPath(t *testing.T, g *Graph) (height uint32) {
	t.Helper()
	v, err := g.At(nil)
	if err != nil {
		t.Error(err)
		return 0
	}
	defer v.Close()
	deepest := key(fmt.Sprint(v.Height() + 1))
	r, err := v.Resolve(t.Context(), deepest)
	if errors.Is(err, ErrReorganised) {
		return v.Height()
	}
	if err != nil || r.Depth != v.Height()+1 || r.Root != key("0") {
		t.Errorf("as of %d: depth %d, %v", v.Height(), r.Depth, err)
	}
	below, err := v.Resolve(t.Context(), key(fmt.Sprint(v.Height()+2)))
	if err == nil && below.Depth != 0 {
		t.Errorf("as of %d the key of the next block is linked", v.Height())
	}
	actions, _, err := v.ActionsOf(t.Context(), deepest, nil, 10)
	if !errors.Is(err, ErrReorganised) && (err != nil || len(actions) != 2) {
		t.Errorf("as of %d: %d actions, %v", v.Height(), len(actions), err)
	}
	identity, err := v.Identity(r.ID)
	if !errors.Is(err, ErrReorganised) && (err != nil || identity.Keys != v.Height()+2) {
		t.Errorf("as of %d: %d keys, %v", v.Height(), identity.Keys, err)
	}
	return v.Height()
}

// askingStore asks the graph while a step is being written.
type askingStore struct {
	store.Committer
	ask func()
}

func (s askingStore) Commit(entries []store.Entry) error {
	s.ask()
	err := s.Committer.Commit(entries)
	s.ask()
	return err
}

// TestQuestionsWaitForNoStep asks within each write of a step, before and after it
// has landed: all answers are there, as of the block before.
func TestQuestionsWaitForNoStep(t *testing.T) {
	g := openTest(t, t.TempDir())
	prev := chainhash.Hash{}
	var tip uint32
	asked := 0
	g.store = askingStore{g.store, func() {
		if _, ok := g.Tip(); !ok {
			return
		}
		asked++
		if height := wantPath(t, g); height != tip {
			t.Errorf("answered as of %d, the tip is %d", height, tip)
		}
	}}
	for height := range uint32(20) {
		b := pathBlock(height, prev)
		if err := g.Connect(b); err != nil {
			t.Fatal(err)
		}
		prev, tip = b.Hash, height
	}
	for range 10 {
		if err := g.Disconnect(); err != nil {
			t.Fatal(err)
		}
		tip--
	}
	if asked < 2*(19+10) {
		t.Errorf("asked %d times", asked)
	}
}

// TestQuestionsWhileSteps asks from several goroutines while blocks come and go; it
// is for the race detector above all.
func TestQuestionsWhileSteps(t *testing.T) {
	g := openTest(t, t.TempDir())
	first := pathBlock(0, chainhash.Hash{})
	if err := g.Connect(first); err != nil {
		t.Fatal(err)
	}
	var done atomic.Bool
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for !done.Load() && !t.Failed() {
				wantPath(t, g)
			}
		})
	}
	blocks := []Block{first}
	for n := range 60 {
		last := blocks[len(blocks)-1]
		if n%3 == 2 {
			blocks = blocks[:len(blocks)-1]
			if err := g.Disconnect(); err != nil {
				t.Error(err)
			}
			continue
		}
		b := pathBlock(last.Height+1, last.Hash)
		blocks = append(blocks, b)
		if err := g.Connect(b); err != nil {
			t.Error(err)
		}
	}
	done.Store(true)
	readers.Wait()
	g.checkMemory(t)
	g.wantSound(t)
}

// TestChangeNotTaken looks at changes that are not taken: two of the same block, each
// as if it alone were there; and drops them.
func TestChangeNotTaken(t *testing.T) {
	c := newChain(t)
	c.link("b", "B", "A")
	base, err := c.g.hold()
	if err != nil {
		t.Fatal(err)
	}
	defer base.release()
	look := func(child, parent string) *View {
		t.Helper()
		c.request(child+" request", child, parent)
		c.accept(child+" accept", parent, child+" request")
		change, err := c.g.connecting(base, []Block{{Height: c.next, PrevHash: c.tip, Hash: tx(child), Actions: c.queue}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		c.queue = nil
		v, err := change.next.at(c.g, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(v.Close)
		return v
	}
	want := func(v *View, name, root string, depth uint32) {
		t.Helper()
		r, err := v.Resolve(t.Context(), key(name))
		if err != nil || r.Root != key(root) || r.Depth != depth {
			t.Errorf("%s: root %x, depth %d, %v; want %x, %d", name, r.Root, r.Depth, err, key(root), depth)
		}
	}
	over, under := look("A", "Z"), look("C", "B")
	want(over, "B", "Z", 2)
	want(over, "C", "C", 0)
	want(under, "C", "A", 2)
	want(under, "B", "A", 1)
	want(c.at(0), "B", "A", 1)
	want(c.at(0), "C", "C", 0)
	c.g.checkMemory(t)
	c.link("d", "D", "A")
	want(over, "B", "Z", 2)
	want(under, "D", "D", 0)
	want(c.at(0), "D", "A", 1)
	c.g.checkMemory(t)
}

// TestSnapshotEnds releases a snapshot's store when the last view of it is closed,
// and not before.
func TestSnapshotEnds(t *testing.T) {
	c := newChain(t)
	c.link("b", "B", "A")
	v := c.at(0)
	s := v.snapshot
	c.link("c", "C", "B")
	if _, err := store.Read(s.txn, store.HeightKey(store.PrefixBlock, 0)); err != nil {
		t.Errorf("while a view holds it: %v", err)
	}
	v.Close()
	if _, err := store.Read(s.txn, store.HeightKey(store.PrefixBlock, 0)); err == nil {
		t.Error("nobody holds it any more, and it can be read")
	}
	v.Close()
	if s.holders.Load() != 0 || s.hold() {
		t.Error("it is held again")
	}
}
