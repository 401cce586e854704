package push_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/rpc"
	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

const (
	// asCrowded has the process that it is set for be the server of TestCrowd.
	asCrowded = "KEYTREE_TEST_CROWDED"
	// crowdedMemory is what that is given, in bytes: the default of --memory.
	crowdedMemory = graph.DefaultMemory
	// crowdAddresses is how many addresses each client follows.
	crowdAddresses = 100
)

// crowdSize is how many clients there are.
func crowdSize() int {
	if os.Getenv("KEYTREE_EXHAUSTIVE") != "" {
		return 10_000
	}
	return 300
}

// crowdedLimits are those that cmd/keytree/OPERATING.md says for 10,000 clients.
func crowdedLimits() admission.Limits {
	limits := admission.DefaultLimits()
	limits.Connections = admission.Budget{All: 15_000, One: 128}
	limits.Streams = admission.Budget{All: 12_000, One: 32}
	limits.BytesIn = admission.Budget{All: 192 << 20, One: 16 << 20}
	return limits
}

// TestCrowd has many clients follow a hundred addresses each, over connections of their own, and tells all of
// them of one change at the top. The server is a process of its own, with the memory that a server has by default: it
// takes no more. With KEYTREE_EXHAUSTIVE they are 10,000.
func TestCrowd(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts a process")
	}
	clients := crowdSize()
	server := startCrowded(t)
	before := server.look(t, lookAtCrowd)
	var asking, told, leaving sync.WaitGroup
	var failed atomic.Int32
	leave := make(chan struct{})
	begin := make(chan struct{}, 64) // so many ask at once
	began := time.Now()
	for i := range clients {
		begin <- struct{}{}
		asking.Add(1)
		told.Add(1)
		leaving.Go(func() {
			asked := sync.OnceFunc(func() { <-begin; asking.Done() })
			isTold := sync.OnceFunc(told.Done)
			defer isTold()
			defer asked()
			if err := crowdMember(server.address, i, asked, isTold, leave); err != nil {
				failed.Add(1)
				t.Error(err)
			}
		})
	}
	asking.Wait()
	asked := time.Since(began)
	if failed.Load() > 0 {
		close(leave)
		leaving.Wait()
		t.FailNow()
	}
	open := server.look(t, lookAtCrowd)
	if open.Streams != clients {
		t.Errorf("%d streams are open, want %d", open.Streams, clients)
	}
	began = time.Now()
	changed := server.look(t, changeTheTop)
	told.Wait()
	took := time.Since(began)
	after := server.look(t, lookAtCrowd)
	close(leave)
	leaving.Wait()
	t.Logf("%d clients with %d addresses each have asked within %v; the server's process: %d MiB resident before, %d MiB with them (%d kB a client: %d kB of heap, %d kB of stacks), %d MiB at its peak, of %d MiB; "+
		"a change at the top took %v to connect, and all were told %v after it began, for %v of processor time of the server's",
		clients, crowdAddresses, asked.Round(time.Millisecond), before.Resident>>20, open.Resident>>20, (open.Resident-before.Resident)>>10/int64(clients),
		(open.Heap-before.Heap)>>10/int64(clients), (open.Stacks-before.Stacks)>>10/int64(clients),
		after.Peak>>20, crowdedMemory>>20, changed.Took.Round(time.Millisecond), took.Round(time.Millisecond), (after.CPU - open.CPU).Round(time.Millisecond))
	if after.Peak > crowdedMemory {
		t.Errorf("the server's process took %d MiB, more than the %d MiB that it was given", after.Peak>>20, crowdedMemory>>20)
	}
}

