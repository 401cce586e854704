package rpc_test

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/rpc"
	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// attackedMemory is what the attacked server is given, in bytes: the default of --memory.
const attackedMemory = graph.DefaultMemory

// attackedLimits are the attacked server's.
func attackedLimits() admission.Limits {
	limits := admission.DefaultLimits()
	if !exhaustive() {
		limits.Connections = admission.Budget{All: 64, One: 16}
		limits.Requests = admission.Budget{All: 32, One: 8}
		limits.Streams = admission.Budget{All: 16, One: 4}
		limits.Long = admission.Budget{All: 4, One: 2}
		limits.BytesIn = admission.Budget{All: 8 << 20, One: 4 << 20}
		limits.BytesOut = admission.Budget{All: 24 << 20, One: 12 << 20}
		limits.Arrive, limits.Take, limits.Patience = time.Second, time.Second, 100*time.Millisecond
	}
	return limits
}

// TestAttacked is not a test but the process that TestSieges attacks. It says where it
// listens, and for each order that it reads how it is.
func TestAttacked(t *testing.T) {
	if os.Getenv(asAttacked) == "" {
		t.Skip("part of TestSieges")
	}
	debug.SetMemoryLimit(graph.Usable(attackedMemory))
	runtime.GOMAXPROCS(max(2, runtime.GOMAXPROCS(0)))
	c := &rpctest.Chain{}
	var requests, accepts []links.Action
	for i := range 120 {
		requests = append(requests, rpctest.MLR(fmt.Sprint("r", i), fmt.Sprint("deep", i+1), fmt.Sprint("deep", i), ""))
		accepts = append(accepts, rpctest.MLA(fmt.Sprint("a", i), fmt.Sprint("deep", i), fmt.Sprint("r", i)))
	}
	gate := admission.New(admission.Config{Limits: attackedLimits(), Held: admission.MostHeld})
	many, long := 20_000, 2000
	if exhaustive() {
		many, long = 400_000, 10_000
	}
	blocks := []graph.Block{c.Block(requests...), c.Block(accepts...), rpctest.RequestsOf(c, many)}
	anchored, _ := rpctest.Long(t, c, long)
	rig := rpctest.NewOf(t, rpc.Config{Admission: gate}, append(blocks, anchored...)...)
	plain := attackedAddresses{REST: strings.TrimPrefix(rig.URL, "http://"), GRPC: rig.Conn.Target()}
	cert, key := rpctest.WriteCertificate(t, time.Now().Add(time.Hour), "127.0.0.1")
	certificate, err := rpc.LoadCertificate(cert, key, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	secure := *rig
	secure.Serve(t, rpc.Config{Admission: gate, Graph: rig.Graph, Indexer: rig.Follower, Net: rpctest.Net, TLS: certificate.TLS()})
	out := json.NewEncoder(os.Stdout)
	say := func(v any) {
		if err := out.Encode(v); err != nil {
			t.Fatal(err)
		}
	}
	say(attackedAddresses{plain.REST, plain.GRPC, strings.TrimPrefix(secure.URL, "http://"), secure.Conn.Target(), cert})
	for orders := json.NewDecoder(os.Stdin); ; {
		var at string
		if err := orders.Decode(&at); err == io.EOF {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		look := attackedLook{Usage: gate.Usage(), Processor: processorTime(), Peak: rpctest.Held("VmHWM")}
		if at == lookAtMemory {
			look.InUse = rpctest.InUse()
			os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) // the next peak is one of its own, where the system lets it
		}
		say(look)
	}
}

// attackedAddresses is where the attacked server listens.
type attackedAddresses struct {
	REST, GRPC, SecureREST, SecureGRPC string
	Certificate                        string // the file with it
}

func (a attackedAddresses) of(w listener) string {
	return [...]string{a.REST, a.GRPC, a.SecureREST, a.SecureGRPC}[w]
}

// attackedLook is how the attacked server is.
type attackedLook struct {
	Usage     admission.Usage
	Processor time.Duration // that the process has used
	Peak      int64         // of memory held, in bytes, since memory was looked at
	InUse     int64         // of memory, in bytes, after collecting garbage
}

// What an attacked server is told to look at.
const (
	lookAtUsage  = "usage"
	lookAtMemory = "memory"
)
