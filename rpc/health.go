package rpc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/keyserver"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// healthInterval is how late a health Watch may learn of a change. A Check is
// never late.
const healthInterval = time.Second

// healthService says whether the answers are about the node's present chain, and
// whether the keyserver works: gRPC's health protocol, for the server as a whole and
// for each service, and what /readyz answers.
type healthService struct {
	*health.Server
	graph     *graph.Graph // nil if none is served
	indexer   Indexer
	keyserver *keyserver.Service // nil if none is served
}

func newHealthService(c Config) *healthService {
	h := &healthService{Server: health.NewServer(), graph: c.Graph, indexer: c.Indexer, keyserver: c.Keyserver}
	h.refresh()
	return h
}

// unready says what is missing before all of the server may be relied on, "" if
// nothing.
func (h *healthService) unready() string {
	if problem := h.unreadyKeyserver(); problem != "" {
		return problem
	}
	return h.unreadyGraph()
}

func (h *healthService) unreadyKeyserver() string {
	if h.keyserver == nil {
		return ""
	}
	switch err := h.keyserver.Ready(); {
	case err == nil:
		return ""
	case errors.Is(err, keyserver.ErrHeld):
		return err.Error()
	}
	return "the keyserver has failed" // what a disk says is not for clients
}

func (h *healthService) unreadyGraph() string {
	if h.graph == nil {
		return ""
	}
	tip, ok := h.graph.Tip()
	state := h.indexer.Status()
	switch {
	case !ok:
		return "no block is indexed yet"
	case !state.Checked:
		return "the stored blocks have not been compared with the node's yet"
	case !state.Synced:
		return fmt.Sprintf("not synced: block %d is indexed, the node is at %d: %s", tip.Height, state.NodeHeight, state.Reason)
	}
	return ""
}

func (h *healthService) refresh() {
	h.set("", h.unready())
	if h.graph != nil {
		problem := h.unreadyGraph()
		h.set(keytreev1.IdentityService_ServiceDesc.ServiceName, problem)
		h.set(keytreev1.AnchorService_ServiceDesc.ServiceName, problem)
	}
	if h.keyserver != nil {
		h.set(keytreev1.KeyserverService_ServiceDesc.ServiceName, h.unreadyKeyserver())
	}
}

func (h *healthService) set(service, problem string) {
	state := healthpb.HealthCheckResponse_SERVING
	if problem != "" {
		state = healthpb.HealthCheckResponse_NOT_SERVING
	}
	h.SetServingStatus(service, state)
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
