package bitcoind_test

import (
	"testing"

	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/indexer/node/nodetest"
)

// TestUnspentInMempool asks about outputs that only the mempool has, or spends. What
// blocks have is in nodetest.
func TestUnspentInMempool(t *testing.T) {
	chain, key := nodetest.Genesis(), regtest.NewKey()
	coinbase := chain.Mine(key).Transactions[0]
	spent := wire.OutPoint{Hash: coinbase.TxHash()}
	tx := wire.NewMsgTx(2)
	tx.AddTxIn(wire.NewTxIn(&spent, nil))
	tx.AddTxOut(wire.NewTxOut(1000, key.Script(), wire.TokenData{}))
	n := newBCHN(t)
	n.take(chain)
	n.mempool = []*wire.MsgTx{tx}
	c := dial(t, n.config())
	for out, want := range map[wire.OutPoint]struct{ chain, mempool bool }{
		spent:                         {true, false},
		{Hash: tx.TxHash()}:           {false, true},
		{Hash: tx.TxHash(), Index: 1}: {},
	} {
		chain, mempool := must[bool](t)(c.Unspent(t.Context(), out, false)), must[bool](t)(c.Unspent(t.Context(), out, true))
		if chain != want.chain || mempool != want.mempool {
			t.Errorf("output %v is unspent: %v in the chain, %v with the mempool, want %+v", out, chain, mempool, want)
		}
	}
}
