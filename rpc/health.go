package rpc

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/keyserver"
	"github.com/keytree-bch/keytree/rpc/identity"
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
	indexed       bool         // there is to be an index
	graph         *graph.Graph // nil if it could not be opened
	indexer       identity.Indexer
	index         *Part
	kept          bool // there is to be a keyserver
	keyserver     *keyserver.Service
	keyserverPart *Part
}

func newHealthService(c Config) *healthService {
	h := &healthService{
		Server:  health.NewServer(),
		indexed: c.Graph != nil || c.IndexPart.hasFailed(), graph: c.Graph, indexer: c.Indexer, index: c.IndexPart,
		kept: c.Keyserver != nil || c.KeyserverPart.hasFailed(), keyserver: c.Keyserver, keyserverPart: c.KeyserverPart,
	}
	h.refresh()
	return h
}

// readiness is what /readyz answers of a part.
type readiness struct {
	Ready  bool   `json:"ready"`
	Reason string `json:"reason"` // what is missing, "" if nothing
}

func readinessOf(problem string) readiness { return readiness{problem == "", problem} }

// readiness returns that of the whole, and of each part.
func (h *healthService) readiness() (all readiness, parts map[string]readiness) {
	parts = make(map[string]readiness)
	var problems []string
	if h.kept {
		parts["keyserver"] = readinessOf(h.unreadyKeyserver())
	}
	if h.indexed {
		parts["index"] = readinessOf(h.unreadyIndex())
	}
	for _, name := range slices.Sorted(maps.Keys(parts)) {
		if problem := parts[name].Reason; problem != "" {
			problems = append(problems, problem)
		}
	}
	return readinessOf(strings.Join(problems, "; ")), parts
}

func (h *healthService) unreadyKeyserver() string {
	if h.keyserverPart.hasFailed() {
		return keyserverFailed
	}
	switch err := h.keyserver.Ready(); {
	case err == nil && h.keyserver.Standby(): // it answers, but who balances loads is to choose the other
		return keyserver.ErrStandby.Error()
	case err == nil:
		return ""
	case errors.Is(err, keyserver.ErrHeld), errors.Is(err, keyserver.ErrUnavailable):
		return err.Error()
	}
	return keyserverFailed
}

func (h *healthService) unreadyIndex() string {
	if h.index.hasFailed() || h.graph.Err() != nil {
		return identity.Failed
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
	all, parts := h.readiness()
	h.set("", all)
	if index, ok := parts["index"]; ok {
		h.set(keytreev1.IdentityService_ServiceDesc.ServiceName, index)
		h.set(keytreev1.AnchorService_ServiceDesc.ServiceName, index)
		h.set(keytreev1.LinkService_ServiceDesc.ServiceName, index)
		h.set(keytreev1.SignInService_ServiceDesc.ServiceName, index)
	}
	if keyserver, ok := parts["keyserver"]; ok {
		h.set(keytreev1.KeyserverService_ServiceDesc.ServiceName, keyserver)
	}
}

func (h *healthService) set(service string, r readiness) {
	state := healthpb.HealthCheckResponse_SERVING
	if !r.Ready {
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
