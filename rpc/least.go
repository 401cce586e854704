package rpc

import (
	"context"
	"net/http"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/rpc/identity"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rest"
)

// awaited has requests that are about the graph wait for the block that they name, before anything is said to caches.
type awaited struct{ services *identity.Services }

// awaits has a call of gRPC wait, unless it is the keyserver's, or about the server.
func (a awaited) awaits(ctx context.Context, method string) error {
	if values := metadata.ValueFromIncomingContext(ctx, identity.MinHeight); len(values) > 0 && ofGraph(method) {
		return a.services.Await(ctx, values[0])
	}
	return nil
}

// ofGraph tells whether a method of gRPC is about the graph.
func ofGraph(method string) bool {
	service, _, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	switch service {
	case keytreev1.IdentityService_ServiceDesc.ServiceName, keytreev1.AnchorService_ServiceDesc.ServiceName, keytreev1.LinkService_ServiceDesc.ServiceName:
		return true
	}
	return false
}

func (a awaited) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := a.awaits(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	return handler(ctx, request)
}

func (a awaited) stream(service any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if err := a.awaits(stream.Context(), info.FullMethod); err != nil {
		return err
	}
	return handler(service, stream)
}

// rest has a request over REST wait.
func (a awaited) rest(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if named := r.Header.Get(identity.MinHeight); named != "" && strings.HasPrefix(r.URL.Path, "/v1/") && !strings.HasPrefix(r.URL.Path, rest.KeyserverPath) {
			if err := a.services.Await(r.Context(), named); err != nil {
				w.Header().Set("Cache-Control", "no-store")
				rest.WriteError(w, runtime.HTTPStatusFromCode(status.Code(err)), err)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}
