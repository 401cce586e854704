package mempool_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"go.uber.org/goleak"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/indexer/mempool"
	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/protocol"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must[T any](value T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// fakeNode is a node whose mempool is what a test says, true or not.
type fakeNode struct {
	announced chan []byte

	mu       sync.Mutex
	tip      chainhash.Hash                    // mu
	order    []chainhash.Hash                  // mu; the list
	raws     map[chainhash.Hash][]byte         // mu; what it gives by a txid
	coins    map[wire.OutPoint]protocol.Output // mu; unspent ones of the chain
	doubts   []chainhash.Hash                  // mu; that it has double-spend proofs of
	replaced func() []*wire.MsgTx              // mu; if not nil, makes the mempool before each list
	index    *wire.MsgTx                       // mu; a transaction of the chain, which it has an index of; nil: it has none
	fetched  int                               // mu; transactions that it was asked for
	fails    error                             // mu
	missed   int                               // mu
}

func newFakeNode(tip chainhash.Hash) *fakeNode {
	return &fakeNode{
		announced: make(chan []byte, 64), tip: tip,
		raws: make(map[chainhash.Hash][]byte), coins: make(map[wire.OutPoint]protocol.Output),
	}
}

// holds makes the mempool consist of these transactions, listed in this order.
func (n *fakeNode) holds(txs ...*wire.MsgTx) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.order = nil
	clear(n.raws)
	for _, tx := range txs {
		n.order = append(n.order, tx.TxHash())
		n.raws[tx.TxHash()] = serialized(tx)
	}
}

func serialized(tx *wire.MsgTx) []byte {
	var b bytes.Buffer
	if err := tx.Serialize(&b); err != nil {
		panic(err) // of a transaction that is made here
	}
	return b.Bytes()
}

// set changes it.
func (n *fakeNode) set(change func(*fakeNode)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change(n)
}

func (n *fakeNode) Tip(context.Context) (node.Tip, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return node.Tip{Hash: n.tip}, n.fails
}

func (n *fakeNode) Mempool(_ context.Context, most int, each func(chainhash.Hash)) error {
	n.mu.Lock()
	replaced := n.replaced
	n.mu.Unlock()
	if replaced != nil {
		n.holds(replaced()...)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.order) > most {
		return node.ErrUnsuitable
	}
	for _, txid := range n.order {
		each(txid)
	}
	return n.fails
}

func (n *fakeNode) MempoolTxs(_ context.Context, txids []chainhash.Hash) ([][]byte, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fetched += len(txids)
	raws := make([][]byte, len(txids))
	for i, txid := range txids {
		if raws[i] = n.raws[txid]; raws[i] == nil && n.index != nil && n.index.TxHash() == txid {
			raws[i] = serialized(n.index)
		}
	}
	return raws, n.fails
}

func (n *fakeNode) ConfirmedOutputs(_ context.Context, outs []wire.OutPoint) ([]protocol.Output, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	outputs := make([]protocol.Output, len(outs))
	for i, out := range outs {
		outputs[i] = n.coins[out]
	}
	return outputs, n.fails
}

func (n *fakeNode) Announced() <-chan []byte { return n.announced }
func (n *fakeNode) Announces() string        { return "stream" }

func (n *fakeNode) Missed() { n.set(func(n *fakeNode) { n.missed++ }) }

func (n *fakeNode) DoubleSpends(context.Context) ([]chainhash.Hash, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.doubts, n.fails
}

// told is a graph that hands over what it is told to suppose.
type told struct {
	*graph.Graph
	next chan *graph.PendingBlock
	room int // for so many actions; 0: for any number
}

func (g told) SetPending(next *graph.PendingBlock) error {
	if g.room > 0 && next != nil && len(next.Actions) > g.room {
		return graph.ErrMemory
	}
	select {
	case <-g.next: // the one before, which nobody has looked at
	default:
	}
	g.next <- next
	return g.Graph.SetPending(next)
}

// world is a fake node, a graph with the same tip, and a follower between the two.
type world struct {
	t        *testing.T
	node     *fakeNode
	graph    told
	opt      mempool.Options
	follower *mempool.Follower // from run on
}

