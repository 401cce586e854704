package chain_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/scripts/bench/chain"
)

func blocks(t *testing.T, opt chain.Options) ([][]byte, chain.Stats) {
	t.Helper()
	c, err := chain.New(opt)
	if err != nil {
		t.Fatal(err)
	}
	var all [][]byte
	for raw, err := range c.Blocks(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, raw)
	}
	return all, c.Stats()
}

func digest(blocks [][]byte) chainhash.Hash { return chainhash.HashH(bytes.Join(blocks, nil)) }

func TestSameSeedSameBytes(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	opt := chain.Options{Seed: 1, Blocks: 3, BlockSize: 60_000, Actions: 0.05}
	first, _ := blocks(t, opt)
	if again, _ := blocks(t, opt); digest(again) != digest(first) {
		t.Error("the same options gave another chain")
	}
	opt.Seed = 2
	if other, _ := blocks(t, opt); digest(other) == digest(first) {
		t.Error("another seed gave the same chain")
	}
}

// TestBlocks walks both shapes with the project's own parser, and with bchd's.
func TestBlocks(t *testing.T) {
	for name, shape := range map[string]chain.Shape{"mixed": chain.Mixed, "payments": chain.Payments} {
		t.Run(name, func(t *testing.T) {
			opt := chain.Options{Seed: 3, Blocks: 2, BlockSize: 1_000_000, Actions: 0.01, Shape: shape}
			all, stats := blocks(t, opt)
			var size, txs int64
			var actions, full, tokens int
			var prev chainhash.Hash
			for height, raw := range all {
				block, err := protocol.ReadBlock(raw)
				if err != nil {
					t.Fatal(err)
				}
				if err := block.CheckMerkleRoot(); err != nil {
					t.Error(err)
				}
				if block.Header.PrevBlock != prev {
					t.Errorf("block %d does not link", height)
				}
				prev = block.Hash
				size += int64(len(raw))
				txs += int64(block.TxCount)
				for range block.Carriers() {
					actions++
				}
				if len(raw) > opt.BlockSize {
					t.Errorf("block %d has %d bytes", height, len(raw))
				}
				if len(raw) > opt.BlockSize*97/100 {
					full++
				}
				tokens += checkWire(t, raw)
			}
			if size != stats.Bytes || txs != stats.Transactions || len(all) != stats.Blocks || prev != stats.Tip {
				t.Errorf("%d blocks, %d transactions, %d bytes, tip %v; the chain counts %+v", len(all), txs, size, prev, stats)
			}
			if full != opt.Blocks {
				t.Errorf("%d full blocks, want %d", full, opt.Blocks)
			}
			if actions != stats.Actions() {
				t.Errorf("%d actions, the chain counts %d", actions, stats.Actions())
			}
			if share := float64(actions) / float64(txs); share < 0.8*opt.Actions || share > 1.2*opt.Actions {
				t.Errorf("%.2f %% of the transactions are actions, want about %.2f %%", 100*share, 100*opt.Actions)
			}
			if (tokens > 0) != (shape == chain.Mixed) {
				t.Errorf("%d token outputs", tokens)
			}
		})
	}
}

// checkWire checks that a block's transactions are in CTOR order and returns how
// many of their outputs have a token.
func checkWire(t *testing.T, raw []byte) (tokens int) {
	t.Helper()
	var block wire.MsgBlock
	if err := block.Deserialize(bytes.NewReader(raw)); err != nil {
		t.Fatal(err)
	}
	var last chainhash.Hash
	for i, tx := range block.Transactions {
		txid := tx.TxHash()
		if i > 1 && txid.Compare(&last) <= 0 {
			t.Errorf("transaction %d is out of order", i)
		}
		last = txid
		for _, out := range tx.TxOut {
			if !out.TokenData.IsEmpty() {
				tokens++
			}
		}
	}
	return tokens
}

