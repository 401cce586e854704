package nodetest

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/txscript"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/indexer/mempool"
	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/protocol"
)

// Unconfirmed returns transactions that a node takes on top of the chain, always the same: the
// first spends an output of the chain, each other the change of the one before. They carry
// requests.
func (c *Chain) Unconfirmed(count int) (txs []*wire.MsgTx) {
	key, coin := c.richest()
	for i := range count {
		tx, change, err := regtest.Spend(key, coin, wire.NewTxOut(0, request(regtest.KeyFromSeed(string(rune('a'+i)))), wire.TokenData{}))
		check(err)
		txs, coin = append(txs, tx), change
	}
	return txs
}

// SpentTwice returns a transaction that spends what one of Unconfirmed spends.
func (c *Chain) SpentTwice(tx *wire.MsgTx) *wire.MsgTx {
	key, _ := c.richest()
	out := tx.TxIn[0].PreviousOutPoint
	made := c.made[out].output
	return spend([]input{{coin: regtest.Coin{OutPoint: out, Output: wire.TxOut{Value: made.Value, PkScript: made.Script}}, key: key}}, key.Output(made.Value/2))
}

// richest returns the largest output that is unspent, is no coinbase's and has no token, and
// the key of NewChain's that it pays.
func (c *Chain) richest() (key *regtest.Key, coin regtest.Coin) {
	unspent := c.unspent()
	for _, name := range []string{"merchant", "holder", "late", "parent", "single"} {
		holder := regtest.KeyFromSeed(name)
		for out, made := range unspent {
			if bytes.Equal(made.Script, holder.Script()) && made.Value > coin.Output.Value {
				key, coin = holder, regtest.Coin{OutPoint: out, Output: wire.TxOut{Value: made.Value, PkScript: made.Script}}
			}
		}
	}
	return key, coin
}

// unspent returns the outputs of the chain that can be spent, and are not.
func (c *Chain) unspent() map[wire.OutPoint]protocol.Output {
	unspent := make(map[wire.OutPoint]protocol.Output)
	for out, made := range c.made {
		if script := protocol.StripTokenPrefix(made.output.Script); len(script) > 0 && script[0] != txscript.OP_RETURN {
			unspent[out] = made.output
		}
	}
	for _, block := range c.blocks {
		for _, tx := range block.Transactions[1:] {
			for _, in := range tx.TxIn {
				delete(unspent, in.PreviousOutPoint)
			}
		}
	}
	return unspent
}

// RunMempool checks what package mempool asks of a node, whose best chain is this one and whose
// mempool consists of transactions of its Unconfirmed. Doubted says that the node has a proof
// that the first of them was spent twice.
func RunMempool(t *testing.T, chain *Chain, txs []*wire.MsgTx, doubted bool, c mempool.Node) {
	t.Helper()
	ctx := t.Context()
	var want []chainhash.Hash
	for _, tx := range txs {
		want = append(want, tx.TxHash())
	}
	var got []chainhash.Hash
	if err := c.Mempool(ctx, len(txs), func(txid chainhash.Hash) { got = append(got, txid) }); err != nil {
		t.Fatal(err)
	}
	compare := func(a, b chainhash.Hash) int { return a.Compare(&b) }
	if sorted := slices.SortedFunc(slices.Values(want), compare); !slices.Equal(slices.SortedFunc(slices.Values(got), compare), sorted) {
		t.Errorf("the mempool is %v, want %v", got, sorted)
	}
	if len(txs) > 0 {
		if err := c.Mempool(ctx, len(txs)-1, func(chainhash.Hash) {}); !errors.Is(err, node.ErrUnsuitable) {
			t.Errorf("a mempool that is too long: %v, want %v", err, node.ErrUnsuitable)
		}
	}

	asked := append([]chainhash.Hash{{1}}, want...)
	raws, err := c.MempoolTxs(ctx, asked)
	if err != nil || len(raws) != len(asked) || raws[0] != nil {
		t.Fatalf("transactions: got %d, %v; want %d, and nothing for one of nobody's", len(raws), err, len(asked))
	}
	for i, tx := range txs {
		var raw bytes.Buffer
		check(tx.Serialize(&raw))
		if !bytes.Equal(raws[i+1], raw.Bytes()) {
			t.Errorf("transaction %v is %x, want %x", tx.TxHash(), raws[i+1], raw.Bytes())
		}
	}

	outs, outputs := []wire.OutPoint{{Hash: chainhash.Hash{1}}}, []protocol.Output{{}}
	for _, tx := range txs {
		outs, outputs = append(outs, wire.OutPoint{Hash: tx.TxHash()}), append(outputs, protocol.Output{})
	}
	var inOrder []wire.OutPoint
	unspent := chain.unspent()
	for out := range unspent {
		inOrder = append(inOrder, out)
	}
	slices.SortFunc(inOrder, func(a, b wire.OutPoint) int {
		if a.Hash != b.Hash {
			return compare(a.Hash, b.Hash)
		}
		return int(a.Index) - int(b.Index)
	})
	for _, out := range inOrder {
		outs, outputs = append(outs, out), append(outputs, unspent[out])
	}
	found, err := c.ConfirmedOutputs(ctx, outs)
	if err != nil || len(found) != len(outs) {
		t.Fatalf("unspent outputs: got %d, %v; want %d", len(found), err, len(outs))
	}
	for i, out := range outs {
		if !reflect.DeepEqual(found[i], outputs[i]) {
			t.Errorf("output %v is %+v, want %+v", out, found[i], outputs[i])
		}
	}

	if prover, ok := c.(mempool.Prover); ok {
		proven, err := prover.DoubleSpends(ctx)
		if err != nil && !errors.Is(err, node.ErrUnsuitable) {
			t.Fatal(err)
		}
		for _, txid := range want { // all depend on the first
			if slices.Contains(proven, txid) != doubted {
				t.Errorf("there are proofs of double spends of %v, want some: %v", proven, doubted)
			}
		}
	} else if doubted {
		t.Error("it keeps no proofs of double spends")
	}
}

// RunAnnounced checks that a node announces transactions that it is sent: as many as it takes
// until one comes, since any may be lost.
func RunAnnounced(t *testing.T, txs []*wire.MsgTx, send func(ctx context.Context, tx *wire.MsgTx) error, c mempool.Node) {
	t.Helper()
	announced := c.Announced()
	sent := make(map[chainhash.Hash]bool)
	for _, tx := range txs {
		if err := send(t.Context(), tx); err != nil {
			t.Fatal(err)
		}
		sent[tx.TxHash()] = true
		wait := time.After(time.Second)
		for waiting := true; waiting; {
			select {
			case raw := <-announced:
				if sent[chainhash.DoubleHashH(raw)] && c.Announces() != "" {
					return
				}
			case <-wait:
				waiting = false
			}
		}
	}
	t.Errorf("none of %d transactions was announced", len(txs))
}
