package indexer_test

import (
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/indexer"
	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
)

// counting notes for which outputs it is asked.
type counting struct {
	*fakeNode
	mu    sync.Mutex
	asked []wire.OutPoint // mu
}

func (n *counting) Spent(ctx context.Context, block chainhash.Hash, by []node.Spender) ([]node.Spent, error) {
	n.mu.Lock()
	for i := range by {
		n.asked = append(n.asked, by[i].Inputs[0])
	}
	n.mu.Unlock()
	return n.fakeNode.Spent(ctx, block, by)
}

// TestRemembers asks the node only for outputs that have not been seen: here those from
// before the first block.
func TestRemembers(t *testing.T) {
	l := newLedger(t)
	var want []wire.OutPoint // has to be asked for
	first := func(name string) {
		out := wire.OutPoint{Hash: chainhash.HashH([]byte(name))}
		l.coins[name] = l.knows(regtest.Coin{OutPoint: out, Output: *regtest.KeyFromSeed(name).Output(1_000_000)})
		want = append(want, out)
	}

	first("A")
	l.request("A", "B")
	l.mine()
	l.request("A", "B") // spends the change
	first("B")
	l.request("B", "A")
	l.request("B", "A") // change of the same block
	l.mine()
	// A coin from elsewhere, for who is known to have acted when it comes.
	n := &counting{fakeNode: l.node}
	g := newGraph(t)
	ix := indexer.New(n, g, indexer.Options{Poll: 1, Log: zerolog.Nop()})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- ix.Run(ctx) }()
	waitFor(t, "the first actions", func() bool { return ix.Status().Synced })
	l.coins["A"] = l.fund(regtest.KeyFromSeed("C").Output(1), regtest.KeyFromSeed("A").Output(5_000_000))[1]
	l.mine()
	l.request("A", "B")
	l.mine()
	waitFor(t, "the last action", func() bool { tip, _ := g.Tip(); return tip.Height == uint32(len(l.node.chain)-1) })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	compare := func(a, b wire.OutPoint) int {
		return slices.Compare(a.Hash[:], b.Hash[:])*10 + int(a.Index) - int(b.Index)
	}
	slices.SortFunc(want, compare)
	slices.SortFunc(n.asked, compare)
	if !slices.Equal(n.asked, want) {
		t.Errorf("asked for %v, want %v", n.asked, want)
	}
}