// crowdMember follows keys until it may leave. It calls asked when the stream has begun, and told when it was told that
// one of the keys has changed.
func crowdMember(address string, i int, asked, told func(), leave <-chan struct{}) error {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	var list strings.Builder
	for n := range crowdAddresses {
		if n > 0 {
			list.WriteByte(',')
		}
		fmt.Fprintf(&list, "%q", rpctest.Address(fmt.Sprint("k", i, ".", n)))
	}
	body := `{"addresses":[` + list.String() + `]}`
	// Each is a client of its own, for a server that believes a proxy here.
	fmt.Fprintf(conn, "POST /v1/stream HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 198.18.%d.%d\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", i>>8, i&255, len(body), body)
	lines := bufio.NewReaderSize(conn, 512)
	want := rpctest.Address(fmt.Sprint("k", i, ".0"))
	for {
		line, err := lines.ReadString('\n')
		switch {
		case err != nil:
			return fmt.Errorf("client %d: %w", i, err)
		case strings.HasPrefix(line, "id: "):
			asked()
		case strings.HasPrefix(line, "event: fault"):
			line, _ = lines.ReadString('\n')
			return fmt.Errorf("client %d: %s", i, line)
		case strings.HasPrefix(line, "data: ") && strings.Contains(line, want):
			told()
			<-leave
			return nil
		}
	}
}

// What a crowded server is told to do.
const (
	lookAtCrowd  = "look"
	changeTheTop = "change"
)

// crowdedLook is how a crowded server is.
type crowdedLook struct {
	Streams        int
	Resident, Peak int64         // of the machine's memory, in bytes; 0 where the system does not tell
	Heap, Stacks   int64         // in use, in bytes
	CPU            time.Duration // that it has taken since it began
	Took           time.Duration // of what it was told to do
}

// TestCrowded is not a test but the server of TestCrowd. It says where it listens, and does what each line that it
// reads says.
func TestCrowded(t *testing.T) {
	clients, err := strconv.Atoi(os.Getenv(asCrowded))
	if err != nil {
		t.Skip("part of TestCrowd")
	}
	debug.SetMemoryLimit(graph.Usable(crowdedMemory))
	// Each client follows a hundred keys, of which the first is below the top, and nobody else has them.
	c := &rpctest.Chain{}
	var linked []links.Action
	for i := range clients {
		linked = append(linked, rpctest.MLR(fmt.Sprint("r", i), fmt.Sprint("k", i, ".0"), "middle", ""), rpctest.MLA(fmt.Sprint("a", i), "middle", fmt.Sprint("r", i)))
	}
	gate := admission.New(admission.Config{Limits: crowdedLimits(), Proxies: admission.Loopback()})
	r := rpctest.NewOf(t, rpc.Config{Admission: gate}, c.Block(linked...), c.Block(rpctest.MLR("r", "middle", "top", "")))
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(strings.TrimPrefix(r.URL, "http://")); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		began := time.Now()
		if lines.Text() == changeTheTop {
			r.Connect(t, c.Block(rpctest.MLA("a", "top", "r")))
		}
		look := lookAtProcess()
		look.Streams, look.Took = gate.Usage().Streams, time.Since(began)
		if err := out.Encode(look); err != nil {
			t.Fatal(err)
		}
	}
}

// crowded is the process of a crowded server.
type crowded struct {
	address string
	ask     io.Writer // its standard input
	answers *json.Decoder
}

// startCrowded starts the server, which ends with the test: when nothing is to be read any more.
func startCrowded(t *testing.T) *crowded {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestCrowded$")
	cmd.Env = append(os.Environ(), fmt.Sprint(asCrowded, "=", crowdSize()))
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
	c := &crowded{ask: in, answers: json.NewDecoder(out)}
	t.Cleanup(func() {
		in.Close()
		rest, _ := io.ReadAll(io.MultiReader(c.answers.Buffered(), out))
		if err := cmd.Wait(); err != nil {
			t.Errorf("the crowded server: %v\n%s", err, rest)
		}
	})
	if err := c.answers.Decode(&c.address); err != nil {
		t.Fatalf("the crowded server says nothing: %v", err)
	}
	return c
}

// look tells the server to do something, and asks how it is.
func (c *crowded) look(t *testing.T, what string) (look crowdedLook) {
	t.Helper()
	if _, err := fmt.Fprintln(c.ask, what); err != nil {
		t.Fatal(err)
	}
	if err := c.answers.Decode(&look); err != nil {
		t.Fatalf("the crowded server says nothing: %v", err)
	}
	return look
}
