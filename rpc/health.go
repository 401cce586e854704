package rpc

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/keytree-bch/keytree/graph"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// healthInterval is how late a health Watch may learn of a change. A Check is
// never late.
const healthInterval = time.Second

// healthService says whether the answers are about the node's present chain:
// gRPC's health protocol, for the server as a whole and for IdentityService, and
// what /readyz answers.
type healthService struct {
	*health.Server
	graph   *graph.Graph
	indexer Indexer
}

func newHealthService(g *graph.Graph, i Indexer) *healthService {
	h := &healthService{Server: health.NewServer(), graph: g, indexer: i}
	h.refresh()
	return h
}

// unready says what is missing before the server may be relied on, "" if
// nothing.
func (h *healthService) unready() string {
	tip, ok := h.graph.Tip()
	state := h.indexer.Status()
	switch {
	case !ok:
		return "no block is indexed yet"
	case !state.Checked:
		return "the stored blocks have not been compared with the node's yet"
	case !state.Synced:
		return fmt.Sprintf("not synced: block %d is indexed, the node is at %d", tip.Height, state.NodeHeight)
	}
	return ""
}

func (h *healthService) refresh() {
	state := healthpb.HealthCheckResponse_SERVING
	if h.unready() != "" {
		state = healthpb.HealthCheckResponse_NOT_SERVING
	}
	h.SetServingStatus("", state)
	h.SetServingStatus(keytreev1.IdentityService_ServiceDesc.ServiceName, state)
}

// follow keeps the state that Watch streams see up to date until ctx is done.
func (h *healthService) follow(ctx context.Context) {
	ticker := time.NewTicker(healthInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			h.refresh()
		}
	}
}

// Check implements the health protocol.
func (h *healthService) Check(ctx context.Context, request *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	h.refresh()
	return h.Server.Check(ctx, request)
}
