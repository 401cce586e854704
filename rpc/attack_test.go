package rpc_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/keytree-bch/keytree/rpc/admission"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// The attackers have addresses of their own on the loopback interface, and so has the
// honest client, which is limited as they are.

// dialFrom connects from the n-th address of the loopback interface.
func dialFrom(ctx context.Context, n int, address string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 1, byte(n>>8), byte(n))}}
	return d.DialContext(ctx, "tcp", address)
}

// siege is an attack: what each attacker does on a connection of his own until ctx ends.
type siege struct {
	rest   bool // else gRPC
	attack func(ctx context.Context, c net.Conn)
}

// besieged is a server, in a process of its own, with an honest client.
type besieged struct {
	*attacked
	http         *http.Client
	conn         *grpc.ClientConn
	identity     keytreev1.IdentityServiceClient
	path         string // what it asks for
	resolve      *keytreev1.ResolveAddressRequest
	patientTries atomic.Int64 // answers that were asked for again
}

// exhaustive reports whether to attack with the limits of a real server, and many more
// attackers.
func exhaustive() bool { return os.Getenv("KEYTREE_EXHAUSTIVE") != "" }

func newBesieged(t *testing.T) *besieged {
	t.Helper()
	b := &besieged{
		attacked: startAttacked(t),
		path:     "/v1/addresses/" + rpctest.Address("deep7"),
		resolve:  &keytreev1.ResolveAddressRequest{Address: rpctest.Address("deep7")},
	}
	probe, err := dialFrom(t.Context(), 0, b.REST)
	if err != nil {
		t.Skipf("this system has one loopback address only: %v", err)
	}
	probe.Close()
	dial := func(ctx context.Context, address string) (net.Conn, error) { return dialFrom(ctx, 1, address) }
	b.http = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) { return dial(ctx, address) },
	}}
	t.Cleanup(b.http.CloseIdleConnections)
	b.conn, err = grpc.NewClient(b.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(dial))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.conn.Close() })
	b.identity = keytreev1.NewIdentityServiceClient(b.conn)
	return b
}

// ask asks once over each wire, over a new connection if fresh. A connection that is closed
// while it is idle may be one that the next request was sent on: that one is asked again, as
// clients do.
func (b *besieged) ask(ctx context.Context, fresh bool) error {
	if fresh {
		b.http.CloseIdleConnections()
	}
	var err error
	for range patience {
		if err = b.get(ctx, b.path); err == nil {
			break
		}
		b.again()
	}
	if err != nil {
		return fmt.Errorf("REST: %w", err)
	}
	for range patience {
		if _, err = b.identity.ResolveAddress(ctx, b.resolve, grpc.WaitForReady(true)); err == nil {
			return nil
		}
		b.again()
	}
	return fmt.Errorf("gRPC: %w", err)
}

// patience is how often the honest client asks until it takes a refusal for an answer.
const patience = 100

// again waits a little, less than a refusal says, before the honest client asks again.
func (b *besieged) again() {
	b.patientTries.Add(1)
	time.Sleep(10 * time.Millisecond)
}

// get asks once for what is at a path of REST.
func (b *besieged) get(ctx context.Context, path string) error {
	request, err := http.NewRequestWithContext(ctx, "GET", "http://"+b.REST+path, nil)
	if err != nil {
		return err
	}
	response, err := b.http.Do(request)
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

// awaitCalm waits until nothing is in use any more but by the honest client, for a minute
// at most, and tells how long that took.
func (b *besieged) awaitCalm(t *testing.T) time.Duration {
	t.Helper()
	b.http.CloseIdleConnections()
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		u := b.look(t, lookAtUsage).Usage
		u.Remembered = 0
		if u.Connections <= 1 && u == (admission.Usage{Connections: u.Connections}) { // that of the gRPC client
			return time.Since(began)
		}
		if time.Since(began) > time.Minute {
			t.Fatalf("still in use: %+v", u)
		}
	}
}

