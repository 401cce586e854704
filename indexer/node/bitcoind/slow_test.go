package bitcoind

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/indexer/node"
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

// hang answers nothing until the client goes, which the server notices once it has
// read the question.
func hang(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
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
				hang(w, r)
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

// TestTimeouts asks a node that begins no answer.
func TestTimeouts(t *testing.T) {
	one := chainhash.Hash{1}
	out := wire.OutPoint{Hash: one}
	spender := []node.Spender{{TxID: one, Inputs: []wire.OutPoint{out}}}
	for name, test := range map[string]struct {
		from source
		ask  func(context.Context, *Client) error
		want time.Duration
	}{
		"tip":     {0, func(ctx context.Context, c *Client) error { _, err := c.Tip(ctx); return err }, questionTimeout},
		"hash":    {0, func(ctx context.Context, c *Client) error { _, err := c.BlockHash(ctx, 1); return err }, questionTimeout},
		"header":  {0, func(ctx context.Context, c *Client) error { _, err := c.Header(ctx, 1); return err }, questionTimeout},
		"headers": {0, func(ctx context.Context, c *Client) error { _, err := c.Headers(ctx, one, 1, 1); return err }, questionTimeout},
		"spent, from the index": {fromIndex, func(ctx context.Context, c *Client) error {
			_, err := c.Spent(ctx, one, spender)
			return err
		}, questionTimeout},
		"spent, from undo of a transaction": {fromTxUndo, func(ctx context.Context, c *Client) error {
			_, err := c.Spent(ctx, one, spender)
			return err
		}, questionTimeout},
		"previous, from the index": {fromIndex, func(ctx context.Context, c *Client) error {
			_, err := c.Previous(ctx, one, one, out)
			return err
		}, questionTimeout},
		"block": {0, func(ctx context.Context, c *Client) error { _, err := c.Block(ctx, one); return err }, blockTimeout},
		"spent, from undo of a block": {fromBlockUndo, func(ctx context.Context, c *Client) error {
			_, err := c.Spent(ctx, one, spender)
			return err
		}, blockTimeout},
		"previous, from its block": {fromTxUndo, func(ctx context.Context, c *Client) error {
			_, err := c.Previous(ctx, one, one, out)
			return err
		}, blockTimeout},
		"spent, from nobody knows where": {undecided, func(ctx context.Context, c *Client) error {
			_, err := c.Spent(ctx, one, spender)
			return err
		}, blockTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, hang, func(t *testing.T, c *Client) {
				c.source, c.restFrom, c.retryFor = test.from, time.Now().Add(time.Hour), time.Nanosecond
				began := time.Now()
				err := test.ask(t.Context(), c)
				if took := time.Since(began); took != test.want {
					t.Errorf("it took %v, want %v", took, test.want)
				}
				if !errors.Is(err, node.ErrUnavailable) || !strings.Contains(err.Error(), fmt.Sprintf("no answer within %v", test.want)) {
					t.Errorf("got %v, want it unavailable", err)
				}
			})
		})
	}
}

// TestQuestionsBesideBlocks has many blocks arrive slowly: a question is answered
// all the same.
func TestQuestionsBesideBlocks(t *testing.T) {
	inBubble(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if bytes.Contains(body, []byte(`"getblock"`)) {
			hang(w, r)
			return
		}
		fmt.Fprintf(w, `{"result":"%v","error":null,"id":1}`, chaincfg.RegressionNetParams.GenesisHash)
	}, func(t *testing.T, c *Client) {
		c.restFrom = time.Now().Add(time.Hour)
		ctx, cancel := context.WithCancel(t.Context())
		var blocks sync.WaitGroup
		for range 3 * connections {
			blocks.Go(func() { _, _ = c.Block(ctx, chainhash.Hash{1}) })
		}
		synctest.Wait()
		began := time.Now()
		if _, err := c.BlockHash(t.Context(), 0); err != nil || time.Since(began) > 0 {
			t.Errorf("got %v after %v", err, time.Since(began))
		}
		cancel()
		blocks.Wait()
	})
}
