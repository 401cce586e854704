package rpc_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/keytree-bch/keytree/rpc/admission"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// TestSieges attacks a server in all the ways there are for clients that reach it, with many more
// connections than it takes, and asks it meanwhile. Server and attackers have processes of their
// own; in the whole form, with KEYTREE_EXHAUSTIVE, each has half of the processors, so that what
// the honest client waits for is the server. It prints a table.
func TestSieges(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts processes")
	}
	b := newBesieged(t)
	var table strings.Builder
	for _, s := range sieges(t) {
		t.Run(s.name, func(t *testing.T) {
			row := b.withstand(t, s)
			t.Log(row)
			fmt.Fprintln(&table, row)
		})
	}
	if exhaustive() {
		t.Logf("\n| attack | median | p99 | the server's processor time, of what there was | peak | nothing in use after |\n|---|---|---|---|---|---|\n%s", &table)
	}
}

// Names of variables that have the process that they are set for be another one of TestSieges'.
const (
	asAttacked  = "KEYTREE_TEST_ATTACKED"
	asAttackers = "KEYTREE_TEST_ATTACKERS"
)

// process is one that a test has started. It answers each line that it is told by one of JSON.
type process struct {
	what    string
	in      io.Writer
	answers *json.Decoder
}

// start starts a test of this program as a process, which ends with the test: when nothing is to be
// read any more. It has the processors, or all if there are none.
func start(t *testing.T, test, as string, processors []int, nice int) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+test+"$")
	cmd.Env = append(os.Environ(), as+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := startOn(cmd, processors); err != nil {
		t.Fatal(err)
	}
	syscall.Setpriority(syscall.PRIO_PROCESS, cmd.Process.Pid, nice) // which only makes what is measured better
	p := &process{test, in, json.NewDecoder(out)}
	t.Cleanup(func() {
		in.Close()
		rest, _ := io.ReadAll(io.MultiReader(p.answers.Buffered(), out))
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v\n%s", test, err, rest)
		}
	})
	return p
}

// startOn starts a process on some of the processors: it has those of the thread that starts it.
func startOn(cmd *exec.Cmd, processors []int) error {
	if len(processors) == 0 {
		return cmd.Start()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, its unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return err
	}
	for _, n := range processors {
		its.Set(n)
	}
	if err := unix.SchedSetaffinity(0, &its); err != nil {
		return err
	}
	defer unix.SchedSetaffinity(0, &before)
	return cmd.Start()
}

// halves are the processors that there are, in two halves; empty if there is only one.
func halves(t *testing.T) (one, other []int) {
	t.Helper()
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		t.Fatal(err)
	}
	var all []int
	for n := range len(set) * 64 {
		if set.IsSet(n) {
			all = append(all, n)
		}
	}
	return all[:len(all)/2], all[len(all)-len(all)/2:]
}

// stayOn has this process stay on some of the processors.
func stayOn(t *testing.T, processors []int) {
	t.Helper()
	var set unix.CPUSet
	for _, n := range processors {
		set.Set(n)
	}
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		var id int
		if _, err := fmt.Sscan(thread.Name(), &id); err == nil {
			unix.SchedSetaffinity(id, &set) // which fails for one that has just ended
		}
	}
}

// processorTime is how much this process has used.
func processorTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// tell says something to a process, and reads what it answers.
func (p *process) tell(t *testing.T, what, answer any) {
	t.Helper()
	if err := json.NewEncoder(p.in).Encode(what); err != nil {
		t.Fatalf("%s: %v", p.what, err)
	}
	if err := p.answers.Decode(answer); err != nil {
		t.Fatalf("%s says nothing: %v", p.what, err)
	}
}

// besieged is a server, in a process of its own, with those who will attack it, in another, and
// with honest clients, which are limited as they are.
type besieged struct {
	attackedAddresses
	server, attackers *process
	processors        int // that the server has
	plain, secure     *honest
}

func newBesieged(t *testing.T) *besieged {
	t.Helper()
	var its, others []int
	if exhaustive() {
		its, others = halves(t)
	}
	b := &besieged{processors: max(1, len(its))}
	b.server = start(t, "TestAttacked", asAttacked, its, 0)
	b.attackers = start(t, "TestAttackers", asAttackers, others, 10)
	if len(others) > 0 {
		stayOn(t, others)
	}
	if err := b.server.answers.Decode(&b.attackedAddresses); err != nil {
		t.Fatalf("the attacked server says nothing: %v", err)
	}
	probe, err := dialFrom(t.Context(), 0, b.REST)
	if err != nil {
		t.Skipf("this system has one loopback address only: %v", err)
	}
	probe.Close()
	if exhaustive() {
		time.Sleep(settles)
	}
	b.plain = newHonest(t, "http://"+b.REST, b.GRPC, nil)
	b.secure = newHonest(t, "https://"+b.SecureREST, b.SecureGRPC, &tls.Config{RootCAs: rpctest.PoolOf(t, b.Certificate)})
	return b
}

