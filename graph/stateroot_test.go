package graph

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/dgraph-io/badger/v4"

	"github.com/keytree-bch/keytree/graph/state"
	"github.com/keytree-bch/keytree/graph/store"
)

// TestStateRootOff lets blocks come while no state root is kept, and while one is: those that come without have
// none, and those that come later have the one that a graph has which kept it all along.
func TestStateRootOff(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	inMemory(t)
	open := func(dir string, off bool) *Graph {
		t.Helper()
		opt := faultOptions()
		opt.NoStateRoot = off
		g, err := Open(dir, testParams, opt)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { g.Close() })
		return g
	}
	dir := t.TempDir()
	all, some := open(t.TempDir(), false), open(dir, false)
	same, other := newRandomBlocks(4), newRandomBlocks(4)
	connect := func(blocks int) {
		t.Helper()
		connectRandom(t, all, same, blocks, 30)
		connectRandom(t, some, other, blocks, 30)
	}
	again := func(off bool) {
		t.Helper()
		if err := some.Close(); err != nil {
			t.Fatal(err)
		}
		some = open(dir, off)
	}
	without := make(map[uint32]bool)
	connect(6)
	for range 2 {
		again(true)
		before, _ := some.Tip()
		connect(6) // 6 checkpoints and more
		if n := some.current.Load().state.Links.Records(); n > 0 {
			t.Errorf("%d records are held", n)
		}
		if err := errors.Join(all.Disconnect(), some.Disconnect()); err != nil {
			t.Fatal(err)
		}
		after, _ := some.Tip()
		for height := before.Height + 1; height <= after.Height; height++ {
			without[height] = true
		}
		some.wantSound(t)
		same, other = newRandomBlocks(uint64(after.Height)), newRandomBlocks(uint64(after.Height))
		again(false)
		some.checkMemory(t)
		connect(6)
		if err := errors.Join(all.Disconnect(), some.Disconnect()); err != nil {
			t.Fatal(err)
		}
		same, other = newRandomBlocks(uint64(after.Height+1)), newRandomBlocks(uint64(after.Height+1))
		connect(1)
		some.wantSound(t)
	}
	tip, _ := some.Tip()
	for height := range tip.Height + 1 {
		want, err := all.Events(height, 0, 1)
		if err != nil {
			t.Fatal(err)
		}
		got, err := some.Events(height, 0, 1)
		if err != nil || got.StateHash != want.StateHash || want.StateRoot == [32]byte{} || without[height] != (got.StateRoot == [32]byte{}) || !without[height] && got.StateRoot != want.StateRoot {
			t.Errorf("block %d: state root %x, %v, want %x, without %t", height, got.StateRoot, err, want.StateRoot, without[height])
		}
	}
	if len(without) < 10 {
		t.Errorf("%d blocks came without a state root", len(without))
	}
}

// TestStateRootDamaged opens a graph whose tip has another state root than what is stored gives, and
// takes a block back to one that has.
func TestStateRootDamaged(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	inMemory(t)
	dir := t.TempDir()
	g := checkpointGraph(t, dir, 1<<30)
	connectRandom(t, g, newRandomBlocks(8), 4, 30)
	spoil := func(height uint32) {
		t.Helper()
		err := g.db.Update(func(txn *badger.Txn) error {
			b, err := store.ReadBlock(store.NewTxn(txn), height)
			if err != nil {
				return err
			}
			b.StateRoot[0] ^= 1
			return txn.Set(store.HeightKey(store.PrefixBlock, height), b.Encode())
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	spoil(2)
	connectRandom(t, g, newRandomBlocks(9), 1, 10) // whose step reads the store as it is now
	if err := g.Disconnect(); err != nil {
		t.Fatal(err)
	}
	if err := g.Disconnect(); !errors.Is(err, ErrDamaged) {
		t.Errorf("Disconnect to a block with another state root: %v", err)
	}
	spoil(2)
	spoil(3)
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{"with a checkpoint", "without"} {
		if g, err := Open(dir, testParams, faultOptions()); !errors.Is(err, ErrDamaged) {
			t.Errorf("opened %s: %v", what, err)
			g.Close()
		}
		if err := os.RemoveAll(filepath.Join(dir, state.CheckpointFile)); err != nil {
			t.Fatal(err)
		}
	}
}
