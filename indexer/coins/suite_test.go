package coins_test

import (
	"context"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/indexer/coins"
	"github.com/keytree-bch/keytree/indexer/coins/coinstest"
	"github.com/keytree-bch/keytree/indexer/coins/electrum"
	"github.com/keytree-bch/keytree/indexer/node/bchd"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/indexer/node/bitcoind"
)

// startBchd starts a bchd of 110 blocks, and returns a source that asks it.
func startBchd(t *testing.T) (*regtest.Node, *bchd.Client, *coins.Bchd) {
	t.Helper()
	n := regtest.ForTest(t, regtest.Options{Blocks: 110})
	config, err := bchd.ParseURL(n.URL())
	if err != nil {
		t.Fatal(err)
	}
	config.Network, config.Log = regtest.Params, zerolog.Nop()
	client, err := bchd.Dial(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return n, client, coins.NewBchd(client, regtest.Params)
}

// worldOf is the world of a bchd, in which another access to it is tested.
func worldOf(n *regtest.Node, name string, access coinstest.Access) coinstest.World {
	return coinstest.World{
		Access: access, Name: name, Faucet: n.Faucet(),
		Mine: func(ctx context.Context, count uint32) error { _, err := n.Mine(ctx, count); return err },
	}
}

// TestSuite asks a bchd, and in front of it Electrum servers of the oldest and the newest
// version, and the imitation of a BCHN.
func TestSuite(t *testing.T) {
	n, client, from := startBchd(t)
	ask := map[string]func(t *testing.T) coinstest.Access{
		"bchd": func(*testing.T) coinstest.Access { return from },
		"BCHN": func(t *testing.T) coinstest.Access {
			return coins.NewBitcoind(dialBitcoind(t, coinstest.ServeBCHN(t, n, from)), regtest.Params, func(string) {})
		},
	}
	for _, version := range []string{"1.4.5", "1.5.3"} {
		ask["Electrum "+version] = func(t *testing.T) coinstest.Access {
			server := &coinstest.ElectrumServer{Of: from, Height: heightOf(client), Version: version, Chatty: true}
			return coins.NewElectrum(dialElectrum(t, server.Serve(t)), regtest.Params)
		}
	}
	for name, access := range ask {
		t.Run(name, func(t *testing.T) { coinstest.Run(t, worldOf(n, name, access(t))) })
	}
}

func dialBitcoind(t *testing.T, url string) *bitcoind.Client {
	t.Helper()
	config, err := bitcoind.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	config.Network, config.Log = regtest.Params, zerolog.Nop()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client, err := bitcoind.Dial(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func heightOf(client *bchd.Client) func(context.Context) (uint32, error) {
	return func(ctx context.Context) (uint32, error) {
		tip, err := client.Tip(ctx)
		return tip.Height, err
	}
}

func dialElectrum(t *testing.T, address string) *electrum.Client {
	t.Helper()
	client, err := electrum.Dial(t.Context(), electrum.Config{Address: address, Network: regtest.Params, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}