// settles is how long Badger has to write down what was indexed just now, which takes memory for a while.
const settles = 10 * time.Second

// look asks the server how it is.
func (b *besieged) look(t *testing.T, at string) (look attackedLook) {
	t.Helper()
	b.server.tell(t, at, &look)
	return look
}

// order tells the attackers what to do.
func (b *besieged) order(t *testing.T, do string) (report attackReport) {
	t.Helper()
	b.attackers.tell(t, attackOrder{do, b.attackedAddresses}, &report)
	return report
}

// honest is an honest client.
type honest struct {
	http     *http.Client
	url      string // what it asks for
	conn     *grpc.ClientConn
	identity keytreev1.IdentityServiceClient
	resolve  *keytreev1.ResolveAddressRequest

	took  []time.Duration // until each answer, since it was asked for first
	again int             // how often it had to ask again
}

func newHonest(t *testing.T, rest, target string, secure *tls.Config) *honest {
	t.Helper()
	h := &honest{
		url:     rest + "/v1/addresses/" + rpctest.Address("deep7"),
		resolve: &keytreev1.ResolveAddressRequest{Address: rpctest.Address("deep7")},
	}
	dial := func(ctx context.Context, address string) (net.Conn, error) { return dialFrom(ctx, 1, address) }
	h.http = &http.Client{Transport: &http.Transport{
		DialContext:     func(ctx context.Context, _, address string) (net.Conn, error) { return dial(ctx, address) },
		TLSClientConfig: secure,
	}}
	t.Cleanup(h.http.CloseIdleConnections)
	wire := insecure.NewCredentials()
	if secure != nil {
		wire = credentials.NewTLS(secure)
	}
	var err error
	if h.conn, err = grpc.NewClient(target, grpc.WithTransportCredentials(wire), grpc.WithContextDialer(dial)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.conn.Close() })
	h.identity = keytreev1.NewIdentityServiceClient(h.conn)
	return h
}

// ask asks once over each wire, over a new connection if fresh.
func (h *honest) ask(ctx context.Context, fresh bool) error {
	if fresh {
		h.http.CloseIdleConnections()
	}
	if err := h.patiently(func() error { return h.get(ctx) }); err != nil {
		return fmt.Errorf("REST: %w", err)
	}
	if err := h.patiently(func() error {
		_, err := h.identity.ResolveAddress(ctx, h.resolve, grpc.WaitForReady(true))
		return err
	}); err != nil {
		return fmt.Errorf("gRPC: %w", err)
	}
	return nil
}

// patience is how often the honest client asks until it takes a refusal for an answer.
const patience = 100

// patiently asks until it is answered. A connection that is closed while it is idle may be one that
// the next request was sent on: that one is asked again, as clients do.
func (h *honest) patiently(ask func() error) (err error) {
	began := time.Now()
	for range patience {
		if err = ask(); err == nil {
			h.took = append(h.took, time.Since(began))
			return nil
		}
		h.again++
		time.Sleep(50 * time.Millisecond) // less than a refusal says
	}
	return err
}

// get asks once over REST.
func (h *honest) get(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, "GET", h.url, nil)
	if err != nil {
		return err
	}
	response, err := h.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	return nil
}

// checkUsage checks that no budget is exceeded.
func (b *besieged) checkUsage(t *testing.T) {
	t.Helper()
	u, limits := b.look(t, lookAtUsage).Usage, attackedLimits()
	for _, c := range []struct {
		what       string
		used, most int
	}{
		{"connections", u.Connections, limits.Connections.All},
		{"requests", u.Requests, limits.Requests.All},
		{"streams", u.Streams, limits.Streams.All},
		{"long answers", u.Long, limits.Long.All},
		{"bytes in", u.BytesIn, limits.BytesIn.All + limits.Requests.All*(16<<10)}, // a message of gRPC's that is there is counted anyway
		{"bytes out", u.BytesOut, limits.BytesOut.All},
	} {
		if c.used > c.most {
			t.Errorf("%d %s are in use, of %d", c.used, c.what, c.most)
		}
	}
}

