package graph

import (
	"fmt"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/protocol"
)

// shape says who the parent of key n > 0 is.
type shape func(n int) int

var shapes = map[string]shape{
	"path": func(n int) int { return n - 1 },
	"star": func(int) int { return 0 },
	"tree": func(n int) int { return int(hash32(n) % uint32(n)) },
	// A path of every second key, each with one leaf.
	"caterpillar": func(n int) int { return max(0, n-2+n%2) },
}

func hash32(n int) uint32 {
	h := tx(fmt.Sprint(n))
	return uint32(h[0]) | uint32(h[1])<<8 | uint32(h[2])<<16 | uint32(h[3])<<24
}

// grow returns a block that links keys from to to-1 to their parents.
func grow(height uint32, prev chainhash.Hash, s shape, from, to int) Block {
	b := Block{Height: height, PrevHash: prev, Hash: tx(fmt.Sprint("block", height, from, to, prev))}
	for n := from; n < to; n++ {
		child, parent := key(fmt.Sprint(n)), key(fmt.Sprint(s(n)))
		request, accept := tx(fmt.Sprint("request", n)), tx(fmt.Sprint("accept", n))
		b.Actions = append(b.Actions,
			links.Action{Index: uint32(len(b.Actions)), TxID: request, Author: &child, Action: protocol.Action{Kind: protocol.MLR, Parent: parent}},
			links.Action{Index: uint32(len(b.Actions) + 1), TxID: accept, Author: &parent, Action: protocol.Action{Kind: protocol.MLA, Ref: protocol.RefersTo(request)}})
	}
	return b
}

// TestStepLargerThanATransaction connects a block whose Writes do not fit into
// one Badger transaction, takes it back, and connects it again.
func TestStepLargerThanATransaction(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	const keys = 4000
	dir := t.TempDir()
	g := openTest(t, dir)
	first := grow(0, chainhash.Hash{}, shapes["path"], 1, 10)
	if err := g.Connect(first); err != nil {
		t.Fatal(err)
	}
	before := g.digest(t)
	second := grow(1, first.Hash, shapes["path"], 10, keys)

	writes := faultyStore{Committer: g.store}
	g.store = &writes
	if err := g.Connect(second); err != nil {
		t.Fatal(err)
	}
	if writes.writes < 2 {
		t.Fatal("the block fits into one transaction: this test shows nothing")
	}
	after := g.digest(t)
	resolve := func() {
		t.Helper()
		v, err := g.At(nil)
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		deepest := key(fmt.Sprint(keys - 1))
		inMemory := resolveInMemory(t, v, deepest)
		stored, err := storedView(v).Resolve(t.Context(), deepest)
		if err != nil {
			t.Fatal(err)
		}
		if inMemory.Depth != keys-1 || stored.Depth != keys-1 || len(stored.Path) != links.MaxPath || !stored.Truncated {
			t.Errorf("depth %d in memory, %d in the store, path of %d", inMemory.Depth, stored.Depth, len(stored.Path))
		}
	}
	resolve()
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	g = openTest(t, dir)
	resolve()
	if err := g.Disconnect(); err != nil {
		t.Fatal(err)
	}
	if g.digest(t) != before {
		t.Error("taking the block back left something behind")
	}
	if err := g.Connect(second); err != nil {
		t.Fatal(err)
	}
	if g.digest(t) != after {
		t.Error("connecting the block again gave another state")
	}
}
