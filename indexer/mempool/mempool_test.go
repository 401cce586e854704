package mempool_test

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/txscript"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/indexer/mempool"
	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/protocol"
)

// TestAuthors has an action reach the mempool in every way that tells, or does not tell, who
// it is by.
func TestAuthors(t *testing.T) {
	key, other, parent := regtest.NewKey(), regtest.NewKey(), regtest.NewKey()
	for name, test := range map[string]struct {
		txs    func(t *testing.T, w *world) []*wire.MsgTx // the last one acts
		author *regtest.Key
		open   bool // it could not be established
	}{
		"a coin of the chain": {author: key, txs: func(t *testing.T, w *world) []*wire.MsgTx {
			tx, _ := spend(t, key, w.coin(key, 100_000), request(t, parent))
			return []*wire.MsgTx{tx}
		}},
		"paid in the mempool": {author: key, txs: func(t *testing.T, w *world) []*wire.MsgTx {
			pays, _ := spend(t, other, w.coin(other, 200_000), key.Output(100_000))
			tx, _ := spend(t, key, regtest.CoinOf(pays, 1), request(t, parent))
			return []*wire.MsgTx{pays, tx}
		}},
		"a signature over all that is spent": {author: key, txs: func(t *testing.T, w *world) []*wire.MsgTx {
			pays, _ := spend(t, other, w.coin(other, 200_000), key.Output(100_000))
			tx := must(signedOverAll(key, w.coin(key, 5_000), regtest.CoinOf(pays, 1), request(t, parent)))(t)
			return []*wire.MsgTx{pays, tx}
		}},
		"one of these unknown": {open: true, txs: func(t *testing.T, w *world) []*wire.MsgTx {
			second := w.coin(key, 5_000)
			w.node.set(func(n *fakeNode) { delete(n.coins, second.OutPoint) })
			return []*wire.MsgTx{must(signedOverAll(key, w.coin(key, 5_000), second, request(t, parent)))(t)}
		}},
		"a coin that nobody has": {open: true, txs: func(t *testing.T, w *world) []*wire.MsgTx {
			coin := w.coin(key, 100_000)
			w.node.set(func(n *fakeNode) { clear(n.coins) })
			tx, _ := spend(t, key, coin, request(t, parent))
			return []*wire.MsgTx{tx}
		}},
		"a coin of another value than the node says": {open: true, txs: func(t *testing.T, w *world) []*wire.MsgTx {
			coin := w.coin(key, 100_000)
			tx, _ := spend(t, key, coin, request(t, parent))
			coin.Output.Value++
			w.confirmed(coin)
			return []*wire.MsgTx{tx}
		}},
		"the same, by a node with an index": {author: key, txs: func(t *testing.T, w *world) []*wire.MsgTx {
			before := wire.NewMsgTx(2)
			before.AddTxIn(wire.NewTxIn(&wire.OutPoint{Hash: chainhash.Hash{1}}, regtest.NewKey().PublicKey()))
			before.AddTxOut(key.Output(100_000))
			coin := regtest.CoinOf(before, 0)
			tx, _ := spend(t, key, coin, request(t, parent))
			coin.Output.Value++
			w.confirmed(coin)
			w.node.index = before
			return []*wire.MsgTx{tx}
		}},
		"a signature of somebody else's": {open: true, txs: func(t *testing.T, w *world) []*wire.MsgTx {
			tx, _ := spend(t, key, w.coin(key, 100_000), request(t, parent))
			tx.TxOut[0].Value-- // which it covers
			return []*wire.MsgTx{tx}
		}},
		"a coin that anybody can spend": {txs: func(t *testing.T, w *world) []*wire.MsgTx {
			coin := w.coin(key, 100_000)
			tx, _ := spend(t, key, coin, request(t, parent))
			coin.Output.PkScript = []byte{txscript.OP_2DROP, txscript.OP_1}
			w.confirmed(coin)
			return []*wire.MsgTx{tx}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, mempool.Options{})
			txs := test.txs(t, w)
			slices.Reverse(txs) // children before parents
			w.node.holds(txs...)
			w.run()
			b := w.supposed(func(b *graph.PendingBlock) bool { return b != nil && len(b.Actions) == 1 })
			got := b.Actions[0]
			switch {
			case got.TxID != txs[0].TxHash() || got.Kind != protocol.MLR:
				t.Errorf("the action is %+v", got)
			case test.author == nil && got.Author != nil:
				t.Errorf("its author is %x, want none", *got.Author)
			case test.author != nil && (got.Author == nil || *got.Author != test.author.Hash()):
				t.Errorf("its author is %v, want %x", got.Author, test.author.Hash())
			}
			if tip, _ := w.graph.Tip(); b.Height != tip.Height+1 || b.PrevHash != tip.Hash || !b.Coverage.Complete || b.Txs[got.TxID].Seen.IsZero() {
				t.Errorf("the block is %+v", b)
			}
			want := 0
			if test.open {
				want = 1
			}
			if s := w.await(func(s mempool.Status) bool { return s.Followed }); s.Unestablished != want || s.Shown != 1 || s.Transactions != len(txs) {
				t.Errorf("the status is %+v, want %d unestablished", s, want)
			}
		})
	}
}

