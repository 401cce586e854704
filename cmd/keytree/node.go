package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/gcash/bchd/chaincfg"
	"github.com/rs/zerolog"
	"github.com/spf13/pflag"

	"github.com/keytree-bch/keytree/indexer/mempool"
	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/bchd"
	"github.com/keytree-bch/keytree/indexer/node/bitcoind"
	"github.com/keytree-bch/keytree/keyserver/audit/sources"
)

// nodeURLForms are the URLs of the nodes that keytree can follow.
const nodeURLForms = bchd.URLForm + ", " + bitcoind.URLForm

// nodeConfig is a node as its URL describes it: one of its fields is set, and
// the network is left out.
type nodeConfig struct {
	bchd     *bchd.Config
	bitcoind *bitcoind.Config
}

// parseNodeURL chooses the kind of node by the URL's scheme.
func parseNodeURL(s string) (nodeConfig, error) {
	switch scheme, _, _ := strings.Cut(s, "://"); scheme {
	case "bchd":
		c, err := bchd.ParseURL(s)
		return nodeConfig{bchd: &c}, err
	case "http", "https":
		c, err := bitcoind.ParseURL(s)
		return nodeConfig{bitcoind: &c}, err
	}
	return nodeConfig{}, fmt.Errorf("node URL begins with none of bchd://, http:// and https://: expected one of %s", nodeURLForms)
}

// address returns HOST:PORT, without a secret.
func (c nodeConfig) address() string {
	if c.bchd != nil {
		return c.bchd.Address
	}
	return c.bitcoind.Address
}

// openNode is a connection to a node that can be followed, with its mempool, and asked what
// an auditor asks.
type openNode interface {
	node.Node
	mempool.Node
	sources.NodeClient
	Close() error
}

// dial connects to the node, of which blocks from height from on will be needed,
// and waits for it as long as it takes.
func (c nodeConfig) dial(ctx context.Context, network *chaincfg.Params, from uint32, log zerolog.Logger) (openNode, error) {
	if c.bchd != nil {
		config := *c.bchd
		config.Network, config.Log = network, log
		return bchd.Dial(ctx, config)
	}
	config := *c.bitcoind
	config.Network, config.From, config.Log = network, from, log
	return bitcoind.Dial(ctx, config)
}

// nodeFlag is the flag --node, whose value may hold a password: it never shows
// itself.
type nodeFlag struct{ *parsed[nodeConfig] }

// String implements pflag.Value.
func (f nodeFlag) String() string {
	if f.parsed == nil || f.text == "" {
		return ""
	}
	return f.value.address()
}

func newNodeFlag(flags *pflag.FlagSet, usage string) nodeFlag {
	f := nodeFlag{newParsed("URL", "", parseNodeURL)}
	flags.Var(f, "node", usage)
	setting(flags, "node")
	return f
}
