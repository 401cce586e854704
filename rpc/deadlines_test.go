package rpc_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/protobuf/proto"

	"github.com/keytree-bch/keytree/rpc"
	"github.com/keytree-bch/keytree/rpc/admission"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// TestDeadlines has clients be slow that nobody waits for. Each is cut off, and all that
// it had is given back. A test that waits for ever has failed.
func TestDeadlines(t *testing.T) {
	limits := admission.DefaultLimits()
	limits.Arrive, limits.Take = 200*time.Millisecond, 200*time.Millisecond
	gate := admission.New(admission.Config{Limits: limits})
	r := rpctest.NewOf(t, rpc.Config{Admission: gate}, rpctest.RequestsOf(&rpctest.Chain{}, 20_000))
	rest, grpc := strings.TrimPrefix(r.URL, "http://"), r.Conn.Target()
	r.Conn.Close() // so that nothing but the test's connections is in use
	closed := func(c net.Conn) { io.Copy(io.Discard, c) }
	unread := func(c net.Conn) { <-closedByPeer(t.Context(), c) }
	const post = "POST /v1/addresses:batchResolve HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
	for name, test := range map[string]struct {
		address string
		begin   func(context.Context, net.Conn) // and does not go on
		await   func(net.Conn)                  // the connection's end; nil if it may stay
	}{
		"nothing":           {rest, nil, closed},
		"half a header":     {rest, text("GET /healthz HTTP/1.1\r\nHost: loc"), closed},
		"half a body":       {rest, text(post + "Content-Length: 100000\r\n\r\n" + strings.Repeat(" ", 50_000)), closed},
		"half a chunk":      {rest, text(post + "Transfer-Encoding: chunked\r\n\r\n8\r\n    "), closed},
		"an unread answer":  {rest, text("GET /v1/events?page_size=10000 HTTP/1.1\r\nHost: localhost\r\n\r\n"), unread},
		"no HTTP/2 preface": {grpc, text("PRI"), closed},
		"half a message": {grpc, overHTTP2(1<<16-1, func(p *peer2) error {
			if err := stalledMessages(1)(p); err != nil {
				return err
			}
			awaitEndOfStream(p.Conn)
			return io.EOF // with which it goes: the connection may stay
		}), nil},
		"calls without time": {grpc, overHTTP2(1<<16-1, func(p *peer2) error {
			for i := range 50 {
				if err := p.begin(uint32(2*i+1), "Watch", [2]string{"grpc-timeout", "1n"}); err != nil {
					return err
				}
			}
			awaitEndOfStream(p.Conn)
			return io.EOF
		}), nil},
		"an unread message": {grpc, overHTTP2(0, unanswered("ResolveAddress", &keytreev1.ResolveAddressRequest{Address: rpctest.Address("a")}, 1)), closed},
		"an unread Watch":   {grpc, overHTTP2(0, unanswered("Watch", &keytreev1.WatchRequest{FromHeight: proto.Uint32(0)}, 1)), closed},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := net.Dial("tcp", test.address)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.(*net.TCPConn).SetReadBuffer(4 << 10)
			if test.begin != nil {
				test.begin(t.Context(), c)
			}
			if test.await != nil {
				test.await(c)
			}
			c.Close()
			for u := gate.Usage(); ; u = gate.Usage() {
				if u.Remembered = 0; u == (admission.Usage{}) {
					break
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
}

// text sends a text.
func text(s string) func(context.Context, net.Conn) {
	return func(_ context.Context, c net.Conn) { io.WriteString(c, s) }
}

// awaitEndOfStream reads until a stream has ended, or the connection.
func awaitEndOfStream(c net.Conn) {
	frames := http2.NewFramer(io.Discard, c)
	for {
		frame, err := frames.ReadFrame()
		if err != nil || frame.Header().StreamID != 0 && (frame.Header().Type == http2.FrameRSTStream || frame.Header().Flags.Has(http2.FlagHeadersEndStream)) {
			return
		}
	}
}

// TestBatchOverGRPCIsBounded asks for an answer that is longer than what one client may be
// owed.
func TestBatchOverGRPCIsBounded(t *testing.T) {
	limits := admission.DefaultLimits()
	limits.BytesOut = admission.Budget{All: 1 << 20, One: 1 << 20}
	gate := admission.New(admission.Config{Limits: limits})
	r := rpctest.NewOf(t, rpc.Config{Admission: gate}, (&rpctest.Chain{}).Block())
	ask := func(n int) error {
		request := new(keytreev1.BatchResolveRequest)
		for i := range n {
			request.Addresses = append(request.Addresses, rpctest.Address(fmt.Sprint("never linked", i)))
		}
		_, err := r.Client.BatchResolve(t.Context(), request)
		return err
	}
	if err := ask(1000); err != nil {
		t.Errorf("a short one: %v", err)
	}
	if err := ask(10_000); err == nil || !strings.Contains(err.Error(), "too many bytes not taken of your address") {
		t.Errorf("a long one: %v", err)
	}
	if err := ask(1000); err != nil {
		t.Errorf("another short one: %v", err)
	}
	if got := gate.Usage().BytesOut; got > 1<<20 {
		t.Errorf("%d bytes are held", got)
	}
}
