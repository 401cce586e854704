package statelog

import (
	"context"
	"testing"
	"time"

	"github.com/gcash/bchd/wire"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/indexer"
	"github.com/keytree-bch/keytree/indexer/node/bchd"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
)

// TestOnAChain publishes what a node's chain is, and has the node take blocks off that were published.
func TestOnAChain(t *testing.T) {
	node := regtest.ForTest(t, regtest.Options{Blocks: 40})
	config, err := bchd.ParseURL(node.URL())
	if err != nil {
		t.Fatal(err)
	}
	config.Network = regtest.Params
	client, err := bchd.Dial(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	r := newRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	followed := make(chan error, 1)
	go func() {
		followed <- indexer.New(client, r.graph, indexer.Options{Poll: 50 * time.Millisecond, Log: zerolog.Nop()}).Run(ctx)
	}()
	defer func() {
		cancel()
		if err := <-followed; err != nil {
			t.Error(err)
		}
	}()
	caughtUp := func() (tip graph.Tip) {
		t.Helper()
		eventually(t, "the graph follows the node", func() bool {
			want, err := client.Tip(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			tip, _ = r.graph.Tip()
			return tip.Hash == want.Hash
		})
		return tip
	}
	publishes := func(epoch uint32) (size uint64) {
		t.Helper()
		size = uint64(caughtUp().Height) - depth + 1
		r.noticed()
		r.pass(knownFor)
		r.await(epoch, size)
		r.wantChain(epoch, size)
		return size
	}
	caughtUp()
	r.start()
	defer r.halt()
	first := publishes(1)
	if _, err := node.Reorg(t.Context(), depth+3, make([][]*wire.MsgTx, depth+4)...); err != nil {
		t.Fatal(err)
	}
	caughtUp()
	eventually(t, "the next epoch", func() bool { return r.Status().Epoch == 2 })
	publishes(2)
	frozen := r.await(1, first)
	r.halt()
	r.start()
	if _, err := node.Mine(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	publishes(2)
	if c := r.await(1, first); c != frozen {
		t.Errorf("frozen: %+v, was %+v", c, frozen)
	}
}
