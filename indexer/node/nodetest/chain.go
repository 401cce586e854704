package nodetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/gcash/bchd/blockchain"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/txscript"
	"github.com/gcash/bchd/wire"
	"github.com/gcash/bchutil"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/protocol"
)

// subsidyHalving is after how many blocks regtest halves the subsidy.
const subsidyHalving = 150

// Header times, in seconds since 1970: that of block 1, and how much later each one is.
const (
	firstTime = 1_700_000_000
	blockTime = 600
)

// Chain is a chain of regtest blocks, made without a node: with all the work and
// signatures that nodes ask for, and the same bytes each time. It is for one
// goroutine while blocks are added, afterwards for many.
type Chain struct {
	blocks []*wire.MsgBlock       // by height
	made   map[wire.OutPoint]made // by every block but the first
}

// made is an output and where it was made.
type made struct {
	output protocol.Output
	height uint32
}

// Genesis returns a chain of the genesis block alone.
func Genesis() *Chain {
	return &Chain{blocks: []*wire.MsgBlock{regtest.Params.GenesisBlock}, made: make(map[wire.OutPoint]made)}
}

// Height returns the height of the chain's last block.
func (c *Chain) Height() uint32 { return uint32(len(c.blocks) - 1) }

// Block returns the block at height, not to be changed.
func (c *Chain) Block(height uint32) *wire.MsgBlock { return c.blocks[height] }

// SubmitTo gives a node that has the genesis block alone the rest of the chain.
func (c *Chain) SubmitTo(t *testing.T, n interface {
	SubmitBlock(ctx context.Context, b *wire.MsgBlock) error
}) {
	t.Helper()
	for _, b := range c.blocks[1:] {
		if err := n.SubmitBlock(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
}

// Raw returns the serialized block at height.
func (c *Chain) Raw(height uint32) []byte { return serialize(c.blocks[height]) }

// Hash returns the hash of the block at height.
func (c *Chain) Hash(height uint32) chainhash.Hash { return c.blocks[height].BlockHash() }

// To returns the part of the chain that ends with the block at height.
func (c *Chain) To(height uint32) *Chain {
	part := Genesis()
	for _, block := range c.blocks[1 : height+1] {
		part.Add(block)
	}
	return part
}

// Mine adds a block with exactly these transactions, in the order of their txids. The
// coinbase pays the subsidy to the key.
func (c *Chain) Mine(to *regtest.Key, txs ...*wire.MsgTx) *wire.MsgBlock {
	height := c.Height() + 1
	last := c.blocks[height-1]
	slices.SortFunc(txs, func(a, b *wire.MsgTx) int {
		x, y := a.TxHash(), b.TxHash()
		return x.Compare(&y)
	})
	b := &wire.MsgBlock{
		Header: wire.BlockHeader{
			Version: 0x20000000, PrevBlock: last.BlockHash(), Bits: last.Header.Bits,
			Timestamp: time.Unix(firstTime+int64(height-1)*blockTime, 0),
		},
		Transactions: append([]*wire.MsgTx{coinbase(height, to)}, txs...),
	}
	b.Header.MerkleRoot = merkleRoot(b)
	regtest.Solve(&b.Header)
	c.Add(b)
	return b
}

// Add adds a block that was made elsewhere.
func (c *Chain) Add(b *wire.MsgBlock) {
	c.blocks = append(c.blocks, b)
	for _, tx := range b.Transactions {
		raw, err := protocol.ParseTx(serialize(tx))
		if err != nil {
			panic(fmt.Sprintf("a transaction that was just serialized: %v", err))
		}
		for i, output := range raw.Outputs() {
			c.made[wire.OutPoint{Hash: tx.TxHash(), Index: i}] = made{output, c.Height()}
		}
	}
}

// spent returns what a transaction spends, in the order of its inputs, the scripts
// with their token prefixes.
func (c *Chain) spent(tx *wire.MsgTx) []protocol.Output {
	spent := make([]protocol.Output, len(tx.TxIn))
	for i, in := range tx.TxIn {
		m, ok := c.made[in.PreviousOutPoint]
		if !ok {
			panic(fmt.Sprintf("no transaction of the chain has output %v", in.PreviousOutPoint))
		}
		spent[i] = m.output
	}
	return spent
}

// coinbase returns the coinbase of the block at height, which is long enough for the
// 100 bytes that a transaction may need.
func coinbase(height uint32, to *regtest.Key) *wire.MsgTx {
	unique := sha256.Sum256(fmt.Appendf(nil, "%d %s", height, to.Address()))
	script, err := txscript.NewScriptBuilder().AddInt64(int64(height)).AddData(unique[:]).Script()
	if err != nil {
		panic(fmt.Sprintf("the script of a coinbase: %v", err)) // only if it is too long
	}
	tx := wire.NewMsgTx(1)
	tx.AddTxIn(wire.NewTxIn(&wire.OutPoint{Index: math.MaxUint32}, script))
	tx.AddTxOut(to.Output(50e8 >> (height / subsidyHalving)))
	return tx
}

func merkleRoot(b *wire.MsgBlock) chainhash.Hash {
	tree := blockchain.BuildMerkleTreeStore(bchutil.NewBlock(b).Transactions())
	return *tree[len(tree)-1]
}

func serialize(v interface{ Serialize(io.Writer) error }) []byte {
	var raw bytes.Buffer
	if err := v.Serialize(&raw); err != nil {
		panic(fmt.Sprintf("writing to memory: %v", err))
	}
	return raw.Bytes()
}
