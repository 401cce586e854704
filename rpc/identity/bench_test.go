package identity_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/keytree-bch/keytree/graph/links"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// The cost of an answer beside that of asking at all: each Resolve here has an
// Empty, the same transport with next to nothing behind it.

func BenchmarkGRPCEmpty(b *testing.B) {
	_, blocks := rpctest.Family()
	client := healthpb.NewHealthClient(rpctest.New(b, blocks...).Conn)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := client.Check(b.Context(), &healthpb.HealthCheckRequest{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGRPCResolve(b *testing.B) {
	_, blocks := rpctest.Family()
	client := rpctest.New(b, blocks...).Client
	request := &keytreev1.ResolveAddressRequest{Address: rpctest.Address("grandchild")}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := client.ResolveAddress(b.Context(), request); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRESTEmpty(b *testing.B) { benchmarkGet(b, "/healthz") }

func BenchmarkRESTResolve(b *testing.B) {
	benchmarkGet(b, "/v1/addresses/"+rpctest.Address("grandchild"))
}

// plainClient asks for no compression, which would cost client and server more than the
// answer.
func plainClient(b *testing.B) *http.Client {
	transport := &http.Transport{DisableCompression: true}
	b.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func benchmarkGet(b *testing.B, path string) {
	_, blocks := rpctest.Family()
	url := rpctest.New(b, blocks...).URL + path
	client := plainClient(b)
	b.ReportAllocs()
	for b.Loop() {
		drain(b)(client.Get(url))
	}
}

// BenchmarkProofBundle downloads the proof bundle of 10,000 anchors.
func BenchmarkProofBundle(b *testing.B) {
	blocks, genesis := rpctest.Long(b, &rpctest.Chain{}, 10_000)
	url := rpctest.New(b, blocks...).URL + "/v1/anchors/chains/" + rpctest.ID(genesis) + "/bundle"
	b.ReportAllocs()
	for b.Loop() {
		b.SetBytes(drain(b)(http.Get(url)))
	}
}

// BenchmarkRESTBatch resolves 10,000 addresses in one call: such as were never linked,
// and such as are below a parent.
func BenchmarkRESTBatch(b *testing.B) {
	const size = 10_000
	var requests, accepts []links.Action
	for i := range size {
		requests = append(requests, rpctest.MLR(fmt.Sprint("r", i), fmt.Sprint("linked", i), "parent", ""))
		accepts = append(accepts, rpctest.MLA(fmt.Sprint("a", i), "parent", fmt.Sprint("r", i)))
	}
	c := &rpctest.Chain{}
	r := rpctest.New(b, c.Block(requests...), c.Block(accepts...))
	client := plainClient(b)
	for _, kind := range []string{"lone", "linked"} {
		b.Run(kind, func(b *testing.B) {
			addresses := make([]string, size)
			for i := range addresses {
				addresses[i] = rpctest.Address(fmt.Sprint(kind, i))
			}
			body, err := json.Marshal(map[string]any{"addresses": addresses})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				b.SetBytes(drain(b)(client.Post(r.URL+"/v1/addresses:batchResolve", "application/json", bytes.NewReader(body))))
			}
		})
	}
}

// drain returns what reads the body of a good answer, and returns its size.
func drain(b *testing.B) func(*http.Response, error) int64 {
	b.Helper()
	return func(response *http.Response, err error) int64 {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
		defer response.Body.Close()
		n, err := io.Copy(io.Discard, response.Body)
		if err != nil || response.StatusCode != http.StatusOK {
			b.Fatal(response.Status, err)
		}
		return n
	}
}
