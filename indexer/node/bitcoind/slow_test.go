package bitcoind

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/rs/zerolog"
)

// pipes is a network of its own: time in a test's bubble goes on while its
// connections wait.
type pipes chan net.Conn

func (p pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case p <- theirs:
		return ours, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept implements net.Listener.
func (p pipes) Accept() (net.Conn, error) {
	if conn, open := <-p; open {
		return conn, nil
	}
	return nil, net.ErrClosed
}

// Close implements net.Listener.
func (p pipes) Close() error { close(p); return nil }

// Addr implements net.Listener.
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

// inBubble runs test with a client of the node that handler is, in a time of its
// own.
func inBubble(t *testing.T, handler http.HandlerFunc, test func(*testing.T, *Client)) {
	synctest.Test(t, func(t *testing.T) {
		network := make(pipes)
		server := &http.Server{Handler: handler}
		served := make(chan error)
		go func() { served <- server.Serve(network) }()
		c, err := newClient(Config{Address: nowhere, User: "me", Password: "hush", Network: &chaincfg.RegressionNetParams, Log: zerolog.Nop()})
		if err != nil {
			t.Fatal(err)
		}
		c.http.Transport.(*http.Transport).DialContext = network.dial
		test(t, c)
		c.close()
		c.http.CloseIdleConnections()
		server.Close()
		<-served
	})
}

// TestSlowREST has REST begin no answer: after a while the block comes by JSON-RPC,
// and REST is asked again only later.
func TestSlowREST(t *testing.T) {
	genesis := chaincfg.RegressionNetParams.GenesisHash
	var raw bytes.Buffer
	if err := chaincfg.RegressionNetParams.GenesisBlock.Serialize(&raw); err != nil {
		t.Fatal(err)
	}
	asked := make(chan string, 10)
	var begins atomic.Bool // REST begins an answer at once, which takes long
	inBubble(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			asked <- "REST"
			if !begins.Load() {
				<-r.Context().Done()
				return
			}
			_, _ = w.Write(raw.Bytes()[:100])
			_ = http.NewResponseController(w).Flush()
			time.Sleep(2 * restTimeout)
			_, _ = w.Write(raw.Bytes()[100:])
			return
		}
		asked <- "JSON-RPC"
		fmt.Fprintf(w, `{"result":"%x","error":null,"id":1}`, raw.Bytes())
	}, func(t *testing.T, c *Client) {
		for _, step := range []struct {
			wait   time.Duration
			begins bool
			takes  time.Duration
			asks   string
		}{
			{0, false, restTimeout, "REST JSON-RPC"},
			{0, false, 0, "JSON-RPC"},
			{restPause - 1, false, 0, "JSON-RPC"},
			{1, false, restTimeout, "REST JSON-RPC"},
			{restPause, true, 2 * restTimeout, "REST"},
		} {
			time.Sleep(step.wait)
			begins.Store(step.begins)
			began := time.Now()
			got, err := c.Block(t.Context(), *genesis)
			if err != nil || !bytes.Equal(got, raw.Bytes()) {
				t.Fatalf("got %x, %v", got, err)
			}
			if took := time.Since(began); took != step.takes {
				t.Errorf("it took %v, want %v", took, step.takes)
			}
			var asks []string
			for len(asked) > 0 {
				asks = append(asks, <-asked)
			}
			if got := strings.Join(asks, " "); got != step.asks {
				t.Errorf("it asked %s, want %s", got, step.asks)
			}
		}
	})
}
