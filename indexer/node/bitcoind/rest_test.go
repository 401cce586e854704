package bitcoind_test

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/indexer/node/bitcoind"
)

// TestRESTOnlyHelps has REST answer with anything but what it was asked for, also
// with what only looks like it: JSON-RPC has it.
func TestRESTOnlyHelps(t *testing.T) {
	genesis := *regtest.Params.GenesisHash
	var raw bytes.Buffer
	check(t, regtest.Params.GenesisBlock.Serialize(&raw))
	answers := proxyAnswers()
	for name, body := range map[string][]byte{
		"79 bytes":         raw.Bytes()[:79],
		"80 bytes":         make([]byte, 80),
		"another block":    append([]byte{9}, raw.Bytes()[1:]...),
		"much too long":    bytes.Repeat([]byte{0}, 1<<20),
		"hex of the block": fmt.Appendf(nil, "%x", raw.Bytes()),
	} {
		answers[name] = proxyAnswer{write: func(w http.ResponseWriter) { _, _ = w.Write(body) }}
	}
	answers["half a block, then hung up"] = proxyAnswer{write: func(w http.ResponseWriter) {
		conn, out, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(out, "HTTP/1.0 200 OK\r\n\r\n%s", raw.Bytes()[:100])
		_ = out.Flush()
	}}
	for name, answer := range answers {
		n := newBCHN(t)
		block := n.mine()
		n.rest = true
		c := dial(t, n.config())
		n.set(func() { n.instead = byREST(answer.write) })
		if got, err := c.Headers(t.Context(), genesis, 0, 10); err != nil || len(got) != 1 || got[0].Hash != block {
			t.Errorf("%s: got headers %v, %v", name, got, err)
		}
		c = dial(t, n.config()) // has not given up REST
		if got, err := c.Block(t.Context(), genesis); err != nil || !bytes.Equal(got, raw.Bytes()) {
			t.Errorf("%s: got block %x, %v", name, got, err)
		}
		_, err := c.Block(t.Context(), chainhash.Hash{1})
		wantError(t, err, node.ErrNotFound)
	}
}

// TestRESTLies has both ways tell the same lie.
func TestRESTLies(t *testing.T) {
	n := newBCHN(t)
	c := dial(t, n.config())
	n.set(func() {
		n.instead = func(w http.ResponseWriter, question string) bool {
			if question[0] == '/' {
				_, _ = w.Write(make([]byte, 80))
				return true
			}
			return say("getblock", fmt.Sprintf(`{"result":"%x","error":null,"id":1}`, make([]byte, 80)))(w, question)
		}
	})
	_, err := c.Block(t.Context(), *regtest.Params.GenesisHash)
	wantError(t, err, node.ErrInvalid, "it sent block")
}

// byREST answers what is asked by REST.
func byREST(write func(http.ResponseWriter)) func(http.ResponseWriter, string) bool {
	return func(w http.ResponseWriter, question string) bool {
		if question[0] != '/' {
			return false
		}
		write(w)
		return true
	}
}

// TestRESTPause counts how often REST is asked after it failed.
func TestRESTPause(t *testing.T) {
	genesis := *regtest.Params.GenesisHash
	var header bytes.Buffer
	check(t, regtest.Params.GenesisBlock.Header.Serialize(&header))
	aHeaderAndAHalf := header.String() + header.String()[:40]
	asks := map[string]func(*bitcoind.Client) error{
		"block":   func(c *bitcoind.Client) error { _, err := c.Block(t.Context(), genesis); return err },
		"headers": func(c *bitcoind.Client) error { _, err := c.Headers(t.Context(), genesis, 0, 1); return err },
	}
	for name, test := range map[string]struct {
		status int
		body   string
		again  bool
	}{
		"not served":            {http.StatusNotFound, "", false},
		"a login":               {http.StatusUnauthorized, "", false},
		"a web page":            {http.StatusOK, page, false},
		"nothing":               {http.StatusOK, "", false},
		"headers from nowhere":  {http.StatusOK, strings.Repeat("\x00", 160), false},
		"a header and a half":   {http.StatusOK, aHeaderAndAHalf, false},
		"busy":                  {http.StatusServiceUnavailable, "", true},
		"nothing behind it":     {http.StatusBadGateway, page, true},
		"nothing answers it":    {http.StatusGatewayTimeout, page, true},
		"an error in the proxy": {http.StatusInternalServerError, page, true},
	} {
		for what, ask := range asks {
			if what == "block" && test.body == aHeaderAndAHalf {
				continue // the beginning of the block is all that is looked at
			}
			n := newBCHN(t)
			n.mine()
			c := dial(t, n.config())
			n.set(func() {
				n.instead = byREST(func(w http.ResponseWriter) {
					w.WriteHeader(test.status)
					_, _ = w.Write([]byte(test.body))
				})
			})
			check(t, ask(c))
			n.set(func() { clear(n.asked) })
			check(t, ask(c))
			if got := n.count("REST"); (got > 0) != test.again {
				t.Errorf("%s, %s: REST was asked %d times more, want that: %v", name, what, got, test.again)
			}
		}
	}
	// That there is no such block is not REST's fault.
	n := newBCHN(t)
	n.rest = true
	c := dial(t, n.config())
	_, err := c.Block(t.Context(), chainhash.Hash{1})
	wantError(t, err, node.ErrNotFound)
	_, err = c.Headers(t.Context(), genesis, 0, 1)
	wantError(t, err, node.ErrNotFound)
	n.set(func() { clear(n.asked) })
	must[[]byte](t)(c.Block(t.Context(), genesis))
	if got := n.count("REST"); got != 1 {
		t.Errorf("after a block that the node does not have, REST was asked %d times, want once", got)
	}
}
