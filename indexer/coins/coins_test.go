package coins_test

import (
	"context"
	"errors"
	"reflect"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/indexer/coins"
	"github.com/keytree-bch/keytree/indexer/node"
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

func (m memory) Unspent(_ context.Context, out wire.OutPoint) (bool, error) {
	_, ok := m.txs[out.Hash]
	return ok, nil
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
		m.coins = append(m.coins, coins.Coin{UTXO: protocol.UTXO{OutPoint: out, Value: int64(funds[0].OutPoint.Index)}, Immature: immature})
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
	add(request, 1, false)
	m.coins[len(m.coins)-1].HasToken = true
	utxos, batons, err := coins.Spendable(t.Context(), m, protocol.KeyHash{})
	if err != nil {
		t.Fatal(err)
	}
	if want := []protocol.UTXO{{OutPoint: beside, Value: 3}, {OutPoint: plain, Value: 1}}; !reflect.DeepEqual(utxos, want) {
		t.Errorf("spendable are %v, expected %v", utxos, want)
	}
	if want := []protocol.UTXO{{OutPoint: baton, Value: 2}}; !reflect.DeepEqual(batons, want) {
		t.Errorf("batons are %v, expected %v", batons, want)
	}
	delete(m.txs, plain.Hash)
	if _, _, err := coins.Spendable(t.Context(), m, protocol.KeyHash{}); !errors.Is(err, node.ErrNotFound) {
		t.Errorf("without a transaction: got %v, expected %v", err, node.ErrNotFound)
	}
}