// TestStory has the real rules judge the actions: what is in force and what is
// refused must be what the chain counts, and nothing may be left waiting.
func TestStory(t *testing.T) {
	all, stats := blocks(t, chain.Options{Seed: 4, Blocks: 50, BlockSize: 80_000, Actions: 0.05})
	g, err := graph.Open(t.TempDir(), graph.Params{Network: chain.Params.Name}, graph.Options{MemTable: 8 << 20, BlockCache: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()

	scripts := make(map[wire.OutPoint][]byte)
	var txids []chainhash.Hash
	for height, raw := range all {
		block, err := protocol.ReadBlock(raw)
		if err != nil {
			t.Fatal(err)
		}
		for _, tx := range block.Txs() {
			for vout, out := range tx.Outputs() {
				scripts[wire.OutPoint{Hash: tx.TxID(), Index: vout}] = bytes.Clone(out.Script)
			}
		}
		b := graph.Block{Height: uint32(height), Hash: block.Hash, PrevHash: block.Header.PrevBlock}
		for c := range block.Carriers() {
			author, ok := protocol.Author(c.Unlock, scripts[c.Spends])
			if !ok {
				t.Fatalf("action %v has no author", c.TxID)
			}
			b.Actions = append(b.Actions, links.Action{Action: c.Action, Index: c.Index, TxID: c.TxID, Author: &author})
			txids = append(txids, c.TxID)
		}
		if err := g.Connect(b); err != nil {
			t.Fatal(err)
		}
	}

	v, err := g.At(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	states := make(map[links.ActionState]int)
	reasons := make(map[links.Reason]int)
	for _, txid := range txids {
		a, err := v.Action(txid)
		if err != nil {
			t.Fatal(err)
		}
		states[a.State]++
		if a.State == links.StateRefused {
			reasons[a.Reason]++
		}
	}
	if states[links.StateInForce] != stats.Links || states[links.StateRefused] != stats.Refused || states[links.StateWaiting] != 0 {
		t.Errorf("states %v, reasons %v; the chain counts %+v", states, reasons, stats)
	}
	if stats.Links < 50 || states[links.StateCut] < 10 || len(reasons) < 4 {
		t.Errorf("little happens: states %v, reasons %v", states, reasons)
	}
}

// TestRealNode has a real bchd judge chains, signatures and all: one with a large
// block, then longer ones, to which it switches.
func TestRealNode(t *testing.T) {
	node := regtest.ForTest(t, regtest.Options{NoTxIndex: true})
	for _, opt := range []chain.Options{
		{Seed: 5, Blocks: 1, BlockSize: 1_000_000, Actions: 0.01},
		{Seed: 6, Blocks: 30, BlockSize: chain.MinBlockSize, Actions: 0.05},
		{Seed: 7, Blocks: 35, BlockSize: chain.MinBlockSize, Actions: 0.01, Shape: chain.Payments},
	} {
		all, stats := blocks(t, opt)
		submit(t, node, all)
		height, tip, err := node.Tip(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if height != stats.Height || tip != stats.Tip {
			t.Errorf("the node is at %d, %v; the chain at %d, %v", height, tip, stats.Height, stats.Tip)
		}
	}
}

func submit(t *testing.T, node *regtest.Node, all [][]byte) {
	t.Helper()
	for height, raw := range all[1:] {
		var block wire.MsgBlock
		if err := block.Deserialize(bytes.NewReader(raw)); err != nil {
			t.Fatal(err)
		}
		if err := node.SubmitBlock(t.Context(), &block); err != nil {
			t.Fatalf("block %d: %v", height+1, err)
		}
	}
}

func TestOptions(t *testing.T) {
	for name, opt := range map[string]chain.Options{
		"no size":           {Blocks: 1},
		"blocks below 0":    {Blocks: -1, BlockSize: 1_000_000},
		"too large":         {BlockSize: chain.MaxBlockSize + 1},
		"nothing but links": {BlockSize: 1_000_000, Actions: 1},
	} {
		if _, err := chain.New(opt); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c, err := chain.New(chain.Options{Blocks: 1000, BlockSize: 1_000_000})
	if err != nil {
		t.Fatal(err)
	}
	made := 0
	for _, err = range c.Blocks(ctx) {
		if made++; made == 3 {
			cancel()
		}
	}
	if !errors.Is(err, context.Canceled) || made != 4 {
		t.Errorf("ended after %d blocks with %v", made, err)
	}
}
