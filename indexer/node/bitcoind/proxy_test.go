package bitcoind_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/bitcoind"
)

// proxyAnswer is what something in front of the node answers in its place, for
// example while the node or it starts anew.
type proxyAnswer struct {
	want  error
	write func(http.ResponseWriter)
}

const page = "<!DOCTYPE html>\n<html lang=\"en\"><head><title>Welcome</title></head><body><h1>It works</h1></body></html>\n"

func proxyAnswers() map[string]proxyAnswer {
	body := func(want error, text string) proxyAnswer {
		return proxyAnswer{want, func(w http.ResponseWriter) { _, _ = w.Write([]byte(text)) }}
	}
	status := func(want error, code int, text string) proxyAnswer {
		return proxyAnswer{want, func(w http.ResponseWriter) {
			w.Header().Set("Location", "https://login.example/")
			w.WriteHeader(code)
			_, _ = w.Write([]byte(text))
		}}
	}
	answers := map[string]proxyAnswer{
		"web page":                body(node.ErrUnsuitable, page),
		"web page with a result":  body(node.ErrUnsuitable, `<html><script>var x = {"result":"00","error":null}</script>`),
		"web page with an object": body(node.ErrUnsuitable, `{{header}}<html>"result":"00"`),
		"text":                    body(node.ErrUnsuitable, "OK"),
		"nothing":                 body(node.ErrUnsuitable, ""),
		"an empty line":           body(node.ErrUnsuitable, "\r\n"),
		"null":                    body(node.ErrUnsuitable, "null"),
		"number":                  body(node.ErrUnsuitable, "7"),
		"string":                  body(node.ErrUnsuitable, `"result"`),
		"array":                   body(node.ErrUnsuitable, `[{"result":"00","error":null,"id":1}]`),
		"object":                  body(node.ErrUnsuitable, "{}"),
		"other object":            body(node.ErrUnsuitable, `{"status":"ok","data":{"result":"00","error":{"code":1,"message":"no"}}}`),
		"message":                 body(node.ErrUnsuitable, `{"message":"no Route matched with those values"}`),
		"result null":             body(node.ErrUnsuitable, `{"result":null,"error":null,"id":1}`),
		"success, without an id":  body(node.ErrUnsuitable, `{"result":"success"}`),
		"result true":             body(node.ErrUnsuitable, `{"result":true,"error":null}`),
		"result of its own":       body(node.ErrUnsuitable, `{"result":{"status":"ok"}}`),
		"error in words":          body(node.ErrUnsuitable, `{"error":"Bad gateway"}`),
		"error of another kind":   body(node.ErrUnsuitable, `{"error":{"status":502,"title":"Bad gateway"}}`),
		"error with code in text": body(node.ErrUnsuitable, `{"error":{"code":"502","message":"Bad gateway"}}`),
		"late result":             body(node.ErrUnsuitable, strings.Repeat(" ", 2000)+`{"result":"00","error":null,"id":1}`),
		"long and nothing in it":  body(node.ErrUnsuitable, `{"message":"`+strings.Repeat("x", 2000)+`"}`),
		"compressed": {node.ErrUnsuitable, func(w http.ResponseWriter) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			_, _ = z.Write([]byte(page))
			_ = z.Close()
		}},
		"busy, in JSON":                 body(node.ErrUnavailable, `{"jsonrpc":"2.0","error":{"code":-32005,"message":"limit exceeded"},"id":1}`),
		"opening brace":                 body(node.ErrUnavailable, "{"),
		"broke off before the result":   body(node.ErrUnavailable, `{"jsonrpc":"1.0","res`),
		"broke off within a string":     body(node.ErrUnavailable, `{"result":"00`),
		"broke off after a member":      body(node.ErrUnavailable, `{"jsonrpc":"1.0","error":null,`),
		"broke off within an object":    body(node.ErrUnavailable, `{"result":{"chain":"reg`),
		"broke off within transactions": body(node.ErrUnavailable, `{"result":{"tx":[`),
		"broke off within an error":     body(node.ErrUnavailable, `{"result":null,"error":{"code":-28,"mess`),
		"broke off, said how long": {node.ErrUnavailable, func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write([]byte(`{"result":"00`))
		}},
		"broke off, said how long, with 404": {node.ErrUnavailable, func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "1000")
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write([]byte(`{"result":"00`))
		}},
		"broke off, then a web page": body(node.ErrUnsuitable, `{"result":"0000`+page),
		"hung up":                    {node.ErrUnavailable, func(http.ResponseWriter) { panic(http.ErrAbortHandler) }},
		"401":                        status(node.ErrUnsuitable, 401, page),
		"403":                        status(node.ErrUnsuitable, 403, page),
		"500, error in words":        status(node.ErrUnavailable, 500, `{"error":"Internal"}`),
		"404, error in words":        status(node.ErrUnsuitable, 404, `{"error":"Not found"}`),
	}
	for _, code := range []int{201, 202, 203, 204, 205, 206, 300, 301, 302, 303, 304, 307, 308, 400, 402, 404, 405, 406, 407, 410, 413, 418, 426, 451} {
		answers[http.StatusText(code)] = status(node.ErrUnsuitable, code, page)
	}
	for _, code := range []int{408, 429, 500, 501, 502, 503, 504, 511, 599} {
		answers[http.StatusText(code)] = status(node.ErrUnavailable, code, page)
	}
	return answers
}

