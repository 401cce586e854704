package indexer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/indexer"
	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/protocol"
)

// newGraph opens an empty graph that ends with the test.
func newGraph(t testing.TB) *graph.Graph {
	t.Helper()
	g, err := graph.Open(t.TempDir(), testParams, testOptions())
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

// noLeaks checks at the end of the test that it left no goroutine behind.
func noLeaks(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
}

// catchUp runs an indexer until the graph ends with the node's tip, and returns
// it; or Run's error.
func catchUp(ctx context.Context, n node.Node, g *graph.Graph, opt indexer.Options) (graph.Tip, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ix := indexer.New(n, g, opt)
	done := make(chan error, 1)
	go func() { done <- ix.Run(ctx) }()
	for !ix.Status().Synced {
		select {
		case err := <-done:
			return graph.Tip{}, err
		case <-time.After(time.Millisecond):
		}
	}
	cancel()
	tip, _ := g.Tip()
	return tip, <-done
}

// chainWithActions is a node of so many blocks above the genesis block, every
// third of which has an action.
func chainWithActions(t testing.TB, blocks uint32) *fakeNode {
	f := newFakeNode()
	for height := uint32(1); height <= blocks; height++ {
		var txs []*wire.MsgTx
		if height%3 == 0 {
			txs = append(txs, f.action(t, "child", "parent", height))
		}
		f.extend(txs...)
	}
	return f
}

// TestChecks has a node send a block that fails a check, in the middle of a
// catch-up.
func TestChecks(t *testing.T) {
	const bad = 25
	tests := []struct {
		name string
		// change makes the block bad, and the node's chain ends with it. The node
		// gives it under the returned hash.
		change func(*wire.MsgBlock) (hash chainhash.Hash, raw []byte)
		header bool // the block's own is given as its header
		action bool // the block has one
		fine   bool // the block passes
		want   string
	}{
		{name: "nothing wrong", fine: true, change: func(b *wire.MsgBlock) (chainhash.Hash, []byte) {
			return b.BlockHash(), serialized(b)
		}},
		{name: "no work", want: "the hash is above the target", change: func(b *wire.MsgBlock) (chainhash.Hash, []byte) {
			for b.Header.Nonce = 0; ; b.Header.Nonce++ {
				if hash := b.BlockHash(); hash[31] >= 0x80 {
					return hash, serialized(b)
				}
			}
		}},
		{name: "target too easy", want: "easier than the network allows", change: func(b *wire.MsgBlock) (chainhash.Hash, []byte) {
			b.Header.Bits = 0x2100ffff
			return b.BlockHash(), serialized(b)
		}},
		{name: "negative target", want: "is negative", change: func(b *wire.MsgBlock) (chainhash.Hash, []byte) {
			b.Header.Bits = 0x2080ffff
			return b.BlockHash(), serialized(b)
		}},
		{name: "does not link", want: "expected", change: func(b *wire.MsgBlock) (chainhash.Hash, []byte) {
			b.Header.PrevBlock[0] ^= 1
			regtest.Solve(&b.Header)
			return b.BlockHash(), serialized(b)
		}},
		{name: "another block", want: "sent block", header: true, change: func(b *wire.MsgBlock) (chainhash.Hash, []byte) {
			hash := b.BlockHash()
			b.Header.Timestamp = b.Header.Timestamp.Add(time.Second)
			regtest.Solve(&b.Header)
			return hash, serialized(b)
		}},
		{name: "malformed", want: "malformed", change: func(b *wire.MsgBlock) (chainhash.Hash, []byte) {
			raw := serialized(b)
			return b.BlockHash(), raw[:len(raw)-1]
		}},
		{name: "merkle root, with an action", action: true, want: "merkle root", change: otherCoinbase},
		{name: "merkle root, without", want: "merkle root", change: otherCoinbase},
		{name: "an action left out", action: true, want: "merkle root", change: func(b *wire.MsgBlock) (chainhash.Hash, []byte) {
			b.Transactions = b.Transactions[:1]
			return b.BlockHash(), serialized(b)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			noLeaks(t)
			f := chainWithActions(t, bad-1)
			var txs []*wire.MsgTx
			if tt.action {
				txs = append(txs, f.action(t, "child", "parent", bad))
			}
			b := fakeBlock(f.chain[bad-1], bad, txs...)
			header := serialized(b)[:protocol.HeaderSize]
			hash, raw := tt.change(b)
			if !tt.header {
				header = raw[:protocol.HeaderSize]
			}
			f.addAs(bad, hash, header, raw)

			g := newGraph(t)
			_, err := catchUp(t.Context(), f, g, indexer.Options{NodeName: "example:8335", Poll: time.Millisecond})
			tip, _ := g.Tip()
			if tt.fine {
				if err != nil || tip.Height != bad || tip.Hash != hash {
					t.Fatalf("got %v, tip %d; want the block indexed", err, tip.Height)
				}
				return
			}
			if !errors.Is(err, node.ErrInvalid) {
				t.Fatalf("got %v, want ErrInvalid", err)
			}
			for _, part := range []string{"example:8335", fmt.Sprint(bad), hash.String(), tt.want} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not name %q", err, part)
				}
			}
			// What is wrong with a header shows before any block is asked for.
			if tip.Height != bad-1 && tip.Height != 0 {
				t.Errorf("the graph ends with %d; want the last good block, %d, or nothing", tip.Height, bad-1)
			}
		})
	}
}

