// Package rpctest runs servers for the tests of rpc's rooms: one on a graph, and one for a
// keyserver, each with its clients; and makes what they answer about.
//
// What never belongs here: what a test expects.
package rpctest

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/rs/zerolog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/indexer"
	"github.com/keytree-bch/keytree/indexer/mempool"
	"github.com/keytree-bch/keytree/rpc"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// Follower plays the indexer's part.
type Follower struct{ status, mempool atomic.Value }

// Set says what Status returns.
func (f *Follower) Set(status indexer.Status) { f.status.Store(status) }

// Status implements identity.Indexer.
func (f *Follower) Status() indexer.Status {
	status, _ := f.status.Load().(indexer.Status)
	return status
}

// SetMempool says what Mempool returns.
func (f *Follower) SetMempool(status mempool.Status) { f.mempool.Store(status) }

// Mempool implements identity.Indexer.
func (f *Follower) Mempool() mempool.Status {
	status, _ := f.mempool.Load().(mempool.Status)
	return status
}

// Rig is a running server on a graph of its own.
type Rig struct {
	Graph    *graph.Graph
	Follower *Follower
	Server   *rpc.Server
	Conn     *grpc.ClientConn
	Client   keytreev1.IdentityServiceClient
	URL      string
	Stop     func() // stops the server, and fails the test unless it ends well
}

// New runs a server on a graph of these blocks, which ends with the test.
func New(t testing.TB, blocks ...graph.Block) *Rig {
	t.Helper()
	return NewOf(t, rpc.Config{}, blocks...)
}

// NewOf is New with a server of a configuration, to which it adds the graph.
func NewOf(t testing.TB, c rpc.Config, blocks ...graph.Block) *Rig {
	t.Helper()
	g, err := graph.Open(t.TempDir(), graph.Params{Network: Net.Name}, graph.Options{MemTable: 8 << 20, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	r := &Rig{Graph: g, Follower: &Follower{}}
	r.Connect(t, blocks...)
	r.Follower.Set(indexer.Status{Checked: true, Synced: true})

	c.Graph, c.Indexer, c.Net = g, r.Follower, Net
	r.Serve(t, c)
	return r
}

// Serve runs a server of a configuration until the test ends, or Stop.
func (r *Rig) Serve(t testing.TB, c rpc.Config) {
	t.Helper()
	c.Log = zerolog.Nop()
	server, err := rpc.NewServer(c)
	if err != nil {
		t.Fatal(err)
	}
	r.Server = server
	grpcListener, httpListener := Listen(t), Listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, grpcListener, httpListener) }()
	stopped := false
	r.Stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(r.Stop)

	conn, err := grpc.NewClient(grpcListener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	r.Conn = conn
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	r.Client = keytreev1.NewIdentityServiceClient(r.Conn)
	r.URL = "http://" + httpListener.Addr().String()
}

// Listen listens on a port that the system chooses.
func Listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Connect appends blocks to the graph.
func (r *Rig) Connect(t testing.TB, blocks ...graph.Block) {
	t.Helper()
	if err := r.Graph.Connect(blocks...); err != nil {
		t.Fatal(err)
	}
}

// Disconnect takes the last n blocks off the graph.
func (r *Rig) Disconnect(t testing.TB, n int) {
	t.Helper()
	for range n {
		if err := r.Graph.Disconnect(); err != nil {
			t.Fatal(err)
		}
	}
}

// REST sends one REST request and returns what came back.
func (r *Rig) REST(t testing.TB, method, path, body string) (*http.Response, map[string]any) {
	t.Helper()
	request, err := http.NewRequest(method, r.URL+path, strings.NewReader(body))
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

// Send makes a REST request, with headers as NAME: VALUE, and returns what came back. The
// transport asks for no compression, and undoes none.
func (r *Rig) Send(t *testing.T, method, path, body string, headers ...string) (*http.Response, string) {
	t.Helper()
	transport := &http.Transport{DisableCompression: true}
	defer transport.CloseIdleConnections()
	return r.SendOver(t, transport, method, path, body, headers...)
}

// SendOver is Send over a transport, which may have a connection.
func (r *Rig) SendOver(t *testing.T, transport http.RoundTripper, method, path, body string, headers ...string) (*http.Response, string) {
	t.Helper()
	request, err := http.NewRequest(method, r.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		if request.Header.Set(name, value); name == "Host" {
			request.Host = value
		}
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(text)
}

// InUse returns how many bytes are in use, without garbage.
func InUse() int64 {
	runtime.GC()
	runtime.GC() // what the first one found only to have a finalizer or a pool
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Held returns what the system tells of this process's memory under a name of /proc/self/status, as VmHWM, in bytes; 0 where it
// does not.
func Held(name string) int64 {
	status, _ := os.ReadFile("/proc/self/status")
	_, after, _ := strings.Cut(string(status), name+":")
	fields := strings.Fields(after)
	if len(fields) == 0 {
		return 0
	}
	kB, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil {
		return 0
	}
	return kB << 10
}
