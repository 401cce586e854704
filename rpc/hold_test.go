package rpc_test

import (
	"context"
	"encoding/json"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/keyserver"
	"github.com/keytree-bch/keytree/keyserver/token"
	"github.com/keytree-bch/keytree/rpc"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// TestHold asks a keyserver on every wire before and after it is released.
func TestHold(t *testing.T) {
	dir := testDir(t)
	service, err := keyserver.Open(t.Context(), keyserver.Options{
		Domain: testDomain, Dir: filepath.Join(dir, "keyserver"), KeyFile: filepath.Join(dir, "key"), Tokens: token.Open{}, Log: zerolog.Nop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	released := make(chan struct{})
	wire := rpc.NewKeyserverServer(rpc.KeyserverConfig{Service: service, Hold: released, Log: zerolog.Nop()})
	server, err := rpc.NewServer(rpc.Config{Keyserver: service, Hold: released, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	wireListener, grpcListener, httpListener := listen(t), listen(t), listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 2)
	go func() { served <- wire.Serve(ctx, wireListener) }()
	go func() { served <- server.Serve(ctx, grpcListener, httpListener) }()
	defer func() {
		cancel()
		for range cap(served) {
			if err := <-served; err != nil {
				t.Error(err)
			}
		}
	}()
	conn, err := grpc.NewClient(grpcListener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	calls := keytreev1.NewKeyserverServiceClient(conn)

	for _, held := range []bool{true, false} {
		wantHTTP, wantGRPC, wantHealth := http.StatusOK, codes.OK, healthpb.HealthCheckResponse_SERVING
		if held {
			wantHTTP, wantGRPC, wantHealth = http.StatusServiceUnavailable, codes.Unavailable, healthpb.HealthCheckResponse_NOT_SERVING
		} else {
			close(released)
		}
		r, err := client.Post("http://"+wireListener.Addr().String()+"/", "application/json",
			strings.NewReader(`{"jsonrpc":"2.0","method":"KeyHashchain.FetchLastHashChain","params":{},"id":1}`))
		if err != nil {
			t.Fatal(err)
		}
		var answer struct{ Error struct{ Code int } }
		if err := json.NewDecoder(r.Body).Decode(&answer); err != nil || r.StatusCode != wantHTTP || (answer.Error.Code == rpc.CodeDown) != held {
			t.Errorf("held %v: JSON-RPC answers %s, code %d, %v", held, r.Status, answer.Error.Code, err)
		}
		r.Body.Close()
		for _, path := range []string{"/v1/keyserver/head", "/readyz"} {
			r, err := client.Get("http://" + httpListener.Addr().String() + path)
			if err != nil {
				t.Fatal(err)
			}
			if r.Body.Close(); r.StatusCode != wantHTTP {
				t.Errorf("held %v: %s answers %s", held, path, r.Status)
			}
		}
		if _, err := calls.GetCapabilities(t.Context(), &keytreev1.GetCapabilitiesRequest{}); status.Code(err) != wantGRPC {
			t.Errorf("held %v: gRPC answers %v", held, err)
		}
		entries, err := calls.StreamEntries(t.Context(), &keytreev1.StreamEntriesRequest{})
		if err == nil {
			_, err = entries.Recv()
		}
		if status.Code(err) != wantGRPC {
			t.Errorf("held %v: a gRPC stream answers %v", held, err)
		}
		health, err := healthpb.NewHealthClient(conn).Check(t.Context(),
			&healthpb.HealthCheckRequest{Service: keytreev1.KeyserverService_ServiceDesc.ServiceName})
		if err != nil || health.Status != wantHealth {
			t.Errorf("held %v: health is %v, %v", held, health, err)
		}
	}
}
