package rpc_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/rpc"
	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// asAttacked has the process that it is set for be the server that TestSieges attacks.
const asAttacked = "KEYTREE_TEST_ATTACKED"

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
		limits.Work = admission.Budget{All: 2000, One: 200}
		limits.Arrive, limits.Take, limits.Patience = time.Second, time.Second, 100*time.Millisecond
	}
	return limits
}

// TestAttacked is not a test but the process that TestSieges attacks. It says where it
// listens, and for each line that it reads how it is.
func TestAttacked(t *testing.T) {
	if os.Getenv(asAttacked) == "" {
		t.Skip("part of TestSieges")
	}
	debug.SetMemoryLimit(graph.Usable(attackedMemory))
	c := &rpctest.Chain{}
	var requests, accepts []links.Action
	for i := range 120 {
		requests = append(requests, rpctest.MLR(fmt.Sprint("r", i), fmt.Sprint("deep", i+1), fmt.Sprint("deep", i), ""))
		accepts = append(accepts, rpctest.MLA(fmt.Sprint("a", i), fmt.Sprint("deep", i), fmt.Sprint("r", i)))
	}
	gate := admission.New(admission.Config{Limits: attackedLimits()})
	blocks := []graph.Block{c.Block(requests...), c.Block(accepts...), rpctest.RequestsOf(c, 20_000)}
	anchored, _ := rpctest.Long(t, c, 8000)
	rig := rpctest.NewOf(t, rpc.Config{Admission: gate}, append(blocks, anchored...)...)
	out := json.NewEncoder(os.Stdout)
	say := func(v any) {
		if err := out.Encode(v); err != nil {
			t.Fatal(err)
		}
	}
	say(attackedAddresses{strings.TrimPrefix(rig.URL, "http://"), rig.Conn.Target()})
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		look := attackedLook{Usage: gate.Usage(), Peak: peakMemory()}
		if lines.Text() == lookAtMemory {
			look.InUse = rpctest.InUse()
		}
		say(look)
	}
}

// peakMemory is the most that this process has held of the machine's memory, in bytes; 0
// where the system does not tell.
func peakMemory() int64 {
	status, _ := os.ReadFile("/proc/self/status")
	_, after, _ := strings.Cut(string(status), "VmHWM:")
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

// attackedAddresses is where the attacked server listens.
type attackedAddresses struct{ REST, GRPC string }

// attackedLook is how the attacked server is.
type attackedLook struct {
	Usage admission.Usage
	Peak  int64 // of memory held, in bytes
	InUse int64 // of memory, in bytes, after collecting garbage
}

// What an attacked server is told to look at.
const (
	lookAtUsage  = "usage"
	lookAtMemory = "memory"
)

// attacked is the process that is attacked.
type attacked struct {
	attackedAddresses
	ask     io.Writer // its standard input
	answers *json.Decoder
}

// startAttacked starts the server, which ends with the test: when nothing is to be read any
// more.
func startAttacked(t *testing.T) *attacked {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestAttacked$")
	cmd.Env = append(os.Environ(), asAttacked+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	a := &attacked{ask: in, answers: json.NewDecoder(out)}
	t.Cleanup(func() {
		in.Close()
		rest, _ := io.ReadAll(io.MultiReader(a.answers.Buffered(), out))
		if err := cmd.Wait(); err != nil {
			t.Errorf("the attacked server: %v\n%s", err, rest)
		}
	})
	if err := a.answers.Decode(&a.attackedAddresses); err != nil {
		t.Fatalf("the attacked server says nothing: %v", err)
	}
	return a
}

// look asks the server how it is.
func (a *attacked) look(t *testing.T, at string) (look attackedLook) {
	t.Helper()
	if _, err := fmt.Fprintln(a.ask, at); err != nil {
		t.Fatal(err)
	}
	if err := a.answers.Decode(&look); err != nil {
		t.Fatalf("the attacked server says nothing: %v", err)
	}
	return look
}
