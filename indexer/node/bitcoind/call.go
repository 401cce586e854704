package bitcoind

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strings"

	"github.com/cenkalti/backoff/v4"

	"github.com/keytree-bch/keytree/indexer/node"
)

// rpcError is an error that the node's JSON-RPC answers with.
type rpcError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

func (e *rpcError) Error() string { return fmt.Sprintf("%.300q (code %d)", e.Message, e.Code) }

// Codes of rpcError, by Bitcoin Core's names (rpc/protocol.h).
const (
	miscError           = -1
	invalidAddressOrKey = -5 // also: no such block, no such transaction
	invalidParameter    = -8
	inWarmup            = -28
	methodNotFound      = -32601
	invalidParams       = -32602
)

// method is a method of the node's JSON-RPC.
type method string

// classify gives a JSON-RPC error the meaning that it has in this dialect.
func (m method) classify(e *rpcError) error {
	kind := node.ErrUnavailable
	switch {
	case e.Code == invalidAddressOrKey,
		// Above the tip; bchd says it with -1.
		m == "getblockhash" && (e.Code == invalidParameter || e.Code == miscError):
		kind = node.ErrNotFound
	case e.Code == methodNotFound, e.Code == invalidParameter, e.Code == invalidParams,
		strings.Contains(e.Message, "pruned data"):
		kind = node.ErrUnsuitable
	}
	return fmt.Errorf("%w: %s: %w", kind, m, e)
}

// retry makes attempts, for c.retryFor, while the node is unavailable. What
// names the thing asked for in errors.
func (c *Client) retry(ctx context.Context, what string, attempt func(context.Context) error) error {
	pauses := newPauses()
	pauses.MaxElapsedTime = c.retryFor
	for {
		err := c.once(ctx, what, attempt)
		if err == nil || !errors.Is(err, node.ErrUnavailable) || ctx.Err() != nil || c.closing.Err() != nil {
			return err
		}
		pause := pauses.NextBackOff()
		if pause == backoff.Stop {
			return err
		}
		if !sleep(ctx, pause) {
			return fmt.Errorf("%w: %w", err, context.Cause(ctx))
		}
	}
}

// once makes one attempt, which Close ends too.
func (c *Client) once(ctx context.Context, what string, attempt func(context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	defer context.AfterFunc(c.closing, cancel)()
	err := attempt(limited)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		err = fmt.Errorf("%w: %w", node.ErrUnavailable, context.Cause(ctx))
	case c.closing.Err() != nil:
		err = fmt.Errorf("%w: the connection was closed", node.ErrUnavailable)
	}
	return fmt.Errorf("node at %s: %s: %w", c.address, what, err)
}

// call calls a method and decodes its result.
func (c *Client) call(ctx context.Context, what string, result any, m method, params ...any) error {
	return c.retry(ctx, what, func(ctx context.Context) error { return c.post(ctx, into(result), m, params...) })
}

// reader reads the body of an answer. It returns the node's own error as an
// *rpcError.
type reader func(*bufio.Reader) error

// into reads an answer whose result is small.
func into(result any) reader {
	return func(r *bufio.Reader) error {
		var answer struct {
			Result json.RawMessage
			Error  *rpcError
		}
		// Not a Decoder: nothing may follow the answer.
		body, err := io.ReadAll(io.LimitReader(r, maxAnswer+1))
		if err != nil {
			return err
		}
		if len(body) > maxAnswer {
			return errTooLong
		}
		if err := json.Unmarshal(body, &answer); err != nil {
			return err
		}
		if answer.Error != nil {
			return answer.Error
		}
		if len(answer.Result) == 0 || string(answer.Result) == "null" {
			return errors.New("neither a result nor an error")
		}
		return json.Unmarshal(answer.Result, result)
	}
}

// post calls a method once.
func (c *Client) post(ctx context.Context, read reader, m method, params ...any) error {
	if params == nil {
		params = []any{}
	}
	question, err := json.Marshal(map[string]any{"jsonrpc": "1.0", "id": 1, "method": m, "params": params})
	if err != nil {
		return err
	}
	who, err := c.login(login{})
	if err != nil {
		return err
	}
	err = c.postAs(ctx, who, question, read, m)
	if !errors.Is(err, errUnauthorized) || c.cookieFile == "" {
		return err
	}
	// A node that was started anew has another cookie.
	if who, err = c.login(who); err != nil {
		return err
	}
	return c.postAs(ctx, who, question, read, m)
}

