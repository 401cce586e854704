// Package coinstest tests sources of coins: one suite that all of them run, and the servers
// that some of them ask, an Electrum server and a BCHN, imitated on a real bchd.
package coinstest

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/indexer/coins"
	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/protocol"
)

// Access is what is tested.
type Access interface {
	coins.Source
	coins.Sender
}

// World is a network with what is tested, for one goroutine.
type World struct {
	Access
	Name string // another one for each run on the same network
	// Faucet is a key that each of the last hundred blocks and more has paid. Nobody else
	// spends its coins.
	Faucet *regtest.Key
	// Mine makes blocks that confirm what is in the mempool, and pay the faucet.
	Mine func(ctx context.Context, count uint32) error
	// Tokens says that the network knows tokens.
	Tokens bool
	// Unindexed says that transactions are forgotten once they are spent.
	Unindexed bool

	t *testing.T
}

// Run runs the suite.
func Run(t *testing.T, w World) {
	w.t = t
	key := regtest.KeyFromSeed("coinstest " + w.Name)
	ctx := t.Context()
	w.want(key)

	funding := w.pay(regtest.KeyFromSeed("somebody").Output(1000), key.Output(20_000), key.Output(30_000))
	out := wire.OutPoint{Hash: funding.TxHash(), Index: 1}
	large := wire.OutPoint{Hash: funding.TxHash(), Index: 2}
	w.want(key, out, large)
	for mined := range 2 {
		for _, c := range w.coins(key) {
			if c.Value != funding.TxOut[c.OutPoint.Index].Value || string(c.Script) != string(key.Script()) || c.HasToken || c.Immature {
				t.Errorf("a coin is said to be %+v", c)
			}
			if (c.Height > 0) != (mined > 0) {
				t.Errorf("%v is said to be at height %d after %d blocks", c.OutPoint, c.Height, mined)
			}
		}
		w.mine(1)
	}
	w.immature()

	t.Log("an action, sent again and again")
	script := must[[]byte](t)(protocol.RequestScript(protocol.KeyHash{1}, []byte("hello")))
	poor := must[*protocol.RecordTx](t)(protocol.NewRecordTx(script, w.spendable(key), key.Hash(), 0))
	check(t, poor.Sign(key.PrivateKey()))
	if err := w.Submit(ctx, poor.Raw()); !errors.Is(err, node.ErrFee) {
		t.Errorf("without a fee: got %v, want %v", err, node.ErrFee)
	}
	request := must[*protocol.RecordTx](t)(protocol.NewLinkTx(script, protocol.Funding{Author: key.Hash(), UTXOs: w.spendable(key)}))
	if request.Spends[0].OutPoint != large || len(request.Spends) != 1 {
		t.Fatalf("the request spends %v, want the largest coin, %v", request.Spends, large)
	}
	check(t, request.Sign(key.PrivateKey()))
	check(t, w.Submit(ctx, request.Raw()))
	check(t, w.Submit(ctx, request.Raw()))
	change := wire.OutPoint{Hash: request.TxID()}
	w.want(key, out, change)
	w.mine(1)
	check(t, w.Submit(ctx, request.Raw()))
	w.want(key, out, change)
	if unspent := must[bool](t)(w.Unspent(ctx, large)); unspent {
		t.Errorf("%v is unspent, although %v spends it", large, change.Hash)
	}
	twice := must[*protocol.RecordTx](t)(protocol.NewRecordTx(script, request.Spends, protocol.KeyHash{2}, 1))
	check(t, twice.Sign(key.PrivateKey()))
	if err := w.Submit(ctx, twice.Raw()); !errors.Is(err, node.ErrRejected) || errors.Is(err, node.ErrFee) {
		t.Errorf("a coin spent twice: got %v, want %v", err, node.ErrRejected)
	}

	t.Log("a baton")
	record := must[[]byte](t)((&protocol.Anchor{Domain: "keys.example.org"}).Script())
	anchor := must[*protocol.RecordTx](t)(protocol.NewRecordTx(record, w.spendable(key)[:1], key.Hash(), 2))
	check(t, anchor.Sign(key.PrivateKey()))
	check(t, w.Submit(ctx, anchor.Raw()))
	baton := wire.OutPoint{Hash: anchor.TxID()}
	for range 2 {
		utxos, batons, err := coins.Spendable(ctx, w, key.Hash())
		check(t, err)
		if len(utxos) != 1 || len(batons) != 1 || batons[0].OutPoint != baton {
			t.Errorf("spendable are %+v, batons %+v, want %v as the one baton", utxos, batons, baton)
		}
		w.mine(1)
	}
	left := w.spendable(key)
	w.refuse(key, "the baton", protocol.UTXO{OutPoint: baton, Value: anchor.Change()})

	t.Log("coins that are named")
	if got := must[[]protocol.UTXO](t)(coins.Named(ctx, w, key.Hash(), left)); len(got) != 1 || got[0].OutPoint != left[0].OutPoint || got[0].Value != left[0].Value {
		t.Errorf("named are %+v, want %+v", got, left)
	}
	w.refuse(key, "satoshi", protocol.UTXO{OutPoint: left[0].OutPoint, Value: left[0].Value + 1})
	w.refuse(key, "spent", protocol.UTXO{OutPoint: large, Value: 30_000})
	w.refuse(key, "not there", protocol.UTXO{OutPoint: wire.OutPoint{Hash: chainhash.Hash{9}}, Value: 1000})
	w.refuse(key, "does not belong", protocol.UTXO{OutPoint: wire.OutPoint{Hash: funding.TxHash()}, Value: 1000})
	if w.Tokens {
		w.tokens(key)
	}

	if _, err := w.Transaction(ctx, chainhash.Hash{9}); !errors.Is(err, node.ErrNotFound) {
		t.Errorf("no transaction: got %v, want %v", err, node.ErrNotFound)
	}
	for _, tx := range []*protocol.RecordTx{request, anchor} {
		if tx == request && w.Unindexed {
			continue
		}
		if raw := must[[]byte](t)(w.Transaction(ctx, tx.TxID())); string(raw) != string(tx.Raw()) {
			t.Errorf("transaction %v is %x", tx.TxID(), raw)
		}
	}
}

