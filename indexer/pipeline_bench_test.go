package indexer_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/txscript"
	"github.com/gcash/bchd/wire"
	"golang.org/x/sync/errgroup"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/indexer"
	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/bchd"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/protocol"
)

// paymentsPerMB is how many P2PKH payments make a block of 1 MB: what shares of
// actions are meant of.
const paymentsPerMB = 4400

// BenchmarkCatchUp compares an empty graph's catch-up with merely downloading the
// same blocks, as many at a time, with their hashes known beforehand; both in
// turn, in each iteration.
func BenchmarkCatchUp(b *testing.B) {
	for _, delay := range []time.Duration{5 * time.Millisecond, 20 * time.Millisecond} {
		b.Run(fmt.Sprintf("memory/delay=%v", delay), func(b *testing.B) {
			f := newFakeNode()
			f.delay = delay
			var payments []*wire.MsgTx
			for n := range uint32(220) {
				payments = append(payments, payment(wire.OutPoint{Index: n}, 546))
			}
			for height := range uint32(3000) {
				f.extend(append([]*wire.MsgTx{f.action(b, "child", "parent", height)}, payments...)...)
			}
			benchmarkCatchUp(b, copying{f})
		})
	}
	for _, actions := range []int{0, paymentsPerMB / 1000, paymentsPerMB / 100} {
		b.Run(fmt.Sprintf("bchd/actions=%d", actions), func(b *testing.B) {
			benchmarkCatchUp(b, bchdWithBlocks(b, 16, actions))
		})
	}
}

// copying copies what it sends, as receiving does.
type copying struct{ node.Node }

func (c copying) Block(ctx context.Context, hash chainhash.Hash) ([]byte, error) {
	raw, err := c.Node.Block(ctx, hash)
	return bytes.Clone(raw), err
}

func benchmarkCatchUp(b *testing.B, n node.Node) {
	tip, err := n.Tip(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	hashes := make([]chainhash.Hash, tip.Height+1)
	for height := range hashes {
		if hashes[height], err = n.BlockHash(b.Context(), uint32(height)); err != nil {
			b.Fatal(err)
		}
	}
	var download, index time.Duration
	var size int64
	for b.Loop() {
		began := time.Now()
		size = downloadAll(b, n, hashes)
		download += time.Since(began)

		g, err := graph.Open(b.TempDir(), testParams, testOptions())
		if err != nil {
			b.Fatal(err)
		}
		began = time.Now()
		if _, err := catchUp(b.Context(), n, g, indexer.Options{}); err != nil {
			b.Fatal(err)
		}
		index += time.Since(began)
		if err := g.Close(); err != nil {
			b.Fatal(err)
		}
	}
	total := float64(size) * float64(b.N) / 1e6
	b.ReportMetric(total/download.Seconds(), "download-MB/s")
	b.ReportMetric(total/index.Seconds(), "catchup-MB/s")
	b.ReportMetric(100*download.Seconds()/index.Seconds(), "%-of-download")
	b.ReportMetric(0, "ns/op")
}

func downloadAll(b *testing.B, n node.Node, hashes []chainhash.Hash) int64 {
	var size atomic.Int64
	calls, ctx := errgroup.WithContext(b.Context())
	calls.SetLimit(indexer.BlockCalls)
	for _, hash := range hashes {
		calls.Go(func() error {
			raw, err := n.Block(ctx, hash)
			size.Add(int64(len(raw)))
			return err
		})
	}
	if err := calls.Wait(); err != nil {
		b.Fatal(err)
	}
	return size.Load()
}

// bchdWithBlocks returns a real node with so many blocks of 1 MB, and so many
// actions in each.
func bchdWithBlocks(b *testing.B, blocks, actions int) node.Node {
	n := regtest.ForTest(b, regtest.Options{Blocks: 100 + uint32(blocks), NoAddrIndex: true})
	child, parent := regtest.KeyFromSeed("child"), regtest.KeyFromSeed("parent")
	var coins []regtest.Coin // for each block one to split and those of its actions
	for range blocks {
		outputs := []*wire.TxOut{wire.NewTxOut(10e8, paymentScript, wire.TokenData{})}
		for range actions {
			outputs = append(outputs, child.Output(10_000))
		}
		funded, err := n.Fund(b.Context(), outputs...)
		if err != nil {
			b.Fatal(err)
		}
		coins = append(coins, funded...)
	}
	if _, err := n.Mine(b.Context(), 1); err != nil {
		b.Fatal(err)
	}
	script, err := protocol.RequestScript(parent.Hash(), nil)
	if err != nil {
		b.Fatal(err)
	}
	for mine := range slices.Chunk(coins, 1+actions) {
		split := payment(mine[0].OutPoint, 0)
		split.TxOut = nil
		for range paymentsPerMB {
			split.AddTxOut(wire.NewTxOut(2000, paymentScript, wire.TokenData{}))
		}
		txs := []*wire.MsgTx{split}
		from := wire.OutPoint{Hash: split.TxHash()}
		for range split.TxOut {
			txs = append(txs, payment(from, 700))
			from.Index++
		}
		for _, coin := range mine[1:] {
			tx, _, err := regtest.Spend(child, coin, wire.NewTxOut(0, script, wire.TokenData{}))
			if err != nil {
				b.Fatal(err)
			}
			txs = append(txs, tx)
		}
		if _, err := n.MineBlock(b.Context(), txs...); err != nil {
			b.Fatal(err)
		}
	}
	config, err := bchd.ParseURL(n.URL())
	if err != nil {
		b.Fatal(err)
	}
	config.Network = regtest.Params
	client, err := bchd.Dial(b.Context(), config)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { client.Close() })
	return client
}

// paymentScript takes a signature and a public key, like P2PKH, but any will do:
// signing blocks of payments would take longer than all the rest.
var paymentScript = []byte{txscript.OP_2DROP, txscript.OP_1}

var payeeScript = regtest.KeyFromSeed("payee").Script()

// payment returns a transaction of the size and form of a P2PKH payment with
// change, which spends an output to paymentScript.
func payment(from wire.OutPoint, value int64) *wire.MsgTx {
	unlock := slices.Concat([]byte{txscript.OP_DATA_71}, make([]byte, 71), []byte{txscript.OP_DATA_33}, make([]byte, 33))
	tx := wire.NewMsgTx(2)
	tx.AddTxIn(wire.NewTxIn(&from, unlock))
	for range 2 {
		tx.AddTxOut(wire.NewTxOut(value, payeeScript, wire.TokenData{}))
	}
	return tx
}