// newWorld has a graph of one block, and a follower that compares often enough.
func newWorld(t *testing.T, opt mempool.Options) *world {
	t.Helper()
	if opt.Poll == 0 {
		opt.Poll = time.Millisecond
	}
	g := must(graph.Open(t.TempDir(), graph.Params{Network: regtest.Params.Name}, graph.Options{MemTable: 8 << 20, BlockCache: 4 << 20}))(t)
	t.Cleanup(func() { must(0, g.Close())(t) })
	genesis := regtest.Params.GenesisBlock.Header
	must(0, g.Connect(graph.Block{Hash: genesis.BlockHash(), Time: uint32(genesis.Timestamp.Unix()), Bits: genesis.Bits}))(t)
	w := &world{t: t, node: newFakeNode(genesis.BlockHash()), graph: told{Graph: g, next: make(chan *graph.PendingBlock, 1)}}
	w.opt = opt
	return w
}

// run runs the follower until the test ends.
func (w *world) run() {
	w.follower = mempool.New(w.node, w.graph, regtest.Params, w.opt)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.follower.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("following the mempool: %v", err)
		}
		if last := <-w.graph.next; last != nil {
			w.t.Error("the graph still supposes something after the end")
		}
	})
}

// await waits until the status is one, and returns it.
func (w *world) await(is func(mempool.Status) bool) mempool.Status {
	w.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		s := w.follower.Status()
		if is(s) {
			return s
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("the status stays %+v", s)
		}
		time.Sleep(time.Millisecond)
	}
}

// supposed waits until the graph is told something that is as expected.
func (w *world) supposed(is func(*graph.PendingBlock) bool) *graph.PendingBlock {
	w.t.Helper()
	deadline := time.After(time.Minute)
	var last *graph.PendingBlock
	for {
		select {
		case last = <-w.graph.next:
			if is(last) {
				return last
			}
		case <-deadline:
			w.t.Fatalf("the graph supposes %+v, the status is %+v", last, w.follower.Status())
		}
	}
}

// coin is an unspent output of the chain, to a key.
func (w *world) coin(key *regtest.Key, value int64) regtest.Coin {
	tx := wire.NewMsgTx(2)
	tx.AddTxIn(wire.NewTxIn(&wire.OutPoint{Hash: chainhash.Hash{1}}, regtest.NewKey().PublicKey()))
	tx.AddTxOut(key.Output(value))
	return w.confirmed(regtest.CoinOf(tx, 0))
}

// confirmed makes the chain have an output.
func (w *world) confirmed(coin regtest.Coin) regtest.Coin {
	w.node.set(func(n *fakeNode) {
		n.coins[coin.OutPoint] = protocol.Output{Value: coin.Output.Value, Script: coin.Output.PkScript}
	})
	return coin
}

// request returns an output with a request to a parent.
func request(t testing.TB, parent *regtest.Key) *wire.TxOut {
	t.Helper()
	return wire.NewTxOut(0, must(protocol.RequestScript(parent.Hash(), nil))(t), wire.TokenData{})
}

func accept(t testing.TB, request *wire.MsgTx) *wire.TxOut {
	t.Helper()
	return wire.NewTxOut(0, must(protocol.AcceptScript(request.TxHash(), nil))(t), wire.TokenData{})
}

func anchor(t testing.TB, position uint64) *wire.TxOut {
	t.Helper()
	a := protocol.Anchor{Domain: "keys.example.org", Position: position}
	return wire.NewTxOut(0, must(a.Script())(t), wire.TokenData{})
}

// spend returns a transaction of a key's, which spends its coin for outputs, and its change.
func spend(t testing.TB, key *regtest.Key, coin regtest.Coin, outputs ...*wire.TxOut) (*wire.MsgTx, regtest.Coin) {
	t.Helper()
	tx, change, err := regtest.Spend(key, coin, outputs...)
	if err != nil {
		t.Fatal(err)
	}
	return tx, change
}

var errFake = errors.New("the test says so")