// signedOverAll spends coins of a key's, the first by a signature that covers all of them
// (SIGHASH_UTXOS), the others not at all.
func signedOverAll(key *regtest.Key, first, second regtest.Coin, outputs ...*wire.TxOut) (*wire.MsgTx, error) {
	tx, err := regtest.NewTx([]regtest.Input{{Coin: first}, {Coin: second}}, outputs...)
	if err != nil {
		return nil, err
	}
	spent := txscript.NewUtxoCache()
	spent.AddEntry(0, first.Output)
	spent.AddEntry(1, second.Output)
	hashes := txscript.NewTxSigHashes(tx)
	hashes.AddTxSigHashUtxoFromUtxoCache(tx, spent)
	hashType := txscript.SigHashAll | txscript.SigHashForkID | txscript.SigHashUTXO
	digest, _, err := txscript.CalcSignatureHash(first.Output.PkScript, hashes, hashType, tx, 0, first.Output.Value, true)
	if err != nil {
		return nil, err
	}
	signature, err := key.PrivateKey().SignECDSA(digest)
	if err != nil {
		return nil, err
	}
	tx.TxIn[0].SignatureScript, err = txscript.NewScriptBuilder().AddData(append(signature.Serialize(), byte(hashType))).AddData(key.PublicKey()).Script()
	return tx, err
}

// TestAnchors has a chain of anchors in the mempool, listed in every order, of which the last
// baton is spent without a record.
func TestAnchors(t *testing.T) {
	key := regtest.NewKey()
	for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 2, 0}} {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			w := newWorld(t, mempool.Options{})
			genesis, baton := spend(t, key, w.coin(key, 100_000), anchor(t, 0))
			next, baton := spend(t, key, baton, anchor(t, 1))
			broken, _ := spend(t, key, baton)
			txs := []*wire.MsgTx{genesis, next, broken}
			w.node.holds(txs[order[0]], txs[order[1]], txs[order[2]])
			w.run()
			b := w.supposed(func(b *graph.PendingBlock) bool { return b != nil && len(b.Anchors) == 3 })
			for _, tx := range b.Anchors {
				carries := tx.Raw.TxID() != broken.TxHash()
				if carries != (tx.Author != nil) {
					t.Errorf("transaction %v is by %v", tx.Raw.TxID(), tx.Author)
				}
			}
		})
	}
}

// TestChanges has transactions come, leave, and be doubted.
func TestChanges(t *testing.T) {
	w := newWorld(t, mempool.Options{})
	child, parent := regtest.NewKey(), regtest.NewKey()
	asked, _ := spend(t, child, w.coin(child, 100_000), request(t, parent))
	accepted, _ := spend(t, parent, w.coin(parent, 100_000), accept(t, asked))
	w.run()
	w.supposed(func(b *graph.PendingBlock) bool { return b != nil && len(b.Txs) == 0 && b.Coverage.Complete })
	w.node.holds(asked)
	first := w.supposed(func(b *graph.PendingBlock) bool { return b != nil && len(b.Actions) == 1 })
	w.node.holds(accepted, asked)
	second := w.supposed(func(b *graph.PendingBlock) bool { return b != nil && len(b.Actions) == 2 })
	if !first.Txs[asked.TxHash()].Seen.Equal(second.Txs[asked.TxHash()].Seen) {
		t.Error("a transaction that stays is seen for the first time again")
	}
	w.node.set(func(n *fakeNode) { n.doubts = []chainhash.Hash{asked.TxHash(), {7}} })
	b := w.supposed(func(b *graph.PendingBlock) bool { return b != nil && b.Txs[asked.TxHash()].DoubleSpend })
	if b.Txs[accepted.TxHash()].DoubleSpend || len(b.Txs) != 2 {
		t.Errorf("doubted are %+v", b.Txs)
	}
	w.node.holds(accepted)
	w.supposed(func(b *graph.PendingBlock) bool { return b != nil && len(b.Actions) == 1 })
}