// tokens pays a key an output with a token, which is not to be spent.
func (w World) tokens(key *regtest.Key) {
	w.t.Helper()
	before := w.spendable(key)
	category := w.pay(w.Faucet.Output(100_000)) // its output 0 makes a token of its txid
	coin := regtest.CoinOf(category, 0)
	tx := wire.NewMsgTx(2)
	tx.AddTxIn(wire.NewTxIn(&coin.OutPoint, nil))
	output := key.Output(5000)
	output.TokenData = wire.TokenData{CategoryID: coin.OutPoint.Hash, BitField: wire.HAS_AMOUNT, Amount: 7}
	tx.AddTxOut(output)
	tx.TxIn[0].SignatureScript = must[[]byte](w.t)(w.Faucet.Sign(tx, 0, coin, 0))
	check(w.t, w.Submit(w.t.Context(), serialize(tx)))
	for range 2 {
		if after := w.spendable(key); len(after) != len(before) {
			w.t.Errorf("spendable are %+v, want %+v, without the token", after, before)
		}
		w.refuse(key, "tokens", protocol.UTXO{OutPoint: wire.OutPoint{Hash: tx.TxHash()}, Value: 5000})
		w.mine(1)
	}
}

// immature looks at the faucet's coinbases: a block can spend what is a hundred blocks
// older.
func (w World) immature() {
	w.t.Helper()
	immature, spendable := make(map[wire.OutPoint]bool), w.spendable(w.Faucet)
	for _, c := range w.coins(w.Faucet) {
		if c.Immature {
			immature[c.OutPoint] = true
		}
	}
	if len(immature) != 99 {
		w.t.Errorf("%d coins are immature, want those of the last 99 blocks", len(immature))
	}
	for _, u := range spendable {
		if immature[u.OutPoint] {
			w.t.Errorf("%v is spendable, and of an immature coinbase", u.OutPoint)
		}
	}
}

// pay pays outputs from the faucet, without a block.
func (w World) pay(outputs ...*wire.TxOut) *wire.MsgTx {
	w.t.Helper()
	from := w.spendable(w.Faucet)[0]
	tx := wire.NewMsgTx(2)
	tx.AddTxIn(wire.NewTxIn(&from.OutPoint, nil))
	left := from.Value - 2000
	for _, output := range outputs {
		tx.AddTxOut(output)
		left -= output.Value
	}
	tx.AddTxOut(w.Faucet.Output(left))
	coin := regtest.Coin{OutPoint: from.OutPoint, Output: *wire.NewTxOut(from.Value, from.Script, wire.TokenData{})}
	tx.TxIn[0].SignatureScript = must[[]byte](w.t)(w.Faucet.Sign(tx, 0, coin, 0))
	check(w.t, w.Submit(w.t.Context(), serialize(tx)))
	return tx
}

func (w World) coins(key *regtest.Key) []coins.Coin {
	w.t.Helper()
	return must[[]coins.Coin](w.t)(w.Coins(w.t.Context(), key.Hash()))
}

func (w World) spendable(key *regtest.Key) []protocol.UTXO {
	w.t.Helper()
	utxos, _, err := coins.Spendable(w.t.Context(), w, key.Hash())
	check(w.t, err)
	return utxos
}

// want checks which coins a key has, all of them unspent.
func (w World) want(key *regtest.Key, outs ...wire.OutPoint) {
	w.t.Helper()
	found := make(map[wire.OutPoint]bool)
	for _, c := range w.coins(key) {
		found[c.OutPoint] = true
	}
	for _, out := range outs {
		if !found[out] || !must[bool](w.t)(w.Unspent(w.t.Context(), out)) {
			w.t.Errorf("%v is no coin of the key, or not unspent", out)
		}
	}
	if len(found) != len(outs) {
		w.t.Errorf("the coins are %v, want %v", found, outs)
	}
}

// refuse names a coin that is to be refused.
func (w World) refuse(key *regtest.Key, why string, named protocol.UTXO) {
	w.t.Helper()
	if _, err := coins.Named(w.t.Context(), w, key.Hash(), []protocol.UTXO{named}); !errors.Is(err, coins.ErrCoin) || !contains(err, why) {
		w.t.Errorf("%v: got %v, want %v for %q", named.OutPoint, err, coins.ErrCoin, why)
	}
}

func (w World) mine(count uint32) {
	w.t.Helper()
	check(w.t, w.Mine(w.t.Context(), count))
}

func contains(err error, words string) bool {
	return err != nil && strings.Contains(err.Error(), words)
}

func serialize(tx *wire.MsgTx) []byte {
	var raw bytes.Buffer
	if err := tx.Serialize(&raw); err != nil {
		panic(err) // a Buffer does not fail
	}
	return raw.Bytes()
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		check(t, err)
		return v
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
