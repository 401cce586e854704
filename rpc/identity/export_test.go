package identity

import (
	"github.com/gcash/bchd/chaincfg"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/graph"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// NewIdentityService returns the service without a network before it.
func NewIdentityService(g *graph.Graph, indexer Indexer) keytreev1.IdentityServiceServer {
	return New(Config{Graph: g, Indexer: indexer, Net: &chaincfg.RegressionNetParams, Log: zerolog.Nop()}).identities
}