// withstand has attackers attack, each again and again over a new connection, and asks
// meanwhile.
func (b *besieged) withstand(t *testing.T, s siege) {
	attackers, addresses, questions, pause := 80, 16, 5, 300*time.Millisecond
	if exhaustive() {
		attackers, addresses, questions, pause = 3000, 200, 200, 5*time.Second
	}
	if err := b.ask(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	before := b.look(t, lookAtMemory)
	ctx, cancel := context.WithCancel(t.Context())
	var attacks atomic.Int64
	var attacking sync.WaitGroup
	target := b.GRPC
	if s.rest {
		target = b.REST
	}
	for i := range attackers {
		attacking.Go(func() {
			for ctx.Err() == nil {
				c, err := dialFrom(ctx, 2+i%addresses, target)
				if err != nil {
					continue
				}
				attacks.Add(1)
				stop := context.AfterFunc(ctx, func() { c.Close() })
				s.attack(ctx, c)
				stop()
				c.Close()
				time.Sleep(pause) // leaves the attacked a processor
			}
		})
	}
	// The attack is under way once each attacker has connected. Attackers who have no processor
	// left may take long over that, and need not be waited for.
	for began := time.Now(); attacks.Load() < int64(attackers) && time.Since(began) < 10*time.Second; {
		time.Sleep(time.Millisecond)
	}
	var took []time.Duration
	for i := range questions {
		began := time.Now()
		if err := b.ask(ctx, i%2 == 0); err != nil {
			t.Errorf("question %d: %v", i, err)
		}
		took = append(took, time.Since(began))
		b.checkUsage(t)
	}
	during := b.look(t, lookAtUsage)
	cancel()
	attacking.Wait()
	calm := b.awaitCalm(t)
	if err := b.ask(t.Context(), true); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	after := b.look(t, lookAtMemory)
	slices.Sort(took)
	t.Logf("%d connections of attackers; honest client: median %v, p99 %v, asked again %d times; nothing in use after %v; the server's process: peak %d MiB (before: %d MiB), in use afterwards %+d kB; at the end: %+v",
		attacks.Load(), took[len(took)/2], took[len(took)*99/100], b.patientTries.Swap(0), calm, after.Peak>>20, before.Peak>>20, (after.InUse-before.InUse)>>10, during.Usage)
	if grown := after.InUse - before.InUse; grown > mostLeft {
		t.Errorf("%d MiB are in use afterwards that were not before, expected %d at most", grown>>20, mostLeft>>20)
	}
	if exhaustive() && after.Peak > attackedMemory {
		t.Errorf("the server's process took %d MiB, more than the %d MiB that it was given", after.Peak>>20, attackedMemory>>20)
	}
}

// mostLeft is how much memory a siege may leave in use, in bytes: pools and tables that later calls use again.
const mostLeft = 32 << 20

// TestSieges attacks a server in all the ways there are for clients that are connected,
// with many more connections than it takes.
func TestSieges(t *testing.T) {
	b := newBesieged(t)
	untilClosed := func(c net.Conn) { io.Copy(io.Discard, c) }
	// All attackers send the same bytes, not a copy each.
	say := func(text string) func(context.Context, net.Conn) {
		sent := []byte(text)
		return func(_ context.Context, c net.Conn) {
			c.Write(sent)
			untilClosed(c)
		}
	}
	const post = "POST /v1/addresses:batchResolve HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
	addresses, streams := 2000, 20
	if exhaustive() {
		addresses, streams = 10_000, 100
	}
	bundle := "/v1/anchors/chains/" + rpctest.ID(rpctest.AnchorOf(t, "child", rpctest.Record("example.org", 0))) + "/bundle"
	if err := b.get(t.Context(), bundle); err != nil {
		t.Fatalf("%s: %v", bundle, err)
	}
	deep := strings.TrimSuffix(strings.Repeat(fmt.Sprintf("%q,", rpctest.Address("deep120")), addresses), ",")
	batch := `{"addresses":[` + deep + `]}`
	unread := func(text string) func(context.Context, net.Conn) {
		sent := []byte(text)
		return func(ctx context.Context, c net.Conn) {
			c.(*net.TCPConn).SetReadBuffer(4 << 10)
			c.Write(sent)
			<-closedByPeer(ctx, c)
		}
	}
	for _, attack := range []struct {
		name string
		siege
	}{
		{"idle connections", siege{true, say("")}},
		{"idle gRPC connections", siege{false, say(http2.ClientPreface)}},
		{"slow headers", siege{true, drip("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", "x")}},
		{"endless headers", siege{true, flood("GET /healthz HTTP/1.1\r\nHost: localhost\r\n", "X-Long: "+strings.Repeat("x", 4000)+"\r\n")}},
		{"stalled bodies", siege{true, say(post + "Content-Length: 2000000\r\n\r\n" + strings.Repeat(" ", 1<<20))}},
		{"endless chunked bodies", siege{true, flood(post+"Transfer-Encoding: chunked\r\n\r\n", "4000\r\n"+strings.Repeat(" ", 0x4000)+"\r\n")}},
		{"dripping chunked bodies", siege{true, drip(post+"Transfer-Encoding: chunked\r\n\r\n", "1\r\n \r\n")}},
		{"unread batches", siege{true, unread(post + fmt.Sprintf("Content-Length: %d\r\n\r\n", len(batch)) + batch)}},
		{"unread bundles", siege{true, unread("GET " + bundle + " HTTP/1.1\r\nHost: localhost\r\n\r\n")}},
		{"unread events", siege{true, unread("GET /v1/events?page_size=10000 HTTP/1.1\r\nHost: localhost\r\n\r\n")}},
		{"pipelined requests", siege{true, flood("", "GET /v1/events?page_size=100 HTTP/1.1\r\nHost: localhost\r\n\r\n")}},
		{"no HTTP/2 at all", siege{false, flood("", strings.Repeat("x", 1000))}},
		{"rapid reset", siege{false, overHTTP2(1<<16-1, rapidReset)}},
		{"ping flood", siege{false, overHTTP2(1<<16-1, pings)}},
		{"stalled gRPC messages", siege{false, overHTTP2(1<<16-1, stalledMessages(streams))}},
		{"window starvation", siege{false, overHTTP2(0, unanswered("BatchResolve", deepBatch(), 3))}},
		{"many small unread answers", siege{false, overHTTP2(0, unanswered("ResolveAddress", b.resolve, 100))}},
		{"unread Watch streams", siege{false, overHTTP2(0, unanswered("Watch", &keytreev1.WatchRequest{FromHeight: proto.Uint32(0)}, 10))}},
	} {
		t.Run(attack.name, func(t *testing.T) { b.withstand(t, attack.siege) })
	}
}

// closedByPeer is closed when the other side has reset the connection, which a side that
// does not read finds out by writing.
func closedByPeer(ctx context.Context, c net.Conn) <-chan struct{} {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		for ctx.Err() == nil {
			if _, err := c.Write([]byte("\r\n")); err != nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	return closed
}

// pace is how long an attacker waits before he goes on. The attacked has the same
// processors.
func pace() time.Duration {
	if exhaustive() {
		return time.Second
	}
	return 5 * time.Millisecond
}

// drip sends a text, and then another byte by byte, slowly.
func drip(text, more string) func(context.Context, net.Conn) {
	return func(ctx context.Context, c net.Conn) {
		_, err := io.WriteString(c, text)
		for i := 0; err == nil && ctx.Err() == nil; i++ {
			time.Sleep(pace())
			_, err = io.WriteString(c, more[i%len(more):i%len(more)+1])
		}
	}
}

// flood sends a text, and then another again and again. It reads nothing.
func flood(text, more string) func(context.Context, net.Conn) {
	again := []byte(more)
	return func(ctx context.Context, c net.Conn) {
		_, err := io.WriteString(c, text)
		for err == nil && ctx.Err() == nil {
			c.SetWriteDeadline(time.Now().Add(2 * time.Second))
			_, err = c.Write(again)
			time.Sleep(pace())
		}
	}
}

// peer2 is a client that speaks HTTP/2 by frames, and reads nothing unless it is told to.
type peer2 struct {
	net.Conn
	*http2.Framer
	ctx     context.Context
	headers *hpack.Encoder
	block   bytes.Buffer
}

// overHTTP2 attacks over HTTP/2. The window is how many bytes of each answer may be sent.
func overHTTP2(window uint32, attack func(*peer2) error) func(context.Context, net.Conn) {
	return func(ctx context.Context, c net.Conn) {
		c.SetWriteDeadline(time.Now().Add(20 * time.Second))
		p := &peer2{Conn: c, Framer: http2.NewFramer(c, c), ctx: ctx}
		p.headers = hpack.NewEncoder(&p.block)
		if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
			return
		}
		if p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window}) != nil || p.WriteSettingsAck() != nil {
			return
		}
		if attack(p) == nil {
			io.Copy(io.Discard, c)
		}
	}
}