// TestProxyWhileRunning asks each kind of question while a proxy answers in the
// node's place: that is never taken for the node's lie, and once it is over the
// question is answered.
func TestProxyWhileRunning(t *testing.T) {
	for name, test := range map[string]struct {
		undo    undo
		txIndex bool
		ask     func(context.Context, *bitcoind.Client, *bchn) error
	}{
		"tip": {ask: func(ctx context.Context, c *bitcoind.Client, _ *bchn) error { _, err := c.Tip(ctx); return err }},
		"hash": {ask: func(ctx context.Context, c *bitcoind.Client, _ *bchn) error {
			_, err := c.BlockHash(ctx, 1)
			return err
		}},
		"block":                              {ask: askBlock},
		"output, from the index":             {txIndex: true, ask: askSpent},
		"output, from undo of a transaction": {undo: inTx, ask: askSpent},
		"output, from undo of a whole block": {undo: inBlock, ask: askSpent},
	} {
		t.Run(name, func(t *testing.T) {
			n := newBCHN(t)
			n.undo, n.txIndex = test.undo, test.txIndex
			if n.undo == noUndo {
				n.undo = inTx
			}
			n.mineSpending()
			cfg := n.config()
			cfg.RetryFor = time.Millisecond
			c := dial(t, cfg)
			for name, answer := range proxyAnswers() {
				n.set(func() { n.instead = func(w http.ResponseWriter, _ string) bool { answer.write(w); return true } })
				err := test.ask(t.Context(), c, n)
				if !errors.Is(err, answer.want) || errors.Is(err, node.ErrInvalid) {
					t.Errorf("%s: got %v, want %v", name, err, answer.want)
				} else {
					wantError(t, err, answer.want, cfg.Address)
				}
				n.set(func() { n.instead = nil })
				if err := test.ask(t.Context(), c, n); err != nil {
					t.Errorf("after %s: %v", name, err)
				}
			}
		})
	}
}

// TestBlockBrokeOff gets all of a block but the end of the answer.
func TestBlockBrokeOff(t *testing.T) {
	n := newBCHN(t)
	hash := n.tip().BlockHash()
	cfg := n.config()
	cfg.RetryFor = time.Millisecond
	c := dial(t, cfg)
	var raw bytes.Buffer
	check(t, n.tip().Serialize(&raw))
	answer := fmt.Sprintf(`{"result":"%x","error":null,"id":1}`, raw.Bytes())
	for _, length := range []int{len(`{"result":"`), 100, 101, strings.Index(answer, `","error`), strings.Index(answer, `,"error`), len(answer) - 1} {
		n.set(func() { n.instead = say("getblock", answer[:length]) })
		_, err := c.Block(t.Context(), hash)
		wantError(t, err, node.ErrUnavailable, "broke off")
	}
	n.set(func() { n.instead = say("getblock", answer) })
	must[[]byte](t)(c.Block(t.Context(), hash))
}