// login returns the credentials to use, other than refused if there are others.
func (c *Client) login(refused login) (login, error) {
	if c.cookieFile == "" {
		return c.fixed, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cookie != (login{}) && c.cookie != refused {
		return c.cookie, nil
	}
	cookie, err := readCookie(c.cookieFile)
	if errors.Is(err, fs.ErrNotExist) {
		return login{}, fmt.Errorf("%w: %w: is the node running, and is this its folder?", node.ErrUnavailable, err)
	}
	if err != nil {
		return login{}, fmt.Errorf("%w: %w", node.ErrUnsuitable, err)
	}
	c.cookie = cookie
	return cookie, nil
}

func (c *Client) postAs(ctx context.Context, who login, question []byte, read reader, m method) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url+"/", bytes.NewReader(question))
	if err != nil {
		return err
	}
	req.SetBasicAuth(who.user, string(who.password))
	req.Header.Set("Content-Type", "application/json")
	// Every question here can be asked twice: this lets the transport do so when
	// the node has just closed an idle connection. A nil value is not sent.
	req.Header["Idempotency-Key"] = nil
	return c.do(req, maxBlockAnswer, func(status int, r *bufio.Reader) error {
		switch status {
		case http.StatusOK,
			// bitcoind answers errors of JSON-RPC under these, with a body like any other.
			http.StatusBadRequest, http.StatusNotFound, http.StatusInternalServerError:
		case http.StatusUnauthorized:
			return fmt.Errorf("%w: %w: expected its rpcuser and rpcpassword, or its current .cookie", node.ErrUnsuitable, errUnauthorized)
		case http.StatusForbidden:
			return fmt.Errorf("%w: it forbids this machine to ask (HTTP 403): add the machine to its -rpcallowip", node.ErrUnsuitable)
		default:
			return statusError(status)
		}
		err := read(r)
		if e := new(rpcError); errors.As(err, &e) {
			return m.classify(e)
		}
		if err != nil && status == http.StatusInternalServerError {
			return statusError(status)
		}
		if err != nil && status != http.StatusOK {
			return fmt.Errorf("%w: its port does not serve JSON-RPC (HTTP %d): give the node's -rpcport, with https if it speaks TLS",
				node.ErrUnsuitable, status)
		}
		return err
	})
}

// statusError says what an answer means that only its HTTP status tells.
func statusError(status int) error {
	if status >= 500 || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout {
		// 503: too many questions at a time, or still starting.
		return fmt.Errorf("%w: HTTP %d %s", node.ErrUnavailable, status, http.StatusText(status))
	}
	return fmt.Errorf("%w: its port does not serve JSON-RPC (HTTP %d): give the node's -rpcport", node.ErrUnsuitable, status)
}

var (
	errUnauthorized = errors.New("it refuses the credentials (HTTP 401)")
	errTooLong      = errors.New("longer than any answer may be")
)

// do sends a request, reads its answer and says what went wrong in the terms of
// package node. What the reader finds wrong with complete bytes is
// node.ErrInvalid unless it says otherwise.
func (c *Client) do(req *http.Request, limit int64, read func(status int, r *bufio.Reader) error) error {
	answer, err := c.http.Do(req)
	if err != nil {
		return classifyTransport(err)
	}
	defer answer.Body.Close()
	body := &limited{r: answer.Body, left: limit}
	r := bufio.NewReaderSize(body, 64<<10)
	err = read(answer.StatusCode, r)
	switch {
	case err == nil:
		// To the end, so that the connection can be used again.
		_, _ = io.CopyN(io.Discard, r, 1<<10)
		return nil
	case classified(err):
		return err
	case body.err != nil:
		return fmt.Errorf("%w: the answer broke off: %w", node.ErrUnavailable, body.err)
	case errors.Is(err, errTooLong):
		return fmt.Errorf("%w: its answer is %w, over %d bytes", node.ErrInvalid, errTooLong, limit)
	}
	return fmt.Errorf("%w: %w", node.ErrInvalid, err)
}

func classified(err error) bool {
	return errors.Is(err, node.ErrUnavailable) || errors.Is(err, node.ErrUnsuitable) ||
		errors.Is(err, node.ErrNotFound) || errors.Is(err, node.ErrInvalid)
}

// classifyTransport says what it means that there was no HTTP answer.
func classifyTransport(err error) error {
	if outer := new(url.Error); errors.As(err, &outer) {
		err = outer.Err // without the URL
	}
	switch {
	case errors.As(err, new(*tls.CertificateVerificationError)):
		return fmt.Errorf("%w: %w: expected the certificate given by cert=FILE, or without it one that this system trusts", node.ErrUnsuitable, err)
	case errors.As(err, new(tls.RecordHeaderError)), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return fmt.Errorf("%w: it does not speak TLS: give its URL with http", node.ErrUnsuitable)
	case strings.Contains(err.Error(), "malformed HTTP"):
		return fmt.Errorf("%w: its port does not speak HTTP: give the node's -rpcport, with https if it speaks TLS", node.ErrUnsuitable)
	}
	return fmt.Errorf("%w: %w", node.ErrUnavailable, err)
}

// limited reads at most so many bytes, and remembers why reading ended before
// the end: the JSON decoder does not tell.
type limited struct {
	r    io.Reader
	left int64
	err  error // other than io.EOF
}

func (l *limited) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, errTooLong
	}
	n, err := l.r.Read(p[:min(int64(len(p)), l.left)])
	l.left -= int64(n)
	if err != nil && err != io.EOF {
		l.err = err
	}
	return n, err
}
