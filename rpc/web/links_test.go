package web_test

import (
	"context"
	"encoding/hex"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/indexer/coins"
	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/rpc/links"
)

// purse is a node on which every key has a coin, and which knows one transaction.
type purse struct{ known []byte }

// dial implements rpc.Config.DialLinks.
func (p purse) dial(context.Context) (*links.Access, error) {
	return &links.Access{Wallet: p, Indexed: true, Close: func() error { return nil }}, nil
}

// Coins implements coins.Source.
func (p purse) Coins(_ context.Context, key protocol.KeyHash) ([]coins.Coin, error) {
	return []coins.Coin{{UTXO: protocol.UTXO{OutPoint: wire.OutPoint{Index: 1}, Value: 10_000, Script: protocol.P2PKHScript(key)}, Height: 1}}, nil
}

// Transaction implements coins.Source.
func (p purse) Transaction(_ context.Context, txid chainhash.Hash) ([]byte, error) {
	if txid != chainhash.DoubleHashH(p.known) {
		return nil, node.ErrNotFound
	}
	return p.known, nil
}

// Unspent implements coins.Source.
func (p purse) Unspent(context.Context, wire.OutPoint) (bool, error) { return true, nil }

// Submit implements coins.Sender.
func (p purse) Submit(context.Context, []byte) error { return nil }

// someLink is a link request of nobody's.
func someLink(t *testing.T) *protocol.RecordTx {
	t.Helper()
	script, err := protocol.RequestScript(protocol.KeyHash{1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	key := protocol.KeyHash{2}
	coin := protocol.UTXO{OutPoint: wire.OutPoint{Index: 1}, Value: 10_000, Script: protocol.P2PKHScript(key)}
	tx, err := protocol.NewLinkTx(script, protocol.Funding{Author: key, UTXOs: []protocol.UTXO{coin}})
	if err != nil {
		t.Fatal(err)
	}
	return tx
}

func linkInHex(t *testing.T) string {
	t.Helper()
	return hex.EncodeToString(someLink(t).Raw())
}
