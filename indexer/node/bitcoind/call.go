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
	"time"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/reach"
)

// method is a method of the node's JSON-RPC.
type method string

// retry makes attempts at a question, for c.retryFor, while the node is unavailable.
// Errors call the thing that is asked for by what.
func (c *Client) retry(ctx context.Context, what string, attempt func(context.Context) error) error {
	return c.retryWithin(ctx, questionTimeout, what, attempt)
}

// retryBlock is retry for a question that takes as long as a block.
func (c *Client) retryBlock(ctx context.Context, what string, attempt func(context.Context) error) error {
	return c.retryWithin(ctx, blockTimeout, what, func(ctx context.Context) error {
		select {
		case c.blocks <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		defer func() { <-c.blocks }()
		return attempt(ctx)
	})
}

func (c *Client) retryWithin(ctx context.Context, timeout time.Duration, what string, attempt func(context.Context) error) error {
	return reach.Retry(ctx, c.closing.Done(), c.retryFor, func() error { return c.once(ctx, timeout, what, attempt) })
}

// once makes one attempt, which Close ends too.
func (c *Client) once(ctx context.Context, timeout time.Duration, what string, attempt func(context.Context) error) error {
	if c.closing.Err() != nil { // or a new connection might outlive Close
		return fmt.Errorf("node at %s: %s: %w: %w", c.address, what, node.ErrUnavailable, errClosed)
	}
	limited, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer within %v", timeout))
	defer cancel()
	limited, closed := context.WithCancelCause(limited)
	defer context.AfterFunc(c.closing, func() { closed(errClosed) })()
	err := attempt(limited)
	if err == nil {
		return nil
	}
	if limited.Err() != nil {
		err = fmt.Errorf("%w: %w", node.ErrUnavailable, context.Cause(limited))
	}
	return fmt.Errorf("node at %s: %s: %w", c.address, what, err)
}

var errClosed = errors.New("the connection was closed")

// call asks a question and decodes the result.
func (c *Client) call(ctx context.Context, what string, result any, m method, params ...any) error {
	return c.retry(ctx, what, func(ctx context.Context) error { return c.post(ctx, into(result), m, params...) })
}

// post calls a method once.
func (c *Client) post(ctx context.Context, read reader, m method, params ...any) error {
	if params == nil {
		params = []any{}
	}
	question, err := json.Marshal(question(1, m, params...))
	if err != nil {
		return err
	}
	return c.postQuestion(ctx, func(r *bufio.Reader) error {
		err := expectAnswer(r)
		if err == nil || m == "gettxout" && errors.Is(err, errNull) {
			err = read(r)
		}
		return err
	}, m, question)
}

// question is one as JSON-RPC puts it.
func question(id int, m method, params ...any) map[string]any {
	return map[string]any{"jsonrpc": "1.0", "id": id, "method": m, "params": params}
}

// postQuestion posts a question, or a batch of them, and has the answer read.
func (c *Client) postQuestion(ctx context.Context, read reader, m method, question []byte) error {
	who, err := c.login(login{})
	if err != nil {
		return err
	}
	err = c.postAs(ctx, who, question, read, m)
	if !errors.Is(err, errUnauthorized) {
		return err
	}
	if c.cookieFile == "" {
		return fmt.Errorf("%w: expected its present rpcuser and rpcpassword in the URL with which keytree is started", err)
	}
	// A node that was started anew has another cookie.
	another, loginErr := c.login(who)
	if loginErr != nil {
		return loginErr
	}
	if another != who {
		err = c.postAs(ctx, another, question, read, m)
	}
	if errors.Is(err, errUnauthorized) {
		return fmt.Errorf("%w: expected its present cookie in %s: is this its folder?", err, c.cookieFile)
	}
	return err
}

// login returns the credentials to use. A cookie that was refused is read again. It
// may turn out to be the same: a file that was not written yet, or a proxy that
// refused.
func (c *Client) login(refused login) (login, error) {
	if c.cookieFile == "" {
		return c.fixed, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cookie == refused {
		c.cookie = login{} // also if there is nothing to read now
	}
	if c.cookie != (login{}) {
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
	err = c.do(req, maxBlockAnswer, func(answer *http.Response, r *bufio.Reader) error {
		status := answer.StatusCode
		switch status {
		case http.StatusOK,
			// bitcoind answers errors of JSON-RPC under these, with a body like any other.
			http.StatusBadRequest, http.StatusNotFound, http.StatusInternalServerError:
		default:
			return statusError(status)
		}
		err := read(r)
		if err != nil && status != http.StatusOK && !errors.As(err, new(*rpcError)) {
			return statusError(status)
		}
		return err
	})
	return m.judge(err)
}

// statusError says what an answer means that only its HTTP status tells.
func statusError(status int) error {
	switch {
	case status == http.StatusUnauthorized:
		return errUnauthorized
	case status == http.StatusForbidden:
		return fmt.Errorf("%w: it forbids this machine to ask (HTTP 403): add the machine to its -rpcallowip", node.ErrUnsuitable)
	case status >= 500, status == http.StatusTooManyRequests, status == http.StatusRequestTimeout:
		// 503: too many questions at a time, or still starting.
		return fmt.Errorf("%w: HTTP %d %s", node.ErrUnavailable, status, http.StatusText(status))
	}
	return fmt.Errorf("%w: HTTP %d", errNotRPC, status)
}

var errUnauthorized = fmt.Errorf("%w: it refuses the credentials (HTTP 401)", node.ErrUnsuitable)

// do sends a request and has its answer read, of at most limit bytes. It returns
// the reader's error, or node.ErrUnavailable when the answer did not come to its
// end.
func (c *Client) do(req *http.Request, limit int64, read func(answer *http.Response, r *bufio.Reader) error) error {
	answer, err := c.http.Do(req)
	if err != nil {
		return classifyTransport(err)
	}
	defer answer.Body.Close()
	body := &limited{r: answer.Body, left: limit}
	r := bufio.NewReaderSize(body, 64<<10)
	err = read(answer, r)
	if err == nil {
		// To the end, so that the connection can be used again.
		_, _ = io.CopyN(io.Discard, r, 1<<10)
		return nil
	}
	if body.err != nil && !classified(err) {
		return fmt.Errorf("%w: the answer broke off: %w", node.ErrUnavailable, body.err)
	}
	return err
}

// classifyTransport says what it means that there was no HTTP answer.
func classifyTransport(err error) error {
	if outer := new(url.Error); errors.As(err, &outer) {
		err = outer.Err // without the URL
	}
	if err := reach.Unverified(err); err != nil {
		return err
	}
	switch {
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
