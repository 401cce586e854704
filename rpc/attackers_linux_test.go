package rpc_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/protobuf/proto"

	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// siege is an attack: what each attacker does, again and again over a new connection, until a
// context ends. The attackers have addresses of their own on the loopback interface.
type siege struct {
	name   string
	wire   listener
	attack func(context.Context, net.Conn)
	// ask, if not nil, is what attackers do instead, once each, and tells what became of it.
	ask func(context.Context, net.Conn) string
	// attackers is how many there are; 0 for as many as usual.
	attackers int
	// restless attackers come again at once.
	restless bool
}

// listener is one of those that the attacked server listens on.
type listener int

const (
	overREST listener = iota
	overGRPC
	overSecureREST
	overSecureGRPC
)

// What attackers are told to do beside sieges, by name.
const (
	lookAtAttackers = "look"
	endAttack       = "end"
)

// attackOrder is what the attackers' process is told.
type attackOrder struct {
	Do string // the name of a siege, or one of the above
	At attackedAddresses
}

// attackReport is what it says.
type attackReport struct {
	Connections int            // that were opened
	Saw         map[string]int // what became of those who ask
	Processor   time.Duration  // that the process has used
}

// crowd is how many attackers there are, of how many addresses, and how long each waits before he
// comes again. In the whole form KEYTREE_ATTACKERS says how many.
func crowd() (attackers, addresses int, pause time.Duration) {
	if exhaustive() {
		attackers = 3000
		if n, err := strconv.Atoi(os.Getenv("KEYTREE_ATTACKERS")); err == nil {
			attackers = n
		}
		return attackers, 200, 5 * time.Second
	}
	return 80, 16, 300 * time.Millisecond
}

// TestAttackers is not a test but the process that attacks in TestSieges. It reads orders, and
// reports after each.
func TestAttackers(t *testing.T) {
	if os.Getenv(asAttackers) == "" {
		t.Skip("part of TestSieges")
	}
	byName := make(map[string]siege)
	for _, s := range sieges(t) {
		byName[s.name] = s
	}
	out := json.NewEncoder(os.Stdout)
	a := new(attackers)
	end := func() {}
	defer func() { end() }()
	for orders := json.NewDecoder(os.Stdin); ; {
		var order attackOrder
		if err := orders.Decode(&order); err == io.EOF {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		switch order.Do {
		case lookAtAttackers:
		case endAttack:
			end()
		default:
			a = &attackers{siege: byName[order.Do], target: order.At.of(byName[order.Do].wire), saw: make(map[string]int)}
			end = a.begin(t.Context())
		}
		if err := out.Encode(a.report()); err != nil {
			t.Fatal(err)
		}
	}
}

// attackers lay a siege.
type attackers struct {
	siege
	target string

	mu          sync.Mutex
	connections int            // mu
	saw         map[string]int // mu
}

func (a *attackers) report() attackReport {
	a.mu.Lock()
	defer a.mu.Unlock()
	saw := make(map[string]int, len(a.saw))
	for what, times := range a.saw {
		saw[what] = times
	}
	return attackReport{a.connections, saw, processorTime()}
}

// begin has them attack until end is called, which waits for them.
func (a *attackers) begin(ctx context.Context) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	var attacking sync.WaitGroup
	many, addresses, pause := crowd()
	if a.siege.attackers > 0 {
		many = a.siege.attackers
	}
	for i := range many {
		attacking.Go(func() {
			for ctx.Err() == nil {
				a.once(ctx, 2+i%addresses)
				if a.ask != nil {
					return
				}
				if !a.restless {
					wait(ctx, pause)
				}
			}
		})
	}
	return func() {
		cancel()
		attacking.Wait()
	}
}

// once attacks over one connection, from the n-th address.
func (a *attackers) once(ctx context.Context, n int) {
	c, err := dialFrom(ctx, n, a.target)
	if err != nil {
		wait(ctx, 100*time.Millisecond) // the system has no room for it
		return
	}
	defer c.Close()
	a.mu.Lock()
	a.connections++
	a.mu.Unlock()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if a.ask == nil {
		a.attack(ctx, c)
		return
	}
	saw := a.ask(ctx, c)
	a.mu.Lock()
	a.saw[saw]++
	a.mu.Unlock()
}

const post = "POST /v1/addresses:batchResolve HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"

// bundlePath is where the bundle of the attacked server's long chain of anchors is.
func bundlePath(t *testing.T) string {
	return "/v1/anchors/chains/" + rpctest.ID(rpctest.AnchorOf(t, "child", rpctest.Record("example.org", 0))) + "/bundle"
}

