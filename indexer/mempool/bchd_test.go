package mempool_test

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/indexer"
	"github.com/keytree-bch/keytree/indexer/mempool"
	"github.com/keytree-bch/keytree/indexer/node/bchd"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/protocol"
)

// blocks that a chain has before a test: from 1,000 on they are in the order of their txids.
const blocks = 1010

// chain is a real bchd, with an index and a follower of its mempool.
type chain struct {
	t        testing.TB
	node     *regtest.Node
	client   *bchd.Client
	graph    *graph.Graph
	follower *mempool.Follower
}

// newChain runs all of it until the test ends.
func newChain(t testing.TB, opt mempool.Options) *chain {
	t.Helper()
	c := &chain{t: t, node: regtest.ForTest(t, regtest.Options{Blocks: blocks})}
	config := must(bchd.ParseURL(c.node.URL()))(t)
	config.Network = regtest.Params
	c.client = must(bchd.Dial(t.Context(), config))(t)
	t.Cleanup(func() { must(0, c.client.Close())(t) })
	c.graph = must(graph.Open(t.TempDir(), graph.Params{Network: regtest.Params.Name}, graph.Options{MemTable: 8 << 20, BlockCache: 4 << 20}))(t)
	t.Cleanup(func() { must(0, c.graph.Close())(t) })
	c.follower = mempool.New(c.client, c.graph, regtest.Params, opt)
	ix := indexer.New(c.client, c.graph, indexer.Options{Poll: 100 * time.Millisecond})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- ix.Run(ctx) }()
	go func() { done <- c.follower.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, <-done); err != nil {
			t.Error(err)
		}
	})
	return c
}

// pending waits until what is pending after the node's tip is as expected, and returns a view
// of it.
func (c *chain) pending(is func(*graph.PendingView) bool) *graph.PendingView {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	for {
		changed, moved := c.graph.PendingChanged(), c.graph.Changed()
		_, tip, err := c.node.Tip(ctx)
		if err != nil {
			c.t.Fatalf("the mempool does not come: %v; the status is %+v", err, c.follower.Status())
		}
		if view, ok := c.graph.Pending(); ok {
			if view.Tip().Hash() == tip && view.Coverage().Complete && is(view) {
				c.t.Cleanup(view.Close)
				return view
			}
			view.Close()
		}
		select {
		case <-changed:
		case <-moved:
		case <-ctx.Done():
		}
	}
}

// transactions is a condition on how many transactions are pending.
func transactions(n int) func(*graph.PendingView) bool {
	return func(v *graph.PendingView) bool { return v.Len() == n }
}

// coins funds keys, in a block of their own.
func (c *chain) coins(keys ...*regtest.Key) []regtest.Coin {
	c.t.Helper()
	var outputs []*wire.TxOut
	for _, key := range keys {
		outputs = append(outputs, key.Output(100_000))
	}
	coins := must(c.node.Fund(c.t.Context(), outputs...))(c.t)
	must(c.node.Mine(c.t.Context(), 1))(c.t)
	return coins
}

func (c *chain) submit(txs ...*wire.MsgTx) {
	c.t.Helper()
	for _, tx := range txs {
		must(0, c.node.SubmitTransaction(c.t.Context(), tx))(c.t)
	}
}

// answers are what a view tells.
type answers struct {
	Resolutions []links.Resolution
	Actions     []links.ActionStatus
}

// questioned is a *graph.View or *graph.PendingView.
type questioned interface {
	Resolve(ctx context.Context, key protocol.KeyHash) (links.Resolution, error)
	Action(txid chainhash.Hash) (links.ActionStatus, error)
}

func (c *chain) ask(v questioned, keys []*regtest.Key, txs []*wire.MsgTx) (a answers) {
	c.t.Helper()
	for _, key := range keys {
		a.Resolutions = append(a.Resolutions, must(v.Resolve(c.t.Context(), key.Hash()))(c.t))
	}
	for _, tx := range txs {
		a.Actions = append(a.Actions, must(v.Action(tx.TxHash()))(c.t))
	}
	return a
}

