package nodetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/keytree-bch/keytree/indexer/node"
)

// proxy passes connections on to a node, faithfully or not.
type proxy struct {
	address  string // HOST:PORT of the proxy
	node     string // HOST:PORT of the node
	listener net.Listener
	swallows chan struct{} // has a value after something was swallowed
	running  sync.WaitGroup

	mu    sync.Mutex
	fault fault             // mu
	conns map[net.Conn]bool // mu; nil when closed
}

// fault is what becomes of a connection. The zero value is that it is passed on.
type fault func(p *proxy, client net.Conn)

// newProxy returns a proxy that passes everything on, until the test ends.
func newProxy(t *testing.T, address string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{address: l.Addr().String(), node: address, listener: l, swallows: make(chan struct{}, 1), conns: make(map[net.Conn]bool)}
	p.running.Go(p.accept)
	t.Cleanup(func() {
		l.Close()
		p.mu.Lock()
		for conn := range p.conns {
			conn.Close()
		}
		p.conns = nil
		p.mu.Unlock()
		p.running.Wait()
	})
	return p
}

// set closes the connections that there are; new ones have that fault.
func (p *proxy) set(f fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = f
	for conn := range p.conns {
		conn.Close()
	}
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		serve := p.fault
		if serve == nil {
			serve = pass
		}
		if p.conns == nil {
			client.Close()
		} else {
			p.conns[client] = true
			p.running.Go(func() {
				serve(p, client)
				client.Close()
				p.mu.Lock()
				delete(p.conns, client)
				p.mu.Unlock()
			})
		}
		p.mu.Unlock()
	}
}

// pass connects the client with the node.
func pass(p *proxy, client net.Conn) {
	p.connect(client, func(w io.Writer, r io.Reader) { io.Copy(w, r) })
}

// cut ends the connection after so many bytes from the node.
func cut(after int64) fault {
	return func(p *proxy, client net.Conn) {
		p.connect(client, func(w io.Writer, r io.Reader) { io.CopyN(w, r, after) })
	}
}

// connect passes on what the client says, and has answer pass on what the node says.
func (p *proxy) connect(client net.Conn, answer func(io.Writer, io.Reader)) {
	node, err := net.Dial("tcp", p.node)
	if err != nil {
		return
	}
	defer node.Close()
	p.running.Go(func() {
		io.Copy(node, client)
		node.Close()
	})
	answer(client, node)
}

// swallow never answers.
func swallow(p *proxy, client net.Conn) {
	buf := make([]byte, 1<<10)
	for {
		if _, err := client.Read(buf); err != nil {
			return
		}
		select {
		case p.swallows <- struct{}{}:
		default:
		}
	}
}

// say answers the first that comes with something.
func say(something string) fault {
	return func(_ *proxy, client net.Conn) {
		if _, err := client.Read(make([]byte, 1<<10)); err == nil {
			io.WriteString(client, something)
		}
	}
}

// garbage is what some program at the node's address may say that is not the node.
var garbage = map[string]string{
	"a greeting":        "SSH-2.0-OpenSSH_10.0\r\n",
	"a web page":        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\r\n<html></html>",
	"a missing page":    "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
	"half a web page":   "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 100\r\n\r\n<html>",
	"zero bytes":        string(make([]byte, 100)),
	"a TLS alert":       "\x15\x03\x03\x00\x02\x02\x28", // handshake_failure
	"a frame of HTTP/2": "\x00\x00\x00\x04\x00\x00\x00\x00\x00",
}

// testConnection asks over a connection that fails in some way, and then works again.
func (l *live) testConnection(t *testing.T) {
	faults := make(map[string]fault)
	for _, n := range []int64{0, 1, 100, 1000, 2000, 3000, 4000, 8000} {
		faults[fmt.Sprintf("cut after %d bytes", n)] = cut(n)
	}
	for name, text := range garbage {
		faults[name] = say(text)
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProxy(t, l.Address)
			c := l.dial(t, p.address, hasty)
			p.set(fault)
			for _, q := range questions(l.Chain) {
				if err := q.ask(t.Context(), c); err != nil && !passes(err) {
					t.Errorf("%s: %v", q.what, err)
				}
			}
			p.set(nil)
			l.await(t, c)
		})
	}
	t.Run("silent", func(t *testing.T) {
		t.Parallel()
		for _, q := range questions(l.Chain) {
			t.Run(q.what, func(t *testing.T) {
				t.Parallel()
				p := newProxy(t, l.Address)
				c := l.dial(t, p.address, patient)
				p.set(swallow)
				ctx, cancel := context.WithCancelCause(t.Context())
				go func() {
					select {
					case <-p.swallows:
						cancel(errEnough)
					case <-ctx.Done():
					}
				}()
				if err := q.ask(ctx, c); !passes(err) || !errors.Is(err, errEnough) {
					t.Errorf("got %v, want %v and the context's cause", err, node.ErrUnavailable)
				}
				cancel(nil)
				p.set(nil)
				l.await(t, c)
			})
		}
	})
}