// otherCoinbase changes a transaction behind the header's back.
func otherCoinbase(b *wire.MsgBlock) (chainhash.Hash, []byte) {
	b.Transactions[0].TxOut[0].Value++
	return b.BlockHash(), serialized(b)
}

// TestOtherGenesis has a node serve a chain that does not begin with the
// network's first block.
func TestOtherGenesis(t *testing.T) {
	f := newFakeNode()
	b := fakeBlock(chainhash.Hash{}, 0)
	f.add(0, b.BlockHash(), serialized(b))
	g := newGraph(t)
	_, err := catchUp(t.Context(), f, g, indexer.Options{})
	if !errors.Is(err, node.ErrInvalid) || !strings.Contains(err.Error(), regtest.Params.GenesisHash.String()) {
		t.Errorf("got %v, want ErrInvalid that names the genesis block", err)
	}
	if tip, ok := g.Tip(); ok {
		t.Errorf("the graph has %+v", tip)
	}
}

// TestResume ends a catch-up again and again, and has a node fail in between:
// the graph goes on where it was, and ends as if nothing had happened.
func TestResume(t *testing.T) {
	noLeaks(t)
	f := chainWithActions(t, 300)
	want, err := catchUp(t.Context(), f, newGraph(t), indexer.Options{})
	if err != nil {
		t.Fatal(err)
	}

	g := newGraph(t)
	const most = 20 // blocks in one round
	for round := range 12 {
		from := uint32(0)
		if tip, ok := g.Tip(); ok {
			from = tip.Height + 1
		}
		ctx, cancel := context.WithCancel(t.Context())
		var failed atomic.Bool
		f.onBlock = func(height uint32) error {
			if height < from+most {
				return nil
			}
			if round%2 == 0 && !failed.Swap(true) {
				return node.ErrUnavailable
			}
			cancel()
			return fmt.Errorf("%w: %w", node.ErrUnavailable, ctx.Err())
		}
		if err := indexer.New(f, g, indexer.Options{Poll: time.Millisecond}).Run(ctx); err != nil {
			t.Fatal(err)
		}
		if tip, ok := g.Tip(); ok && tip.Height >= from+most {
			t.Fatalf("the graph went from %d to %d, past a block that it cannot have", from, tip.Height)
		}
	}
	f.onBlock = nil
	got, err := catchUp(t.Context(), f, g, indexer.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("tip %+v, without interruption %+v", got, want)
	}
}

