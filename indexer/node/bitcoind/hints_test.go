package bitcoind_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/go-zeromq/zmq4"
	"github.com/go-zeromq/zmq4/security/null"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/bitcoind"
)

// publisher is a node's -zmqpubhashblock.
type publisher struct {
	t      *testing.T
	socket zmq4.Socket
	cancel context.CancelFunc
}

func publish(t *testing.T, address string) *publisher {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p := &publisher{t, zmq4.NewPub(ctx), cancel}
	check(t, p.socket.Listen("tcp://"+address))
	t.Cleanup(p.close)
	return p
}

func (p *publisher) close() {
	p.cancel()
	_ = p.socket.Close() // of connections that the other side has closed
}

func (p *publisher) address() string { return p.socket.Addr().String() }

// announce says that hash is the tip.
func (p *publisher) announce(hash chainhash.Hash) {
	p.t.Helper()
	slices.Reverse(hash[:])
	check(p.t, p.socket.Send(zmq4.NewMsgFrom([]byte("hashblock"), hash[:], []byte{1, 0, 0, 0})))
}

// announceUntilHint announces until a hint comes: what is sent before the
// subscription has arrived is lost.
func (p *publisher) announceUntilHint(c *bitcoind.Client, hash chainhash.Hash) {
	p.t.Helper()
	for {
		p.announce(hash)
		select {
		case <-c.Changes():
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func TestHints(t *testing.T) {
	n := newBCHN(t)
	p := publish(t, "127.0.0.1:0")
	cfg := n.config()
	cfg.ZMQ = p.address()
	log := make(lines, 100)
	cfg.Log = zerolog.New(log)
	c := dial(t, cfg)
	<-c.Changes() // subscribed
	p.announceUntilHint(c, n.mine())

	// The node is started anew.
	p.close()
	for line := range log {
		if strings.Contains(line, "notifications interrupted") {
			break
		}
	}
	p = publish(t, cfg.ZMQ)
	<-c.Changes() // perhaps of the last announcement, or subscribed again
	p.announceUntilHint(c, n.mine())
	p.announceUntilHint(c, n.mine())
}

// TestStall has a connection that stands and says nothing of new blocks.
func TestStall(t *testing.T) {
	n := newBCHN(t)
	p := publish(t, "127.0.0.1:0")
	cfg := n.config()
	cfg.ZMQ, cfg.StallAfter = p.address(), time.Millisecond
	log := make(lines, 100)
	cfg.Log = zerolog.New(log)
	c := dial(t, cfg)
	<-c.Changes() // subscribed
	look := func() (stalled bool) {
		n.mine()
		must[node.Tip](t)(c.Tip(t.Context()))
		select {
		case line := <-log:
			return strings.Contains(line, "a new block was not announced")
		case <-time.After(10 * time.Millisecond):
			return false
		}
	}
	// During its initial download a node announces nothing.
	n.set(func() { n.download = true })
	for range 10 {
		if look() {
			t.Error("a node in its initial download was taken for silent")
		}
	}
	n.set(func() { n.download = false })
	for !look() {
	}
	<-c.Changes() // subscribed again
	p.announceUntilHint(c, n.mine())
}

// TestHintsFromElsewhere subscribes to what is no publisher of hashes.
func TestHintsFromElsewhere(t *testing.T) {
	const silence = "(says nothing)"
	for name, test := range map[string]struct {
		talk func(net.Conn) error
		want string
	}{
		"long frame": {func(conn net.Conn) error {
			c, err := zmq4.Open(conn, null.Security(), zmq4.Pub, nil, true, nil)
			if err == nil {
				_, err = c.Write([]byte{2, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
			}
			return err
		}, "is it the address of -zmqpubhashblock?"},
		"frames without end": {func(conn net.Conn) error {
			c, err := zmq4.Open(conn, null.Security(), zmq4.Pub, nil, true, nil)
			for range 9 {
				if err == nil {
					_, err = c.Write([]byte{1, 1, 'x'})
				}
			}
			return err
		}, "is it the address of -zmqpubhashblock?"},
		"web server": {func(conn net.Conn) error {
			_, err := fmt.Fprintf(conn, "HTTP/1.1 400 Bad Request\r\n%s\r\n\r\n", strings.Repeat("x", 64))
			return err
		}, "notifications interrupted"},
		"nobody": {func(net.Conn) error { return nil }, silence},
	} {
		t.Run(name, func(t *testing.T) {
			l := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
			defer l.Close()
			accepted := make(chan struct{}, 100)
			served := make(chan struct{})
			go func() {
				defer close(served)
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					defer conn.Close()
					accepted <- struct{}{}
					if err := test.talk(conn); err != nil {
						return
					}
				}
			}()
			cfg := newBCHN(t).config()
			cfg.ZMQ = l.Addr().String()
			log := make(lines, 100)
			cfg.Log = zerolog.New(log)
			c := must[*bitcoind.Client](t)(bitcoind.Dial(t.Context(), cfg))
			<-accepted
			if test.want != silence {
				for line := range log {
					if strings.Contains(line, test.want) {
						break
					}
				}
			}
			check(t, c.Close())
			l.Close()
			<-served
		})
	}
}
