package bchd_test

import (
	"context"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/indexer/node/bchd"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/indexer/node/nodetest"
)

// TestSuite runs what every adapter has to do, on a real node.
func TestSuite(t *testing.T) {
	chain, _ := nodetest.NewChain()
	chain = chain.To(nodetest.TokensFrom - 1)
	n := regtest.ForTest(t, regtest.Options{NoAddrIndex: true})
	chain.SubmitTo(t, n)
	good := config(t, n)
	nodetest.Run(t, nodetest.Node{
		Chain: chain, Index: true,
		Dial: func(t *testing.T) nodetest.Client { return must[*bchd.Client](t)(bchd.Dial(t.Context(), good)) },
	})
	nodetest.RunCoins(t, chain, dial(t, good))
	nodetest.RunMempool(t, chain, nil, false, dial(t, good))
	txs := chain.Unconfirmed(10)
	for _, tx := range txs[:5] {
		check(t, n.SubmitTransaction(t.Context(), tx))
	}
	nodetest.RunMempool(t, chain, txs[:5], false, dial(t, good))
	nodetest.RunAnnounced(t, txs[5:], n.SubmitTransaction, dial(t, good))
	nodetest.RunLive(t, nodetest.Live{
		Chain: chain, Control: n, Address: good.Address, Hints: true,
		Dial: func(ctx context.Context, address string, retryFor time.Duration) (nodetest.Client, error) {
			cfg := good
			cfg.Address, cfg.RetryFor = address, retryFor
			return bchd.Dial(ctx, cfg)
		},
	})
}
