package rpc

import (
	"net/http"

	"github.com/gcash/bchd/chaincfg"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/graph"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// NewIdentityService returns the service without a network before it.
func NewIdentityService(g *graph.Graph, indexer Indexer) keytreev1.IdentityServiceServer {
	return &identityService{graphReader: graphReader{graph: g, indexer: indexer, net: &chaincfg.RegressionNetParams, log: zerolog.Nop()}}
}

// Handler returns what answers REST, without a network before it.
func (s *Server) Handler() http.Handler { return s.http.Handler }
