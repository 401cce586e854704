package indexer_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gcash/bchd/blockchain"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"github.com/gcash/bchutil"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/protocol"
)

// fakeNode serves a made-up chain of regtest from memory. It stands in for a
// real node where that cannot be made to lie, be slow or have huge blocks.
type fakeNode struct {
	delay time.Duration // before each answer
	// onBlock, if not nil, is called before each block is handed out, in the
	// goroutine that asks; its error is the answer.
	onBlock func(height uint32) error
	// downloading is what the node says of itself.
	downloading atomic.Bool

	mu      sync.Mutex
	chain   []chainhash.Hash                  // mu; by height
	blocks  map[chainhash.Hash]sent           // mu
	headers map[chainhash.Hash][]byte         // mu
	spent   map[wire.OutPoint]protocol.Output // mu; as it has them in an index
	asked   map[uint32]int                    // mu; how often each height's block was asked for
	asking  int                               // mu; blocks being asked for now
	most    int                               // mu; of them at a time
}

// sent is a block as the node sends it.
type sent struct {
	height uint32
	raw    []byte
}

var _ node.Node = (*fakeNode)(nil)

func newFakeNode() *fakeNode {
	f := &fakeNode{
		blocks: make(map[chainhash.Hash]sent), headers: make(map[chainhash.Hash][]byte), spent: make(map[wire.OutPoint]protocol.Output), asked: make(map[uint32]int),
	}
	f.add(0, *regtest.Params.GenesisHash, serialized(regtest.Params.GenesisBlock))
	return f
}

// add puts a block, sent as raw when asked for by hash, at height, and cuts the
// chain off behind it.
func (f *fakeNode) add(height uint32, hash chainhash.Hash, raw []byte) {
	f.addAs(height, hash, raw[:protocol.HeaderSize], raw)
}

// addAs is add for a block whose header is another than what is sent as the block.
func (f *fakeNode) addAs(height uint32, hash chainhash.Hash, header, raw []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.chain = append(f.chain[:height:height], hash)
	f.blocks[hash] = sent{height, raw}
	f.headers[hash] = header
}

// extend puts a block of the transactions at the end of the chain.
func (f *fakeNode) extend(txs ...*wire.MsgTx) {
	height := uint32(len(f.chain))
	b := fakeBlock(f.chain[height-1], height, txs...)
	f.add(height, b.BlockHash(), serialized(b))
}

func (f *fakeNode) wait(ctx context.Context) error {
	if f.delay == 0 {
		return ctx.Err()
	}
	select {
	case <-time.After(f.delay):
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", node.ErrUnavailable, ctx.Err())
	}
}

func (f *fakeNode) Tip(ctx context.Context) (node.Tip, error) {
	if err := f.wait(ctx); err != nil {
		return node.Tip{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	last := len(f.chain) - 1
	return node.Tip{Height: uint32(last), Hash: f.chain[last], Downloading: f.downloading.Load(), Peers: node.Untold}, nil
}

func (f *fakeNode) BlockHash(ctx context.Context, height uint32) (chainhash.Hash, error) {
	if err := f.wait(ctx); err != nil {
		return chainhash.Hash{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if int(height) >= len(f.chain) {
		return chainhash.Hash{}, node.ErrNotFound
	}
	return f.chain[height], nil
}

func (f *fakeNode) Block(ctx context.Context, hash chainhash.Hash) ([]byte, error) {
	f.mu.Lock()
	b, ok := f.blocks[hash]
	f.asked[b.height]++
	f.asking++
	f.most = max(f.most, f.asking)
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.asking--
	}()
	if f.onBlock != nil {
		if err := f.onBlock(b.height); err != nil {
			return nil, err
		}
	}
	if err := f.wait(ctx); err != nil {
		return nil, err
	}
	if !ok {
		return nil, node.ErrNotFound
	}
	return b.raw, nil
}

func (f *fakeNode) Headers(ctx context.Context, after chainhash.Hash, height, want uint32) ([]protocol.Header, error) {
	if err := f.wait(ctx); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if int(height) >= len(f.chain) || f.chain[height] != after {
		return nil, node.ErrNotFound
	}
	var headers []protocol.Header
	for _, hash := range f.chain[height+1 : min(len(f.chain), int(height)+1+int(want))] {
		header, err := protocol.ParseHeader(f.headers[hash])
		if err != nil {
			return nil, err
		}
		headers = append(headers, header)
	}
	return headers, nil
}

func (f *fakeNode) Spent(ctx context.Context, _ chainhash.Hash, by []node.Spender) ([]node.Spent, error) {
	if err := f.wait(ctx); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	spent := make([]node.Spent, len(by))
	for i := range by {
		output, ok := f.spent[by[i].Inputs[0]]
		if !ok {
			return nil, node.ErrNotFound
		}
		spent[i] = node.Spent{Outputs: []protocol.Output{output}, Proven: true}
	}
	return spent, nil
}

// Previous is never asked for: what Spent tells is proven.
func (f *fakeNode) Previous(context.Context, chainhash.Hash, chainhash.Hash, wire.OutPoint) (protocol.Tx, error) {
	return nil, fmt.Errorf("%w: a transaction that nobody needs", node.ErrInvalid)
}

func (f *fakeNode) Changes() <-chan struct{} { return nil }

// action makes a transaction in which the key named child asks the one named
// parent, spending an output that the node knows. Its number makes it unlike
// any other.
func (f *fakeNode) action(t testing.TB, child, parent string, number uint32) *wire.MsgTx {
	t.Helper()
	key := regtest.KeyFromSeed(child)
	script, err := protocol.RequestScript(regtest.KeyFromSeed(parent).Hash(), fmt.Append(nil, number))
	if err != nil {
		t.Fatal(err)
	}
	coin := regtest.Coin{OutPoint: wire.OutPoint{Hash: chainhash.HashH([]byte(child)), Index: number}, Output: *key.Output(10_000)}
	f.mu.Lock()
	f.spent[coin.OutPoint] = protocol.Output{Value: coin.Output.Value, Script: coin.Output.PkScript}
	f.mu.Unlock()
	tx, _, err := regtest.Spend(key, coin, wire.NewTxOut(0, script, wire.TokenData{}))
	if err != nil {
		t.Fatal(err)
	}
	return tx
}

// fakeBlock returns a solved block on prev, with a coinbase that names height.
func fakeBlock(prev chainhash.Hash, height uint32, txs ...*wire.MsgTx) *wire.MsgBlock {
	b := wire.NewMsgBlock(&wire.BlockHeader{
		Version: 1, PrevBlock: prev, Timestamp: time.Unix(1_600_000_000+int64(height), 0), Bits: regtest.Params.PowLimitBits,
	})
	coinbase := wire.NewMsgTx(1)
	coinbase.AddTxIn(&wire.TxIn{
		PreviousOutPoint: wire.OutPoint{Index: math.MaxUint32}, SignatureScript: binary.LittleEndian.AppendUint32(nil, height),
	})
	coinbase.AddTxOut(regtest.KeyFromSeed("miner").Output(1))
	for _, tx := range append([]*wire.MsgTx{coinbase}, txs...) {
		b.AddTransaction(tx)
	}
	tree := blockchain.BuildMerkleTreeStore(bchutil.NewBlock(b).Transactions())
	b.Header.MerkleRoot = *tree[len(tree)-1]
	regtest.Solve(&b.Header)
	return b
}

func serialized(b *wire.MsgBlock) []byte {
	var raw bytes.Buffer
	if err := b.Serialize(&raw); err != nil {
		panic(err) // a buffer takes everything
	}
	return raw.Bytes()
}
