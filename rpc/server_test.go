package rpc_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/indexer"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/rpc"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testNet is the network of every graph in these tests.
var testNet = &chaincfg.RegressionNetParams

// chain makes blocks that follow each other, without a node: what the indexer
// would hand to the graph.
type chain struct {
	next uint32
	prev chainhash.Hash
	salt string // told apart, so are the hashes
}

func (c *chain) block(actions ...graph.Action) graph.Block {
	b := graph.Block{Height: c.next, Hash: hashOf(fmt.Sprint(c.salt, c.next)), PrevHash: c.prev, Actions: actions}
	for i := range b.Actions {
		b.Actions[i].Index = uint32(i + 1)
	}
	c.next, c.prev = c.next+1, b.Hash
	return b
}

func hashOf(name string) chainhash.Hash { return sha256.Sum256([]byte(name)) }

// key returns the test key of a name.
func key(name string) (k protocol.KeyHash) {
	h := hashOf(name)
	copy(k[:], h[:])
	return k
}

func address(name string) string { return protocol.FormatAddress(key(name), testNet) }

// The three actions, each in the transaction that it is named after.
func mlr(tx, child, parent, message string) graph.Action {
	author := key(child)
	return graph.Action{TxID: hashOf(tx), Author: &author,
		Action: protocol.Action{Kind: protocol.MLR, Parent: key(parent), Message: []byte(message)}}
}

func mla(tx, parent, request string) graph.Action {
	author := key(parent)
	return graph.Action{TxID: hashOf(tx), Author: &author,
		Action: protocol.Action{Kind: protocol.MLA, Ref: protocol.RefersTo(hashOf(request))}}
}

func mcr(tx, parent, accept string) graph.Action {
	author := key(parent)
	return graph.Action{TxID: hashOf(tx), Author: &author,
		Action: protocol.Action{Kind: protocol.MCR, Ref: protocol.RefersTo(hashOf(accept))}}
}

// follower plays the indexer's part.
type follower struct{ status atomic.Value }

func (f *follower) set(status indexer.Status) { f.status.Store(status) }
func (f *follower) Status() indexer.Status {
	status, _ := f.status.Load().(indexer.Status)
	return status
}

// rig is a running server on a graph of its own.
type rig struct {
	graph    *graph.Graph
	follower *follower
	server   *rpc.Server
	conn     *grpc.ClientConn
	client   keytreev1.IdentityServiceClient
	url      string
	stop     func() // stops the server, and fails the test unless it ends well
}

func newRig(t testing.TB, blocks ...graph.Block) *rig {
	t.Helper()
	return newRigOf(t, rpc.Config{}, blocks...)
}

// newRigOf runs a server of a configuration, to which it adds the graph.
func newRigOf(t testing.TB, c rpc.Config, blocks ...graph.Block) *rig {
	t.Helper()
	g, err := graph.Open(t.TempDir(), graph.Params{Network: testNet.Name}, graph.Options{MemTable: 8 << 20, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	r := &rig{graph: g, follower: &follower{}}
	r.connect(t, blocks...)
	r.follower.set(indexer.Status{Checked: true, Synced: true})

	c.Graph, c.Indexer, c.Net = g, r.follower, testNet
	r.serve(t, c)
	return r
}

// serve runs a server of a configuration.
func (r *rig) serve(t testing.TB, c rpc.Config) {
	t.Helper()
	c.Log = zerolog.Nop()
	server, err := rpc.NewServer(c)
	if err != nil {
		t.Fatal(err)
	}
	r.server = server
	grpcListener, httpListener := listen(t), listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, grpcListener, httpListener) }()
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(r.stop)

	r.conn, err = grpc.NewClient(grpcListener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.conn.Close() })
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	r.client = keytreev1.NewIdentityServiceClient(r.conn)
	r.url = "http://" + httpListener.Addr().String()
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (r *rig) connect(t testing.TB, blocks ...graph.Block) {
	t.Helper()
	if err := r.graph.Connect(blocks...); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) disconnect(t testing.TB, n int) {
	t.Helper()
	for range n {
		if err := r.graph.Disconnect(); err != nil {
			t.Fatal(err)
		}
	}
}

// rest sends one REST request and returns what came back.
func (r *rig) rest(t testing.TB, method, path, body string) (*http.Response, map[string]any) {
	t.Helper()
	request, err := http.NewRequest(method, r.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if got := response.Header.Get("Content-Type"); got != "application/json" {
		t.Errorf("%s %s: content type %q, want application/json", method, path, got)
	}
	var answer map[string]any
	if err := json.Unmarshal(raw, &answer); err != nil {
		t.Fatalf("%s %s: %v in %s", method, path, err, raw)
	}
	return response, answer
}

func TestHealthAndReadiness(t *testing.T) {
	r := newRig(t)
	check := func(wantHealth healthpb.HealthCheckResponse_ServingStatus, wantCode int, wantReason string) {
		t.Helper()
		for _, service := range []string{"", "keytree.v1.IdentityService", "keytree.v1.AnchorService"} {
			got, err := healthpb.NewHealthClient(r.conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: service})
			if err != nil || got.Status != wantHealth {
				t.Errorf("health of %q: %v, %v; want %v", service, got, err, wantHealth)
			}
		}
		response, answer := r.rest(t, "GET", "/readyz", "")
		if response.StatusCode != wantCode || answer["reason"] != wantReason || answer["ready"] != (wantReason == "") {
			t.Errorf("/readyz: %d %v, want %d and reason %q", response.StatusCode, answer, wantCode, wantReason)
		}
		if response, answer := r.rest(t, "GET", "/healthz", ""); response.StatusCode != 200 || answer["status"] != "ok" {
			t.Errorf("/healthz: %d %v", response.StatusCode, answer)
		}
	}
	check(healthpb.HealthCheckResponse_NOT_SERVING, 503, "no block is indexed yet")

	r.connect(t, (&chain{}).block())
	check(healthpb.HealthCheckResponse_SERVING, 200, "")

	r.follower.set(indexer.Status{Checked: true, NodeHeight: 9, Reason: "catching up"})
	check(healthpb.HealthCheckResponse_NOT_SERVING, 503, "not synced: block 0 is indexed, the node is at 9: catching up")

	r.follower.set(indexer.Status{NodeHeight: 9})
	check(healthpb.HealthCheckResponse_NOT_SERVING, 503, "the stored blocks have not been compared with the node's yet")

	if _, err := healthpb.NewHealthClient(r.conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: "other"}); status.Code(err) != codes.NotFound {
		t.Errorf("health of another service: %v, want NotFound", err)
	}
}