// TestElsewhere has the node's tip be another than the graph's, and the node fail.
func TestElsewhere(t *testing.T) {
	w := newWorld(t, mempool.Options{})
	key := regtest.NewKey()
	tx, _ := spend(t, key, w.coin(key, 100_000), request(t, regtest.NewKey()))
	w.node.holds(tx)
	w.run()
	shown := func(b *graph.PendingBlock) bool { return b != nil && len(b.Actions) == 1 }
	nothing := func(b *graph.PendingBlock) bool { return b == nil }
	w.supposed(shown)
	tip, _ := w.graph.Tip()
	for name, test := range map[string]struct{ breaks, mends func(*fakeNode) }{
		"another tip": {func(n *fakeNode) { n.tip = chainhash.Hash{9} }, func(n *fakeNode) { n.tip = tip.Hash }},
		"a failure": {
			func(n *fakeNode) { n.fails = fmt.Errorf("%w: %w", node.ErrUnavailable, errFake) },
			func(n *fakeNode) { n.fails = nil },
		},
	} {
		w.node.set(test.breaks)
		w.supposed(nothing)
		if s := w.await(func(s mempool.Status) bool { return !s.Followed }); s.Reason == "" {
			t.Errorf("%s: no reason is given", name)
		}
		w.node.set(test.mends)
		w.supposed(shown)
		w.await(func(s mempool.Status) bool { return s.Followed && s.Reason == "" })
	}
}

// TestAnnounced has what is announced be shown before the list is due, and what does not
// matter be fetched by nobody.
func TestAnnounced(t *testing.T) {
	w := newWorld(t, mempool.Options{Poll: time.Hour})
	key, other := regtest.NewKey(), regtest.NewKey()
	pays, _ := spend(t, other, w.coin(other, 100_000), key.Output(50_000))
	tx, _ := spend(t, key, regtest.CoinOf(pays, 1), request(t, other))
	w.run()
	w.await(func(s mempool.Status) bool { return s.Followed })
	w.node.holds(pays, tx)
	for _, raw := range [][]byte{nil, {1}, serialized(pays), serialized(tx)} {
		w.node.announced <- raw
	}
	b := w.supposed(func(b *graph.PendingBlock) bool { return b != nil && len(b.Actions) == 1 })
	if b.Actions[0].Author == nil {
		t.Error("it has no author")
	}
	w.node.set(func(n *fakeNode) {
		if n.fetched != 0 || n.missed != 0 {
			t.Errorf("%d transactions were fetched and %d missed that had been announced", n.fetched, n.missed)
		}
	})
}

// TestBounds lists more than is shown: the newest are left out, until there is room.
func TestBounds(t *testing.T) {
	const most, beyond = 20, 7
	w := newWorld(t, mempool.Options{MaxActions: most})
	var txs []*wire.MsgTx
	for range most + beyond {
		key := regtest.NewKey()
		tx, _ := spend(t, key, w.coin(key, 100_000), request(t, regtest.NewKey()))
		txs = append(txs, tx)
	}
	w.node.holds(txs[:most]...)
	w.run()
	w.supposed(func(b *graph.PendingBlock) bool { return b != nil && len(b.Actions) == most && b.Coverage.Omitted == 0 })
	for n := most + 1; n <= len(txs); n++ { // the newest first in the list
		list := slices.Clone(txs[:n])
		slices.Reverse(list)
		w.node.holds(list...)
		w.await(func(s mempool.Status) bool { return s.Omitted == n-most && s.Shown == most })
	}
	left := slices.Clone(txs[3:]) // three make room for the oldest three
	w.node.holds(left...)
	b := w.supposed(func(b *graph.PendingBlock) bool {
		return b != nil && b.Coverage.Omitted == beyond-3 && len(b.Actions) == most
	})
	for i, tx := range txs {
		if _, ok := b.Txs[tx.TxHash()]; ok != (i >= 3 && i < most+3) {
			t.Errorf("transaction %d is shown: %v", i, ok)
		}
	}
	if b.Coverage.Complete {
		t.Error("it is called complete")
	}
}

