package identity

import (
	"net/http"

	"github.com/gcash/bchd/chaincfg"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/graph"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

func newServices(g *graph.Graph, indexer Indexer) *Services {
	return New(Config{Graph: g, Indexer: indexer, Net: &chaincfg.RegressionNetParams, Log: zerolog.Nop()})
}

// NewIdentityService returns the service without a network before it.
func NewIdentityService(g *graph.Graph, indexer Indexer) keytreev1.IdentityServiceServer {
	return newServices(g, indexer).identities
}

// NewAnchorService returns the service without a network before it.
func NewAnchorService(g *graph.Graph, indexer Indexer) keytreev1.AnchorServiceServer {
	return newServices(g, indexer).anchors
}

// NewExport returns what answers GET /v1/export without a network before it.
func NewExport(g *graph.Graph, indexer Indexer) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { newServices(g, indexer).identities.export(w, r, nil) }
}
