package coins_test

import (
	"context"
	"errors"
	"reflect"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/indexer/coins"
	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/bchd"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/protocol"
)

// memory is a source of coins that are given.
type memory struct {
	coins []coins.Coin
	txs   map[chainhash.Hash][]byte
}

func (m memory) Coins(context.Context, protocol.KeyHash) ([]coins.Coin, error) { return m.coins, nil }

func (m memory) Transaction(_ context.Context, txid chainhash.Hash) ([]byte, error) {
	if tx, ok := m.txs[txid]; ok {
		return tx, nil
	}
	return nil, node.ErrNotFound
}

// TestSpendable has a coin of each kind.
func TestSpendable(t *testing.T) {
	m := memory{txs: make(map[chainhash.Hash][]byte)}
	funds := []protocol.UTXO{{Value: 10_000, Script: protocol.P2PKHScript(protocol.KeyHash{})}}
	add := func(script []byte, index uint32, immature bool) wire.OutPoint {
		t.Helper()
		funds[0].OutPoint.Index++
		tx, err := protocol.NewRecordTx(script, funds, protocol.KeyHash{}, 1)
		if err != nil {
			t.Fatal(err)
		}
		out := wire.OutPoint{Hash: tx.TxID(), Index: index}
		m.txs[out.Hash] = tx.Raw()
		m.coins = append(m.coins, coins.Coin{UTXO: protocol.UTXO{OutPoint: out}, Immature: immature})
		return out
	}
	record, err := (&protocol.Anchor{Domain: "keys.example.org"}).Script()
	if err != nil {
		t.Fatal(err)
	}
	request, err := protocol.RequestScript(protocol.KeyHash{1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	plain, baton := add(request, 0, false), add(record, 0, false)
	beside := add(record, 2, false)
	add(request, 1, true)
	utxos, batons, err := coins.Spendable(t.Context(), m, protocol.KeyHash{})
	if err != nil {
		t.Fatal(err)
	}
	if want := []protocol.UTXO{{OutPoint: plain}, {OutPoint: beside}}; !reflect.DeepEqual(utxos, want) {
		t.Errorf("spendable are %v, expected %v", utxos, want)
	}
	if want := []protocol.UTXO{{OutPoint: baton}}; !reflect.DeepEqual(batons, want) {
		t.Errorf("batons are %v, expected %v", batons, want)
	}
	delete(m.txs, plain.Hash)
	if _, _, err := coins.Spendable(t.Context(), m, protocol.KeyHash{}); !errors.Is(err, node.ErrNotFound) {
		t.Errorf("without a transaction: got %v, expected %v", err, node.ErrNotFound)
	}
}

// TestBchd finds what the faucet of a private node has, and spends some of it.
func TestBchd(t *testing.T) {
	ctx := t.Context()
	n := regtest.ForTest(t, regtest.Options{Blocks: 110})
	config, err := bchd.ParseURL(n.URL())
	if err != nil {
		t.Fatal(err)
	}
	config.Network, config.Log = regtest.Params, zerolog.Nop()
	client, err := bchd.Dial(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	from := coins.NewBchd(client, regtest.Params)

	all, err := from.Coins(ctx, n.Faucet().Hash())
	if err != nil {
		t.Fatal(err)
	}
	immature := 0
	for _, c := range all {
		if c.Immature {
			immature++
		}
		// Block 111 can spend what is a hundred blocks old.
		if c.Immature != (c.Height > 11) || c.Height == 0 {
			t.Errorf("the coinbase of block %d is said to be immature: %v", c.Height, c.Immature)
		}
	}
	if len(all) != 110 || immature != 99 {
		t.Errorf("got %d coins, %d of them immature, expected 110 and 99", len(all), immature)
	}

	key := regtest.NewKey()
	paid, err := n.FundKey(ctx, key, 20_000)
	if err != nil {
		t.Fatal(err)
	}
	utxos, batons, err := coins.Spendable(ctx, from, key.Hash())
	if err != nil || len(utxos) != 1 || utxos[0].OutPoint != paid.OutPoint || utxos[0].Value != 20_000 || len(batons) > 0 {
		t.Fatalf("spendable are %+v, batons %v (%v)", utxos, batons, err)
	}
	script, err := protocol.RequestScript(protocol.KeyHash{1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	poor, err := protocol.NewRecordTx(script, utxos, key.Hash(), 0)
	if err == nil {
		err = poor.Sign(key.PrivateKey())
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := from.Submit(ctx, poor.Raw()); !errors.Is(err, node.ErrFee) {
		t.Errorf("without a fee: got %v, expected %v", err, node.ErrFee)
	}
	tx, err := protocol.NewLinkTx(script, protocol.Funding{Author: key.Hash(), UTXOs: utxos})
	if err == nil {
		err = tx.Sign(key.PrivateKey())
	}
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time it is there
		if err := from.Submit(ctx, tx.Raw()); err != nil {
			t.Fatal(err)
		}
	}
	if unspent, err := from.Unspent(ctx, paid.OutPoint); unspent || err != nil {
		t.Errorf("what the mempool spends: %v, %v", unspent, err)
	}
	if _, err := from.Transaction(ctx, tx.TxID()); err != nil {
		t.Error(err)
	}
}
