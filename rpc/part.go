package rpc

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/rpc/identity"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rest"
)

// Part is one of the two that a program runs, an index and a keyserver. Each fails by
// itself: calls of the one that has failed are refused, those of the other answered. The
// zero value lives. It may be used concurrently.
type Part struct{ failed atomic.Bool }

// Fail says that the part has failed, for as long as the program runs.
func (p *Part) Fail() { p.failed.Store(true) }

func (p *Part) hasFailed() bool { return p != nil && p.failed.Load() }

// keyserverFailed is what clients are told of a keyserver that has failed. What a disk says
// is not for them.
const keyserverFailed = "the keyserver has failed; the server's log has the cause"

var errKeyserverFailed = status.Error(codes.Unavailable, keyserverFailed)

// refusal returns why no call of the index, or of the keyserver, is answered; nil if
// calls are. An index that has ended answers what it knows, unless it is damaged.
func (h *healthService) refusal(ofKeyserver bool) error {
	switch {
	case ofKeyserver && h.keyserverPart.hasFailed():
		return errKeyserverFailed
	case !ofKeyserver && h.indexed && (h.graph == nil || h.graph.Err() != nil):
		return identity.ErrFailed
	}
	return nil
}

// refusalOf is refusal for a method of gRPC.
func (h *healthService) refusalOf(method string) error {
	service, _, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	switch service {
	case keytreev1.KeyserverService_ServiceDesc.ServiceName:
		return h.refusal(true)
	case keytreev1.IdentityService_ServiceDesc.ServiceName, keytreev1.AnchorService_ServiceDesc.ServiceName,
		keytreev1.SignInService_ServiceDesc.ServiceName:
		return h.refusal(false)
	}
	return nil
}

// unary refuses calls of a part that has failed.
func (h *healthService) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := h.refusalOf(info.FullMethod); err != nil {
		return nil, err
	}
	return handler(ctx, request)
}

// stream refuses calls of a part that has failed.
func (h *healthService) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if err := h.refusalOf(info.FullMethod); err != nil {
		return err
	}
	return handler(srv, stream)
}

// rest refuses calls of a part that has failed.
func (h *healthService) rest(next runtime.HandlerFunc) runtime.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request, path map[string]string) {
		if strings.HasPrefix(r.URL.Path, "/v1/") {
			if err := h.refusal(strings.HasPrefix(r.URL.Path, rest.KeyserverPath)); err != nil {
				refuse(w, r, http.StatusServiceUnavailable, err)
				return
			}
		}
		next(w, r, path)
	}
}