// get is a request over HTTP/1.
func get(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: localhost\r\n\r\n" }

// sieges are all the ways there are for clients that reach a server.
func sieges(t *testing.T) []siege {
	addresses, streams, attempts := 2000, 20, 300
	if exhaustive() {
		addresses, streams, attempts = 10_000, 100, 10_000
	}
	deep := `{"addresses":[` + strings.TrimSuffix(strings.Repeat(fmt.Sprintf("%q,", rpctest.Address("deep120")), addresses), ",") + `]}`
	batch := post + fmt.Sprintf("Content-Length: %d\r\n\r\n", len(deep)) + deep
	resolve := &keytreev1.ResolveAddressRequest{Address: rpctest.Address("deep7")}
	watch := &keytreev1.WatchRequest{FromHeight: proto.Uint32(0)}
	hello := string(clientHello())
	silent := say("")
	const many, page, one = "/v1/events?page_size=10000", "/v1/events?page_size=100", "/v1/events?page_size=1&from_height=2"
	const usual = 1<<16 - 1 // the window of HTTP/2
	return []siege{
		// Those by which an earlier version had more memory than there is.
		{name: "batches of one deep address", wire: overREST, attack: asks(batch)},
		{name: "unread batches of one deep address", wire: overREST, attack: unread(batch)},
		{name: "pages of one event of a large block", wire: overREST, attack: asks(get(one)), restless: true},
		{name: "unread Watch streams", wire: overGRPC, attack: overHTTP2(0, unanswered("Watch", watch, 10))},
		{name: "stalled bodies", wire: overREST, attack: say(post + "Content-Length: 2000000\r\n\r\n" + strings.Repeat(" ", 1<<20))},
		{name: "bundles", wire: overREST, attack: asks(get(bundlePath(t)))},
		{name: "unread bundles", wire: overREST, attack: unread(get(bundlePath(t)))},

		{name: "idle connections", wire: overREST, attack: silent},
		{name: "idle gRPC connections", wire: overGRPC, attack: say(http2.ClientPreface)},
		{name: "connections again and again", wire: overREST, attack: func(context.Context, net.Conn) {}, restless: true},
		{name: "attempted connections", wire: overREST, ask: attempt, attackers: attempts},
		{name: "attempted connections over TLS", wire: overSecureREST, ask: attemptTLS, attackers: attempts},
		{name: "slow headers", wire: overREST, attack: drip("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", "x")},
		{name: "endless headers", wire: overREST, attack: flood("GET /healthz HTTP/1.1\r\nHost: localhost\r\n", "X-Long: "+strings.Repeat("x", 4000)+"\r\n")},
		{name: "endless chunked bodies", wire: overREST, attack: flood(post+"Transfer-Encoding: chunked\r\n\r\n", "4000\r\n"+strings.Repeat(" ", 0x4000)+"\r\n")},
		{name: "dripping chunked bodies", wire: overREST, attack: drip(post+"Transfer-Encoding: chunked\r\n\r\n", "1\r\n \r\n")},
		{name: "unread events", wire: overREST, attack: unread(get(many))},
		{name: "unread event streams", wire: overREST, attack: unread(get("/v1/stream?from_height=0"))},
		{name: "pipelined requests", wire: overREST, attack: flood("", strings.Repeat(get(page), 50))},
		{name: "requests without a pause", wire: overREST, attack: asks(get(page)), restless: true},

		{name: "no HTTP/2 at all", wire: overGRPC, attack: flood("", strings.Repeat("x", 1000))},
		{name: "rapid reset", wire: overGRPC, attack: recorded(rapidReset(""))},
		{name: "rapid reset of REST", wire: overSecureREST, attack: overTLS(nil, recorded(rapidReset(page)), "h2")},
		{name: "endless headers over HTTP/2", wire: overSecureREST, attack: overTLS(nil, recorded(continuations), "h2")},
		{name: "ping flood", wire: overGRPC, attack: recorded(pings)},
		{name: "settings flood", wire: overGRPC, attack: recorded(settings)},
		{name: "stalled gRPC messages", wire: overGRPC, attack: overHTTP2(usual, stalledMessages(streams))},
		{name: "window starvation", wire: overGRPC, attack: overHTTP2(0, unanswered("BatchResolve", deepBatch(), 3))},
		{name: "window starvation of REST", wire: overSecureREST, attack: overTLS(nil, overHTTP2(0, unreadPaths(many, 10)), "h2")},
		{name: "many small unread answers", wire: overGRPC, attack: overHTTP2(0, unanswered("ResolveAddress", resolve, 100))},

		{name: "no ClientHello", wire: overSecureREST, attack: silent},
		{name: "no ClientHello for gRPC", wire: overSecureGRPC, attack: silent},
		{name: "half a ClientHello", wire: overSecureREST, attack: say(hello[:len(hello)/2])},
		{name: "half a ClientHello for gRPC", wire: overSecureGRPC, attack: say(hello[:len(hello)/2])},
		{name: "a dripping ClientHello", wire: overSecureREST, attack: drip("", hello)},
		{name: "half a handshake", wire: overSecureREST, attack: say(hello)},
		{name: "a handshake, and nothing more", wire: overSecureREST, attack: overTLS(nil, silent)},
		{name: "a handshake with gRPC, and nothing more", wire: overSecureGRPC, attack: overTLS(nil, silent, "h2")},
		{name: "one ClientHello again and again", wire: overSecureREST, attack: replay([]byte(hello)), restless: true},
		{name: "one ClientHello again and again, for gRPC", wire: overSecureGRPC, attack: replay([]byte(hello)), restless: true},
		{name: "sessions resumed again and again", wire: overSecureREST, attack: overTLS(tls.NewLRUClientSessionCache(0), func(context.Context, net.Conn) {}), restless: true},
	}
}

// attempt connects, asks, and stays until it is closed. It tells what it saw.
func attempt(_ context.Context, c net.Conn) string {
	io.WriteString(c, get("/healthz"))
	answer, err := http.ReadResponse(bufio.NewReader(c), nil)
	switch {
	case err != nil:
		return "closed"
	case answer.StatusCode != http.StatusOK && answer.Header.Get("Retry-After") == "":
		return answer.Status + " for ever"
	}
	io.Copy(io.Discard, answer.Body)
	io.Copy(io.Discard, c)
	return answer.Status
}

// attemptTLS is attempt inside TLS.
func attemptTLS(ctx context.Context, c net.Conn) string {
	saw := "closed in the handshake"
	overTLS(nil, func(ctx context.Context, c net.Conn) { saw = attempt(ctx, c) })(ctx, c)
	return saw
}
