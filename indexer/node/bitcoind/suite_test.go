package bitcoind_test

import (
	"context"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/indexer/node/bitcoind"
	"github.com/keytree-bch/keytree/indexer/node/nodetest"
)

// TestSuiteBCHD runs what every adapter has to do, on a real bchd.
func TestSuiteBCHD(t *testing.T) {
	chain, _ := nodetest.NewChain()
	chain = chain.To(nodetest.TokensFrom - 1)
	n := regtest.ForTest(t, regtest.Options{NoAddrIndex: true})
	chain.SubmitTo(t, n)
	good := config(t, n)
	nodetest.Run(t, nodetest.Node{
		Chain: chain, Index: true,
		Dial: func(t *testing.T) nodetest.Client { return must[*bitcoind.Client](t)(bitcoind.Dial(t.Context(), good)) },
	})
	nodetest.RunLive(t, nodetest.Live{
		Chain: chain, Control: n, Address: good.Address,
		Dial: func(ctx context.Context, address string, retryFor time.Duration) (nodetest.Client, error) {
			cfg := good
			cfg.Address, cfg.RetryFor = address, retryFor
			return bitcoind.Dial(ctx, cfg)
		},
	})
}