// TestBCHD has a request and its accept follow each other in the mempool of a real node, be
// mined, come back after a reorganisation, and give way to what spends the same.
func TestBCHD(t *testing.T) {
	c := newChain(t, mempool.Options{Poll: 100 * time.Millisecond})
	t.Run("mined exactly", func(t *testing.T) { c.testMinedExactly() })
	child, parent, other := regtest.NewKey(), regtest.NewKey(), regtest.NewKey()
	keys := []*regtest.Key{child, parent}
	coins := c.coins(child, parent, other)
	c.pending(transactions(0))

	asked, _ := spend(t, child, coins[0], request(t, parent))
	// The parent is paid for its accept by the other key, in the mempool; both depend on what is there.
	pays, _ := spend(t, other, coins[2], parent.Output(50_000))
	accepted, _ := spend(t, parent, regtest.CoinOf(pays, 1), accept(t, asked))
	for value := int64(1000); accepted.TxHash().String() < pays.TxHash().String(); value++ {
		// From a block that is taken back, bchd does not take a transaction before what it spends.
		accepted, _ = spend(t, parent, regtest.CoinOf(pays, 1), accept(t, asked), parent.Output(value))
	}
	c.submit(asked, pays, accepted)
	before := c.ask(c.pending(transactions(2)), keys, []*wire.MsgTx{asked, accepted})
	if path := before.Resolutions[0].Path; len(path) != 2 || path[1] != parent.Hash() {
		t.Errorf("the child's path is %x", path)
	}
	view := must(c.graph.At(nil))(t)
	if r := must(view.Resolve(t.Context(), child.Hash()))(t); len(r.Path) != 1 {
		t.Errorf("confirmed is that the child's path is %x", r.Path)
	}
	view.Close()

	// The block holds one more, which is no action: positions are another matter.
	must(c.node.Mine(t.Context(), 1))(t)
	c.pending(transactions(0))
	view = must(c.graph.At(nil))(t)
	confirmed := c.ask(view, keys, []*wire.MsgTx{asked, accepted})
	view.Close()
	if !reflect.DeepEqual(before.Resolutions, confirmed.Resolutions) {
		t.Errorf("pending was\n%+v, confirmed is\n%+v", before.Resolutions, confirmed.Resolutions)
	}

	// It is taken back, so that all of it is in the mempool again.
	must(c.node.Reorg(t.Context(), 1, nil, nil))(t)
	again := c.ask(c.pending(transactions(2)), keys, []*wire.MsgTx{asked, accepted})
	if len(again.Resolutions[0].Path) != 2 || again.Actions[1].State != before.Actions[1].State {
		t.Errorf("after the reorganisation pending is %+v", again)
	}

	// A block has what spends the same as the request: it leaves, and what depends on it waits.
	instead, _ := spend(t, child, coins[0], request(t, other))
	must(c.node.MineBlock(t.Context(), instead))(t)
	after := c.pending(transactions(1))
	if _, err := after.Action(asked.TxHash()); !errors.Is(err, graph.ErrNotFound) {
		t.Errorf("the request that was spent twice: %v", err)
	}
	if a := must(after.Action(accepted.TxHash()))(t); a.State != links.StateWaiting {
		t.Errorf("the accept of what is gone: %+v", a)
	}
}

// testMinedExactly mines what is pending, and nothing else: no answer differs.
func (c *chain) testMinedExactly() {
	t := c.t
	var keys []*regtest.Key
	for range 6 {
		keys = append(keys, regtest.NewKey())
	}
	coins := c.coins(keys...)
	var txs []*wire.MsgTx
	for i := range 5 { // each asks the next one, which accepts, in a chain of transactions
		asked, change := spend(t, keys[i], coins[i], request(t, keys[i+1]))
		coins[i] = change
		accepted, change := spend(t, keys[i+1], coins[i+1], accept(t, asked))
		coins[i+1] = change
		txs = append(txs, asked, accepted)
	}
	c.submit(txs...)
	pending := c.ask(c.pending(transactions(len(txs))), keys, txs)
	must(c.node.Mine(t.Context(), 1))(t)
	c.pending(transactions(0))
	view := must(c.graph.At(nil))(t)
	defer view.Close()
	if confirmed := c.ask(view, keys, txs); !reflect.DeepEqual(pending, confirmed) {
		t.Errorf("pending was\n%+v, confirmed is\n%+v", pending, confirmed)
	}
	if depth := pending.Resolutions[0].Depth; depth != 5 {
		t.Errorf("the first key is %d below its root", depth)
	}
}

// BenchmarkBroadcast takes the time from broadcasting an action to an answer that has it: half
// of them take less than ms/half, of which the node has ms/node-half, until it has announced
// the transaction.
func BenchmarkBroadcast(b *testing.B) {
	c := newChain(b, mempool.Options{})
	config := must(bchd.ParseURL(c.node.URL()))(b)
	config.Network = regtest.Params
	listener := must(bchd.Dial(b.Context(), config))(b)
	defer listener.Close()
	announced := listener.Announced()
	key := regtest.NewKey()
	coin := c.coins(key)[0]
	c.pending(transactions(0)).Close()
	var all, node []time.Duration
	for b.Loop() {
		if len(all)%maxChained == 0 { // no chain of unconfirmed transactions becomes longer
			must(c.node.Mine(b.Context(), 1))(b)
			c.pending(transactions(0)).Close()
		}
		var tx *wire.MsgTx
		tx, coin = spend(b, key, coin, request(b, regtest.NewKey()))
		began := time.Now()
		c.submit(tx)
		for raw := range announced {
			if chainhash.DoubleHashH(raw) == tx.TxHash() {
				break
			}
		}
		node = append(node, time.Since(began))
		c.pending(func(v *graph.PendingView) bool { _, err := v.Action(tx.TxHash()); return err == nil }).Close()
		all = append(all, time.Since(began))
	}
	half := func(of []time.Duration) float64 {
		slices.Sort(of)
		return float64(of[len(of)/2]) / float64(time.Millisecond)
	}
	b.ReportMetric(half(all), "ms/half")
	b.ReportMetric(half(node), "ms/node-half")
}

// maxChained is how many transactions depend on each other before they are mined.
const maxChained = 20