// TestLies has a node list what it does not have, give something else, and contradict itself.
func TestLies(t *testing.T) {
	w := newWorld(t, mempool.Options{})
	key, other := regtest.NewKey(), regtest.NewKey()
	coin := w.coin(key, 100_000)
	first, _ := spend(t, key, coin, request(t, other))
	second, _ := spend(t, key, coin, request(t, regtest.NewKey()))
	third, _ := spend(t, other, w.coin(other, 100_000), request(t, key))
	before, _ := w.graph.Tip()
	w.node.holds(first)
	w.run()
	w.supposed(func(b *graph.PendingBlock) bool { return b != nil && len(b.Actions) == 1 })
	w.node.holds(second, first, third)
	w.node.set(func(n *fakeNode) {
		n.raws[third.TxHash()] = serialized(first)
		n.order = append(n.order, chainhash.Hash{1}, chainhash.Hash{2}, first.TxHash()) // which it does not have, or has said
		n.raws[chainhash.Hash{2}] = make([]byte, protocol.MaxTxSize+1)
	})
	s := w.await(func(s mempool.Status) bool { return s.Conflicts == 1 && s.Unread == 3 })
	if s.Shown != 1 || s.Transactions != 5 {
		t.Errorf("the status is %+v", s)
	}
	w.node.holds(second, third) // so it was the second after all
	b := w.supposed(func(b *graph.PendingBlock) bool { return b != nil && len(b.Actions) == 2 })
	for _, tx := range []*wire.MsgTx{second, third} {
		if _, ok := b.Txs[tx.TxHash()]; !ok {
			t.Errorf("transaction %v is not shown", tx.TxHash())
		}
	}
	if after, _ := w.graph.Tip(); after != before {
		t.Errorf("the graph's tip was %+v and is %+v", before, after)
	}
}

// TestReplaced replaces the whole mempool before each list.
func TestReplaced(t *testing.T) {
	w := newWorld(t, mempool.Options{MaxActions: 50})
	key := regtest.NewKey()
	coin := w.coin(key, 100_000)
	lists := uint32(0)
	w.node.replaced = func() (txs []*wire.MsgTx) {
		lists++
		for i := range uint32(100) {
			tx := wire.NewMsgTx(2)
			tx.AddTxIn(wire.NewTxIn(&wire.OutPoint{Hash: coin.OutPoint.Hash, Index: i}, nil))
			tx.AddTxOut(request(t, key))
			tx.LockTime = lists
			txs = append(txs, tx)
		}
		return txs
	}
	w.run()
	for range 5 {
		b := w.supposed(func(b *graph.PendingBlock) bool { return b != nil && len(b.Actions) > 0 })
		if len(b.Actions) != 50 || b.Coverage.Omitted != 50 {
			t.Fatalf("%d actions are supposed, %d omitted", len(b.Actions), b.Coverage.Omitted)
		}
	}
	if s := w.follower.Status(); s.Transactions != 100 {
		t.Errorf("the status is %+v", s)
	}
}

// TestMany has a mempool of very many actions.
func TestMany(t *testing.T) {
	many := 2000
	if os.Getenv("KEYTREE_EXHAUSTIVE") != "" {
		many = 120_000
	}
	w := newWorld(t, mempool.Options{})
	key := regtest.NewKey()
	script := request(t, key)
	var txs []*wire.MsgTx
	for i := range many {
		tx := wire.NewMsgTx(2)
		tx.AddTxIn(wire.NewTxIn(&wire.OutPoint{Hash: chainhash.Hash{3}, Index: uint32(i)}, nil))
		tx.AddTxOut(script)
		txs = append(txs, tx)
	}
	w.node.holds(txs...)
	w.run()
	shown := min(many, mempool.DefaultMaxActions)
	b := w.supposed(func(b *graph.PendingBlock) bool {
		return b != nil && len(b.Actions) == shown && b.Coverage.Omitted == many-shown
	})
	if b.Coverage.Complete != (many == shown) {
		t.Errorf("its coverage is %+v", b.Coverage)
	}
	if s := w.await(func(s mempool.Status) bool { return s.Followed }); s.Shown != shown || s.Omitted != many-shown {
		t.Errorf("the status is %+v", s)
	}
	view, ok := w.graph.Pending()
	if !ok || view.Len() != shown {
		t.Fatalf("the graph has what is pending: %v", ok)
	}
	view.Close()
}

// TestNoRoom has a graph that has no room for all that is pending.
func TestNoRoom(t *testing.T) {
	w := newWorld(t, mempool.Options{})
	w.graph.room = 3
	var txs []*wire.MsgTx
	for range 10 {
		key := regtest.NewKey()
		tx, _ := spend(t, key, w.coin(key, 100_000), request(t, key))
		txs = append(txs, tx)
	}
	w.node.holds(txs...)
	w.run()
	b := w.supposed(func(b *graph.PendingBlock) bool { return b != nil && len(b.Actions) > 0 })
	if len(b.Actions)+b.Coverage.Omitted != len(txs) || b.Coverage.Complete {
		t.Errorf("%d are shown, the coverage is %+v", len(b.Actions), b.Coverage)
	}
	if s := w.await(func(s mempool.Status) bool { return s.Followed }); s.Omitted != b.Coverage.Omitted {
		t.Errorf("the status is %+v", s)
	}
}
