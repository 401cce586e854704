package rpc_test

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/gcash/bchd/chaincfg"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/indexer"
	"github.com/keytree-bch/keytree/rpc"
	"github.com/keytree-bch/keytree/rpc/admission"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestHealthAndReadiness(t *testing.T) {
	r := rpctest.New(t)
	check := func(wantHealth healthpb.HealthCheckResponse_ServingStatus, wantCode int, wantReason string) {
		t.Helper()
		for _, service := range []string{"", "keytree.v1.IdentityService", "keytree.v1.AnchorService", "keytree.v1.LinkService", "keytree.v1.SignInService"} {
			got, err := healthpb.NewHealthClient(r.Conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: service})
			if err != nil || got.Status != wantHealth {
				t.Errorf("health of %q: %v, %v; want %v", service, got, err, wantHealth)
			}
		}
		response, answer := r.REST(t, "GET", "/readyz", "")
		if response.StatusCode != wantCode || answer["reason"] != wantReason || answer["ready"] != (wantReason == "") {
			t.Errorf("/readyz: %d %v, want %d and reason %q", response.StatusCode, answer, wantCode, wantReason)
		}
		if response, answer := r.REST(t, "GET", "/healthz", ""); response.StatusCode != 200 || answer["status"] != "ok" {
			t.Errorf("/healthz: %d %v", response.StatusCode, answer)
		}
	}
	check(healthpb.HealthCheckResponse_NOT_SERVING, 503, "no block is indexed yet")

	r.Connect(t, (&rpctest.Chain{}).Block())
	check(healthpb.HealthCheckResponse_SERVING, 200, "")

	r.Follower.Set(indexer.Status{Checked: true, NodeHeight: 9, Reason: "catching up"})
	check(healthpb.HealthCheckResponse_NOT_SERVING, 503, "not synced: block 0 is indexed, the node is at 9: catching up")

	r.Follower.Set(indexer.Status{NodeHeight: 9})
	check(healthpb.HealthCheckResponse_NOT_SERVING, 503, "the stored blocks have not been compared with the node's yet")

	if _, err := healthpb.NewHealthClient(r.Conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: "other"}); status.Code(err) != codes.NotFound {
		t.Errorf("health of another service: %v, want NotFound", err)
	}
}

func TestReflectionListsTheServices(t *testing.T) {
	r := rpctest.New(t)
	stream, err := reflectionpb.NewServerReflectionClient(r.Conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}})
	if err != nil {
		t.Fatal(err)
	}
	answer, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, service := range answer.GetListServicesResponse().GetService() {
		names = append(names, service.Name)
	}
	for _, want := range []string{"keytree.v1.IdentityService", "keytree.v1.AnchorService", "keytree.v1.LinkService", "keytree.v1.SignInService"} {
		if !slices.Contains(names, want) {
			t.Errorf("reflection lists %v, and not %s", names, want)
		}
	}
}

// TestUnavailable asks everything of a server that must not answer yet.
// TestReflectionIsWork asks many questions in one stream of reflection: each counts as a call.
func TestReflectionIsWork(t *testing.T) {
	limits := admission.DefaultLimits()
	limits.Work = admission.Budget{All: 1000, One: 1} // ten at once
	r := rpctest.NewOf(t, rpc.Config{Admission: admission.New(admission.Config{Limits: limits})})
	stream, err := reflectionpb.NewServerReflectionClient(r.Conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const asked = 10_000 // more than there are to be had while it is asked
	answered := 0
	for ; err == nil && answered < asked; answered++ {
		err = stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}})
		if err == nil || errors.Is(err, io.EOF) { // then receiving says why
			_, err = stream.Recv()
		}
	}
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("after %d answers: %v, want RESOURCE_EXHAUSTED", answered, err)
	}
}