func TestReflectionListsTheServices(t *testing.T) {
	r := newRig(t)
	stream, err := reflectionpb.NewServerReflectionClient(r.conn).ServerReflectionInfo(t.Context())
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
	for _, want := range []string{"keytree.v1.IdentityService", "keytree.v1.AnchorService"} {
		if !slices.Contains(names, want) {
			t.Errorf("reflection lists %v, and not %s", names, want)
		}
	}
}

// TestUnavailable asks everything of a server that must not answer yet.
func TestUnavailable(t *testing.T) {
	for name, test := range map[string]struct {
		blocks []graph.Block
		status indexer.Status
		says   string
	}{
		"before the first block":       {nil, indexer.Status{Checked: true}, "no block is indexed yet"},
		"before the start-up check":    {[]graph.Block{(&chain{}).block()}, indexer.Status{}, "not been compared"},
		"before either of the two was": {nil, indexer.Status{}, "not been compared"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, test.blocks...)
			r.follower.set(test.status)
			for _, path := range []string{
				"/v1/addresses/" + address("a"),
				"/v1/addresses/" + address("a") + "/actions",
				"/v1/identities/" + hashOf("tx").String() + "?at_height=0",
				"/v1/identities/" + hashOf("tx").String() + "/keys",
				"/v1/actions/" + hashOf("tx").String(),
				"/v1/events",
				"/v1/anchors?domain=example.org",
				"/v1/anchors/chains?domain=example.org",
				"/v1/anchors/chains/" + hashOf("tx").String(),
				"/v1/anchors/chains/" + hashOf("tx").String() + "/bundle",
				"/v1/anchors/txs/" + hashOf("tx").String(),
			} {
				response, answer := r.rest(t, "GET", path, "")
				if message, _ := answer["message"].(string); response.StatusCode != 503 || !strings.Contains(message, test.says) {
					t.Errorf("%s: %d %v, want 503 and %q", path, response.StatusCode, answer, test.says)
				}
			}
			stream, err := r.client.Watch(t.Context(), &keytreev1.WatchRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := stream.Recv(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), test.says) {
				t.Errorf("Watch: %v, want Unavailable and %q", err, test.says)
			}
			got, err := r.client.GetStatus(t.Context(), &keytreev1.GetStatusRequest{})
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
		r := newRig(t, (&chain{}).block())
		watch, err := r.client.Watch(t.Context(), &keytreev1.WatchRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := watch.Header(); err != nil {
			t.Fatal(err)
		}
		health, err := healthpb.NewHealthClient(r.conn).Watch(t.Context(), &healthpb.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := health.Recv(); err != nil {
			t.Fatal(err)
		}
		r.rest(t, "GET", "/healthz", "") // leaves an idle connection

		r.stop()
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
	c := &chain{}
	var requests []graph.Action
	for i := range 5000 {
		requests = append(requests, mlr(fmt.Sprint("r", i), fmt.Sprint("c", i), "parent", ""))
	}
	r := newRig(t, c.block(requests...))
	stream, err := r.client.Watch(t.Context(), &keytreev1.WatchRequest{FromHeight: new(uint32)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil {
		t.Fatal(err)
	}
	r.stop()
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
	g, err := graph.Open(t.TempDir(), graph.Params{Network: testNet.Name}, graph.Options{MemTable: 8 << 20, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	server, err := rpc.NewServer(rpc.Config{Graph: g, Indexer: &follower{}, Net: testNet, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	dead := listen(t)
	dead.Close()
	if err := server.Serve(t.Context(), listen(t), dead); err == nil || !strings.Contains(err.Error(), "REST") {
		t.Errorf("got %v, want an error about REST", err)
	}
}

func TestNewServerRefusesAnotherNetwork(t *testing.T) {
	g, err := graph.Open(t.TempDir(), graph.Params{Network: testNet.Name}, graph.Options{MemTable: 8 << 20, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	_, err = rpc.NewServer(rpc.Config{Graph: g, Indexer: &follower{}, Net: &chaincfg.MainNetParams, Log: zerolog.Nop()})
	if err == nil || !strings.Contains(err.Error(), "mainnet") {
		t.Errorf("got %v, want an error that names mainnet", err)
	}
}
