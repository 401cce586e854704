package main

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/rs/zerolog"
	"github.com/spf13/pflag"

	"github.com/keytree-bch/keytree/indexer/coins"
	"github.com/keytree-bch/keytree/indexer/coins/electrum"
	"github.com/keytree-bch/keytree/indexer/node/bchd"
	"github.com/keytree-bch/keytree/indexer/node/bitcoind"
	"github.com/keytree-bch/keytree/rpc/links"
)

// coinsForms are the values of --coins.
const coinsForms = "node, " + electrum.URLForm

// newCoinsFlag adds the flag that says who is asked for coins, nil being the node.
func newCoinsFlag(flags *pflag.FlagSet) *parsed[*electrum.Config] {
	p := newParsed("node|URL", "node", func(s string) (*electrum.Config, error) {
		if s == "node" {
			return nil, nil
		}
		if scheme, _, _ := strings.Cut(s, "://"); scheme != "electrum" && scheme != "electrums" {
			return nil, fmt.Errorf("expected one of %s, got %q", coinsForms, shortened(s))
		}
		config, err := electrum.ParseURL(s)
		return &config, err
	})
	flags.Var(p, "coins", "who tells what an address can spend: the node (a bchd by its --addrindex, a BCHN by a scan of its outputs), or an Electrum server such as Fulcrum: "+electrum.URLForm)
	setting(flags, "coins")
	return p
}

// coinsConfig says where coins come from, and where transactions go to.
type coinsConfig struct {
	node     nodeConfig       // the zero value: none
	electrum *electrum.Config // nil: the node is asked for coins
	network  *chaincfg.Params
	// retryFor is how long one question is tried.
	retryFor time.Duration
	// scans hears of each address for which a BCHN scans its outputs.
	scans func(address string)
	log   zerolog.Logger
}

// any reports whether there is anybody to ask.
func (c coinsConfig) any() bool { return c.node != (nodeConfig{}) || c.electrum != nil }

// wallet is where coins come from, and where transactions go to.
type wallet struct {
	coins.Source
	coins.Sender
	close []func() error
}

// Close ends the connections.
func (w *wallet) Close() error {
	var first error
	for _, c := range w.close {
		if err := c(); first == nil {
			first = err
		}
	}
	return first
}

// open connects to the node, the Electrum server, or both: then coins are the server's, as
// far as the node knows them, and the node sends.
func (c coinsConfig) open(ctx context.Context) (w *wallet, err error) {
	w = new(wallet)
	defer func() {
		if err != nil {
			w.Close()
		}
	}()
	switch {
	case c.node.bchd != nil:
		config := *c.node.bchd
		config.Network, config.Log, config.RetryFor = c.network, c.log, c.retryFor
		client, err := bchd.Dial(ctx, config)
		if err != nil {
			return w, err
		}
		w.close = append(w.close, client.Close)
		node := coins.NewBchd(client, c.network)
		w.Source, w.Sender = node, node
	case c.node.bitcoind != nil:
		config := *c.node.bitcoind
		config.Network, config.Log, config.RetryFor = c.network, c.log, c.retryFor
		config.From = math.MaxInt32 // it may be pruned
		client, err := bitcoind.Dial(ctx, config)
		if err != nil {
			return w, err
		}
		w.close = append(w.close, client.Close)
		node := coins.NewBitcoind(client, c.network, c.scans)
		w.Source, w.Sender = node, node
	}
	if c.electrum == nil {
		return w, nil
	}
	config := *c.electrum
	config.Network, config.Log, config.RetryFor = c.network, c.log, c.retryFor
	client, err := electrum.Dial(ctx, config)
	if err != nil {
		return w, err
	}
	w.close = append(w.close, client.Close)
	server := coins.NewElectrum(client, c.network)
	if w.Source == nil {
		w.Source, w.Sender = server, server
	} else {
		w.Source = coins.Witnessed{Source: server, Witness: w.Source}
	}
	return w, nil
}

// coinsConfig says where a server's coins come from, each question being tried for a while.
func (c serverConfig) coinsConfig(retryFor time.Duration) coinsConfig {
	return coinsConfig{
		node: c.node, electrum: c.electrum, network: c.network, retryFor: retryFor, log: c.log,
		scans: func(address string) {
			c.log.Info().Str("address", address).Msg("the node scans all unspent outputs for those of the address, which takes seconds on a large chain")
		},
	}
}

// linksRetry is how long one question about a link transaction is tried: a client waits.
const linksRetry = 5 * time.Second

// dialLinks connects to whom strangers' transactions are made and sent through. A BCHN is
// not asked for their coins, since it would scan for them.
func (c serverConfig) dialLinks(ctx context.Context) (*links.Access, error) {
	asked := c.coinsConfig(linksRetry)
	w, err := asked.open(ctx)
	if err != nil {
		return nil, err
	}
	return &links.Access{Wallet: w, Indexed: asked.electrum != nil || asked.node.bchd != nil, Close: w.Close}, nil
}