func TestUnavailable(t *testing.T) {
	for name, test := range map[string]struct {
		blocks []graph.Block
		status indexer.Status
		says   string
	}{
		"before the first block":       {nil, indexer.Status{Checked: true}, "no block is indexed yet"},
		"before the start-up check":    {[]graph.Block{(&rpctest.Chain{}).Block()}, indexer.Status{}, "not been compared"},
		"before either of the two was": {nil, indexer.Status{}, "not been compared"},
	} {
		t.Run(name, func(t *testing.T) {
			r := rpctest.New(t, test.blocks...)
			r.Follower.Set(test.status)
			for _, path := range []string{
				"/v1/addresses/" + rpctest.Address("a"),
				"/v1/addresses/" + rpctest.Address("a") + "/actions",
				"/v1/addresses/" + rpctest.Address("a") + "/requests",
				"/v1/addresses/" + rpctest.Address("a") + "/links",
				"/v1/identities/" + rpctest.HashOf("tx").String() + "?at_height=0",
				"/v1/identities/" + rpctest.HashOf("tx").String() + "/keys",
				"/v1/actions/" + rpctest.HashOf("tx").String(),
				"/v1/events",
				"/v1/anchors?domain=example.org",
				"/v1/anchors/chains?domain=example.org",
				"/v1/anchors/chains/" + rpctest.HashOf("tx").String(),
				"/v1/anchors/chains/" + rpctest.HashOf("tx").String() + "/bundle",
				"/v1/anchors/txs/" + rpctest.HashOf("tx").String(),
			} {
				response, answer := r.REST(t, "GET", path, "")
				if message, _ := answer["message"].(string); response.StatusCode != 503 || !strings.Contains(message, test.says) {
					t.Errorf("%s: %d %v, want 503 and %q", path, response.StatusCode, answer, test.says)
				}
			}
			stream, err := r.Client.Watch(t.Context(), &keytreev1.WatchRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := stream.Recv(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), test.says) {
				t.Errorf("Watch: %v, want Unavailable and %q", err, test.says)
			}
			got, err := r.Client.GetStatus(t.Context(), &keytreev1.GetStatusRequest{})
			if err != nil || got.Network != "regtest" || got.Synced || (got.TipHash == "") != (test.blocks == nil) {
				t.Errorf("status: %v, %v", got, err)
			}
		})
	}
}

// TestShutdownEndsEverything stops a server with idle streams and connections
// open. The streams end by the server's word, not by a broken connection.
func TestShutdownEndsEverything(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	t.Run("with streams open", func(t *testing.T) {
		r := rpctest.New(t, (&rpctest.Chain{}).Block())
		watch, err := r.Client.Watch(t.Context(), &keytreev1.WatchRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := watch.Header(); err != nil {
			t.Fatal(err)
		}
		health, err := healthpb.NewHealthClient(r.Conn).Watch(t.Context(), &healthpb.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := health.Recv(); err != nil {
			t.Fatal(err)
		}
		r.REST(t, "GET", "/healthz", "") // leaves an idle connection

		r.Stop()
		_, watchErr := watch.Recv()
		for err == nil { // its last states come first
			_, err = health.Recv()
		}
		for name, err := range map[string]error{"Watch": watchErr, "health Watch": err} {
			if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "the server is shutting down") {
				t.Errorf("%s ended with %v, want Unavailable by the server's word", name, err)
			}
		}
	})
}

// TestShutdownWithAStuckClient stops a server that has more to send than a client
// takes. It ends when the grace is over.
func TestShutdownWithAStuckClient(t *testing.T) {
	t.Parallel() // with other tests: it waits for the grace
	c := &rpctest.Chain{}
	var requests []links.Action
	for i := range 5000 {
		requests = append(requests, rpctest.MLR(fmt.Sprint("r", i), fmt.Sprint("c", i), "parent", ""))
	}
	r := rpctest.New(t, c.Block(requests...))
	stream, err := r.Client.Watch(t.Context(), &keytreev1.WatchRequest{FromHeight: new(uint32)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil {
		t.Fatal(err)
	}
	r.Stop()
	for {
		message, err := stream.Recv()
		if err != nil {
			break
		}
		if !message.Block.More {
			t.Fatal("the client got all of the block: it was not stuck")
		}
	}
}

func TestServeReportsAFailedListener(t *testing.T) {
	g, err := graph.Open(t.TempDir(), graph.Params{Network: rpctest.Net.Name}, graph.Options{MemTable: 8 << 20, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	server, err := rpc.NewServer(rpc.Config{Graph: g, Indexer: &rpctest.Follower{}, Net: rpctest.Net, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	dead := rpctest.Listen(t)
	dead.Close()
	if err := server.Serve(t.Context(), rpctest.Listen(t), dead); err == nil || !strings.Contains(err.Error(), "REST") {
		t.Errorf("got %v, want an error about REST", err)
	}
}

func TestNewServerRefusesAnotherNetwork(t *testing.T) {
	g, err := graph.Open(t.TempDir(), graph.Params{Network: rpctest.Net.Name}, graph.Options{MemTable: 8 << 20, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	_, err = rpc.NewServer(rpc.Config{Graph: g, Indexer: &rpctest.Follower{}, Net: &chaincfg.MainNetParams, Log: zerolog.Nop()})
	if err == nil || !strings.Contains(err.Error(), "mainnet") {
		t.Errorf("got %v, want an error that names mainnet", err)
	}
}