// TestDownloading has a node that has yet to come to the network's tip: the graph
// follows, and does not count as synced.
func TestDownloading(t *testing.T) {
	noLeaks(t)
	f := chainWithActions(t, 30)
	f.downloading.Store(true)
	g := newGraph(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ix := indexer.New(f, g, indexer.Options{Poll: time.Millisecond})
	done := make(chan error, 1)
	go func() { done <- ix.Run(ctx) }()
	for end := uint32(30); end <= 31; end++ {
		for tip, _ := g.Tip(); tip.Height < end; tip, _ = g.Tip() {
			time.Sleep(time.Millisecond)
		}
		for range 20 {
			if ix.Status().Synced {
				t.Fatalf("synced at height %d with a node that is not", end)
			}
			time.Sleep(time.Millisecond)
		}
		if end == 30 {
			f.extend()
		}
	}
	f.downloading.Store(false)
	for !ix.Status().Synced {
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestSteps looks at how blocks are grouped: many in one step far from the tip,
// and each alone near it.
func TestSteps(t *testing.T) {
	f := chainWithActions(t, 200)
	var heights []uint32
	var last indexer.Progress
	_, err := catchUp(t.Context(), f, newGraph(t), indexer.Options{OnProgress: func(p indexer.Progress) {
		heights = append(heights, p.Height)
		last = p
	}})
	if err != nil {
		t.Fatal(err)
	}
	if len(heights) > 100 {
		t.Errorf("%d steps for 200 blocks", len(heights))
	}
	if near := heights[max(0, len(heights)-10):]; !slices.Equal(near, []uint32{191, 192, 193, 194, 195, 196, 197, 198, 199, 200}) {
		t.Errorf("the last steps end with %v", near)
	}
	if last.First != 0 || last.Target != 200 || last.Left != 0 || last.BlocksPerSecond <= 0 || last.MegabytesPerSecond <= 0 {
		t.Errorf("at the end: %+v", last)
	}
}

// TestProgressLog looks at the log lines of a long catch-up.
func TestProgressLog(t *testing.T) {
	f := chainWithActions(t, 60)
	var log bytes.Buffer
	if _, err := catchUp(t.Context(), f, newGraph(t), indexer.Options{Log: zerolog.New(&log), Progress: time.Nanosecond}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"of":60`, `"blocks_per_s":`, `"mb_per_s":`, `"time_left":"`, `"message":"catching up"`, `"height":60,`, `"message":"indexed"`} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no %s in the log:\n%s", want, log.String())
		}
	}
}

// TestLargeBlocks sends blocks that do not fit into the budget together, and one
// that does not fit at all: few are under way at a time, all get through, and
// small ones are fetched many at a time again.
func TestLargeBlocks(t *testing.T) {
	if testing.Short() {
		t.Skip("it makes and hashes a gigabyte of blocks")
	}
	f := newFakeNode()
	add := func(size int) {
		height := uint32(len(f.chain))
		b := fakeBlock(f.chain[height-1], height)
		b.Transactions[0].TxOut[0].PkScript = make([]byte, size)
		b.Header.MerkleRoot = b.Transactions[0].TxHash()
		regtest.Solve(&b.Header)
		f.add(height, b.BlockHash(), serialized(b))
	}
	for range 6 {
		add(60 << 20)
	}
	f.delay = time.Millisecond // so that questions overlap
	g := newGraph(t)
	atOnce := func() int {
		if _, err := catchUp(t.Context(), f, g, indexer.Options{}); err != nil {
			t.Fatal(err)
		}
		defer func() { f.most = 0 }()
		return f.most
	}
	// The first ones are taken to be of 32 MB, of which 128 MB hold four.
	if got := atOnce(); got > 4 {
		t.Errorf("%d blocks of 60 MB at a time", got)
	}
	for range 6 {
		add(60 << 20)
	}
	add(256 << 20)
	if got := atOnce(); got > 4 {
		t.Errorf("%d large blocks at a time", got)
	}
	for range 200 {
		add(100)
	}
	if got := atOnce(); got <= 4 {
		t.Errorf("%d small blocks at a time", got)
	}
}

// reorganising is a real node whose chain is reorganised when a certain block is
// asked for.
type reorganising struct {
	node.Node
	at   chainhash.Hash
	once sync.Once
	do   func()
}

func (r *reorganising) Block(ctx context.Context, hash chainhash.Hash) ([]byte, error) {
	if hash == r.at {
		r.once.Do(r.do)
	}
	return r.Node.Block(ctx, hash)
}

// TestReorganisationInFlight replaces blocks of a real node while they are under
// way: some connected, some fetched, some not yet looked up.
func TestReorganisationInFlight(t *testing.T) {
	w := newWorld(t, 120, "A", "B")
	request, _ := w.link("B", "A")
	w.mine(w.request("A", "B"))
	tip := w.follow(w.graph)
	for _, depth := range []uint32{1, 5, 60} {
		t.Run(fmt.Sprint(depth), func(t *testing.T) {
			g := newGraph(t)
			tip = w.follow(w.graph)
			at := must(w.client.BlockHash(t.Context(), tip.Height-min(depth/2, 20)))(t)
			n := &reorganising{Node: w.client, at: at, do: func() {
				branch := make([][]*wire.MsgTx, depth+1)
				if _, err := w.node.Reorg(t.Context(), depth, branch...); err != nil {
					t.Error(err)
				}
			}}
			got, err := catchUp(t.Context(), n, g, indexer.Options{Poll: 10 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			if want := w.follow(w.graph); got != want {
				t.Errorf("tip %+v, the indexer that was there all the time has %+v", got, want)
			}
		})
	}
	if _, err := w.view(nil).Action(request.TxHash()); !errors.Is(err, graph.ErrNotFound) {
		t.Errorf("the request of a replaced block: %v", err)
	}
	w.wantFresh()
}