// begin sends the header of a gRPC call.
func (p *peer2) begin(stream uint32, method string, more ...[2]string) error {
	p.block.Reset()
	for _, field := range slices.Concat([][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", "/keytree.v1.IdentityService/" + method}, {":authority", "localhost"},
		{"content-type", "application/grpc"}, {"te", "trailers"},
	}, more) {
		p.headers.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
	}
	return p.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: p.block.Bytes(), EndHeaders: true})
}

// send sends a message, in pieces of a frame. It has to fit into the window that a server
// gives at first, or be read.
func (p *peer2) send(stream uint32, message []byte, end bool) error {
	for len(message) > 0 {
		n := min(len(message), 16<<10)
		if err := p.WriteData(stream, end && n == len(message), message[:n]); err != nil {
			return err
		}
		message = message[n:]
	}
	return nil
}

// framed is a message as gRPC sends it.
func framed(m proto.Message) []byte {
	text, err := proto.Marshal(m)
	if err != nil {
		panic(err) // the test's own
	}
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(text))), text...)
}

// deepBatch asks for as many addresses as fit into a window: their answer has some 7 MB.
func deepBatch() *keytreev1.BatchResolveRequest {
	_, short, _ := strings.Cut(rpctest.Address("deep120"), ":")
	m := &keytreev1.BatchResolveRequest{}
	for range 1200 {
		m.Addresses = append(m.Addresses, short)
	}
	return m
}