// TestAlmostAnAnswer has results that would do, in what is no answer to the
// question.
func TestAlmostAnAnswer(t *testing.T) {
	n := newBCHN(t)
	c := dial(t, n.config())
	hash := n.tip().BlockHash()
	var raw bytes.Buffer
	check(t, n.tip().Serialize(&raw))
	for name, form := range map[string]string{
		"no id":                 `{"result":"%s","error":null}`,
		"id null":               `{"result":"%s","error":null,"id":null}`,
		"an object follows":     `{"result":"%s","error":null,"id":1}{}`,
		"a web page follows":    `{"result":"%s","error":null,"id":1}` + page,
		"many spaces follow":    `{"result":"%s","error":null,"id":1}` + strings.Repeat(" ", 5000) + page,
		"a web page in between": `{"result":"%s",` + page,
	} {
		n.set(func() { n.instead = say("getblockhash", fmt.Sprintf(form, hash)) })
		if _, err := c.BlockHash(t.Context(), 0); !errors.Is(err, node.ErrUnsuitable) {
			t.Errorf("%s: got %v for a hash", name, err)
		}
		n.set(func() { n.instead = say("getblock", fmt.Sprintf(form, hex.EncodeToString(raw.Bytes()))) })
		if _, err := c.Block(t.Context(), hash); !errors.Is(err, node.ErrUnsuitable) {
			t.Errorf("%s: got %v for a block", name, err)
		}
	}
}

func askBlock(ctx context.Context, c *bitcoind.Client, n *bchn) error {
	_, err := c.Block(ctx, n.tip().BlockHash())
	return err
}

func askSpent(ctx context.Context, c *bitcoind.Client, n *bchn) error {
	block := n.tip()
	tx := block.Transactions[1]
	_, err := spendsOf(ctx, c, block.BlockHash(), tx.TxHash(), tx.TxIn[0].PreviousOutPoint)
	return err
}

// TestProxyAtStart dials while a proxy answers in the node's place: to all
// questions, or to one kind. It is refused or waited for, and never taken for the
// node's lie.
func TestProxyAtStart(t *testing.T) {
	n := newBCHN(t)
	n.mineSpending()
	attempt := func(beginning string, answer proxyAnswer) error {
		n.set(func() {
			n.instead = func(w http.ResponseWriter, question string) bool {
				if !strings.HasPrefix(question, beginning) {
					return false
				}
				answer.write(w)
				return true
			}
		})
		log := make(lines, 1)
		cfg := n.config()
		cfg.Log = zerolog.New(log)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() {
			select {
			case <-log: // it is waited for
				cancel()
			case <-ctx.Done():
			}
		}()
		c, err := bitcoind.Dial(ctx, cfg)
		if err == nil {
			check(t, c.Close())
		}
		return err
	}
	for name, answer := range proxyAnswers() {
		err := attempt("", answer)
		if !errors.Is(err, answer.want) || errors.Is(err, node.ErrInvalid) {
			t.Errorf("%s: got %v, want %v", name, err, answer.want)
		}
		for _, question := range []string{"getblockchaininfo", "getblockhash", "getblock", "getrawtransaction", "getindexinfo"} {
			err := attempt(question, answer)
			if err != nil && !errors.Is(err, node.ErrUnsuitable) && !errors.Is(err, node.ErrUnavailable) || errors.Is(err, node.ErrInvalid) {
				t.Errorf("%s to %s: got %v", name, question, err)
			}
		}
	}
}