// awaitCalm waits until nothing is in use any more but by the honest clients, for a minute
// at most, and tells how long that took.
func (b *besieged) awaitCalm(t *testing.T) time.Duration {
	t.Helper()
	b.plain.http.CloseIdleConnections()
	b.secure.http.CloseIdleConnections()
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		u := b.look(t, lookAtUsage).Usage
		u.Remembered = 0
		if u.Connections <= 2 && u == (admission.Usage{Connections: u.Connections}) { // those of the gRPC clients
			return time.Since(began)
		}
		if time.Since(began) > time.Minute {
			t.Fatalf("still in use: %+v", u)
		}
	}
}

const (
	// siegeBegins is how long is waited for all attackers to have connected. Those who have no
	// processor left may take long over that, and need not be waited for.
	siegeBegins = 10 * time.Second
	// siegeLasts is how long questions are asked at most.
	siegeLasts = 20 * time.Second
)

// withstand has a siege laid, asks meanwhile, and returns how that was: a row of the table.
func (b *besieged) withstand(t *testing.T, s siege) string {
	questions, pause := 5, time.Duration(0)
	if exhaustive() {
		questions, pause = 150, 100*time.Millisecond
	}
	honest := b.plain
	if s.wire == overSecureREST || s.wire == overSecureGRPC {
		honest = b.secure
	}
	if err := honest.ask(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	before := b.look(t, lookAtMemory)
	b.order(t, s.name)
	many, _, _ := crowd()
	if s.attackers > 0 {
		many = s.attackers
	}
	for began := time.Now(); b.order(t, lookAtAttackers).Connections < many && time.Since(began) < siegeBegins; {
		time.Sleep(10 * time.Millisecond)
	}
	honest.took, honest.again = nil, 0
	began, atFirst := time.Now(), b.look(t, lookAtUsage)
	for i := range questions {
		if i > 0 && time.Since(began) > siegeLasts {
			break
		}
		if err := honest.ask(t.Context(), i%4 == 0); err != nil {
			t.Errorf("question %d: %v", i, err)
		}
		b.checkUsage(t)
		time.Sleep(pause)
	}
	during, lasted := b.look(t, lookAtUsage), time.Since(began)
	took, again := honest.took, honest.again
	report := b.order(t, endAttack)
	calm := b.awaitCalm(t)
	if err := honest.ask(t.Context(), true); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	after := b.look(t, lookAtMemory)
	for began := time.Now(); after.InUse-before.InUse > mostLeft && time.Since(began) < time.Minute; {
		time.Sleep(time.Second) // for timers of connections that are closed
		peak := after.Peak
		after = b.look(t, lookAtMemory)
		after.Peak = max(after.Peak, peak)
	}
	if grown := after.InUse - before.InUse; grown > mostLeft {
		t.Errorf("%d MiB are in use afterwards that were not before, expected %d at most", grown>>20, mostLeft>>20)
	}
	if after.Peak > attackedMemory {
		t.Errorf("the server's process took %d MiB, more than the %d MiB that it was given", after.Peak>>20, attackedMemory>>20)
	}
	for saw, times := range report.Saw {
		if !slices.Contains(polite, saw) {
			t.Errorf("%d saw %q, expected one of %q", times, saw, polite)
		}
	}
	if len(took) == 0 {
		t.Fatal("the honest client had no answer")
	}
	slices.Sort(took)
	t.Logf("%d connections of attackers, with %v of processor time in all; honest client: %d answers, asked again %d times, the longest took %v; in use afterwards %+d kB; at the end: %+v; they saw: %v",
		report.Connections, report.Processor.Round(time.Millisecond), len(took), again, took[len(took)-1], (after.InUse-before.InUse)>>10, during.Usage, report.Saw)
	used := float64(during.Processor-atFirst.Processor) / float64(lasted) / float64(b.processors)
	return fmt.Sprintf("| %s | %.1f ms | %.1f ms | %.0f %% | %d MiB | %.2f s |",
		s.name, milliseconds(took[len(took)/2]), milliseconds(took[len(took)*99/100]), 100*used, after.Peak>>20, calm.Seconds())
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// polite is what who attempts to connect may see: an answer, a refusal that says when to come back,
// or that the connection was closed, as one that is idle is.
var polite = []string{"200 OK", "429 Too Many Requests", "503 Service Unavailable", "closed", "closed in the handshake"}

// mostLeft is how much memory a siege may leave in use, in bytes: pools and tables that later calls use again.
const mostLeft = 32 << 20