// unanswered makes calls and reads no answer.
func unanswered(method string, request proto.Message, times int) func(*peer2) error {
	message := framed(request)
	return func(p *peer2) error {
		for i := range times {
			stream := uint32(2*i + 1)
			if err := p.begin(stream, method); err != nil {
				return err
			}
			if err := p.send(stream, message, true); err != nil {
				return err
			}
		}
		return nil
	}
}

// stalledMessages begins so many messages, each as long as a server allows.
func stalledMessages(streams int) func(*peer2) error {
	start := append(binary.BigEndian.AppendUint32([]byte{0}, admission.MaxRequest), make([]byte, 60<<10)...)
	return func(p *peer2) error {
		for i := range streams {
			stream := uint32(2*i + 1)
			if err := p.begin(stream, "BatchResolve"); err != nil {
				return err
			}
			if err := p.send(stream, start, false); err != nil {
				return err
			}
		}
		return nil
	}
}

// floodOf is how many frames a flood has.
func floodOf() int {
	if exhaustive() {
		return 20_000
	}
	return 500
}

// rapidReset begins calls and takes them back at once.
func rapidReset(p *peer2) error {
	for i := range floodOf() {
		stream := uint32(2*i + 1)
		if err := p.begin(stream, "ResolveAddress"); err != nil {
			return err
		}
		if err := p.WriteRSTStream(stream, http2.ErrCodeCancel); err != nil {
			return err
		}
	}
	return nil
}

func pings(p *peer2) error {
	for range floodOf() {
		if err := p.WritePing(false, [8]byte{}); err != nil {
			return err
		}
	}
	return nil
}
