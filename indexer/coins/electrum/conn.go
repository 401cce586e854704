package electrum

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/reach"
)

const (
	// questionTimeout bounds one question with its answer, a new connection included.
	questionTimeout = 20 * time.Second
	// maxAnswer is the most that an answer may take, in bytes: a transaction of 1 MB in
	// hex, or some 100,000 outputs.
	maxAnswer = 16 << 20
	// maxUnasked is how many messages that nobody has asked for may come before an answer.
	maxUnasked = 100
)

// version is which of the protocol's versions a connection speaks.
type version uint8

const (
	v14 version = iota // 1.4.5 and what follows below 1.5
	v15
)

// parseVersion reads a version of the protocol, such as 1.4.5. ok is false for one that is
// not spoken here.
func parseVersion(s string) (v version, ok bool) {
	var numbers []int
	for part := range strings.SplitSeq(s, ".") {
		n, err := strconv.Atoi(part)
		if err != nil {
			return 0, false
		}
		numbers = append(numbers, n)
	}
	switch {
	case slices.Compare(numbers, []int{1, 4, 5}) < 0, slices.Compare(numbers, []int{1, 6}) >= 0:
		return 0, false
	case slices.Compare(numbers, []int{1, 5}) < 0:
		return v14, true
	}
	return v15, true
}

// conn is a connection on which versions have been agreed on. It is for one question at a
// time.
type conn struct {
	net.Conn
	r       *bufio.Reader
	version version
	asked   int // the id of the last question
}

// call asks a question and decodes the result, and tries again while the server is
// unavailable.
func (c *Client) call(ctx context.Context, result any, method string, params ...any) error {
	return c.callBy(ctx, result, func(version) (string, []any) { return method, params })
}

// callBy is call for a question that is not the same in each version.
func (c *Client) callBy(ctx context.Context, result any, question func(version) (method string, params []any)) error {
	return reach.Retry(ctx, c.closing.Done(), c.cfg.RetryFor, func() error { return c.onceBy(ctx, result, question) })
}

func (c *Client) once(ctx context.Context, result any, method string, params ...any) error {
	return c.onceBy(ctx, result, func(version) (string, []any) { return method, params })
}

func (c *Client) onceBy(ctx context.Context, result any, question func(version) (string, []any)) error {
	select {
	case c.turn <- struct{}{}:
	case <-c.closing.Done():
		return c.named("asking", fmt.Errorf("%w: the connection was closed", node.ErrUnavailable))
	case <-ctx.Done():
		return c.named("asking", fmt.Errorf("%w: %w", node.ErrUnavailable, context.Cause(ctx)))
	}
	defer func() { <-c.turn }()
	limited, cancel := context.WithTimeoutCause(ctx, questionTimeout, fmt.Errorf("no answer within %v", questionTimeout))
	defer cancel()
	limited, closed := context.WithCancelCause(limited)
	defer context.AfterFunc(c.closing, func() { closed(errors.New("the connection was closed")) })()
	if c.conn == nil {
		if err := c.connect(limited); err != nil {
			return c.named("connecting", ended(limited, err))
		}
	}
	method, params := question(c.conn.version)
	err := c.conn.ask(limited, result, method, params)
	if errors.Is(err, node.ErrUnavailable) && !errors.As(err, new(*refusal)) {
		c.hangUp() // what comes on it now is the answer to another question
	}
	if err != nil {
		return c.named(method, ended(limited, err))
	}
	return nil
}

// ended says why a question has ended before its answer came, if that is why it failed.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", node.ErrUnavailable, context.Cause(ctx))
	}
	return err
}

// hangUp ends the connection, if there is one. The caller has the turn.
func (c *Client) hangUp() {
	if c.conn != nil {
		_ = c.conn.Close() // there is nothing to be done about it
		c.conn = nil
	}
}

// connect makes a connection, agrees on a version, and finds out about the network. The
// caller has the turn.
func (c *Client) connect(ctx context.Context) error {
	raw, err := c.reach(ctx)
	if err != nil {
		return err
	}
	fresh := &conn{Conn: raw, r: bufio.NewReader(raw)}
	if err := c.greet(ctx, fresh); err != nil {
		return errors.Join(err, raw.Close())
	}
	c.conn = fresh
	return nil
}

func (c *Client) reach(ctx context.Context) (net.Conn, error) {
	if !c.cfg.TLS {
		raw, err := new(net.Dialer).DialContext(ctx, "tcp", c.cfg.Address)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", node.ErrUnavailable, err)
		}
		return raw, nil
	}
	// Anew for each connection: a certificate is renewed in its file.
	config, err := c.cfg.tls()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", node.ErrUnavailable, err)
	}
	raw, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", c.cfg.Address)
	if err := reach.Unverified(err); err != nil {
		return nil, err
	}
	if errors.As(err, new(tls.RecordHeaderError)) {
		return nil, fmt.Errorf("%w: it does not speak TLS: give its URL with electrum", node.ErrUnsuitable)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", node.ErrUnavailable, err)
	}
	return raw, nil
}

// greet sends what a server takes once on a connection, and asks for its network.
func (c *Client) greet(ctx context.Context, fresh *conn) error {
	var agreed []string // the server's own version, and the protocol's
	if err := fresh.ask(ctx, &agreed, "server.version", []any{"keytree", []string{minVersion, maxVersion}}); err != nil {
		return err
	}
	speaks := ""
	if len(agreed) == 2 {
		speaks = agreed[1]
	}
	var ok bool
	if fresh.version, ok = parseVersion(speaks); !ok {
		return fmt.Errorf("%w: it speaks version %.20q of the protocol, expected one from %s to %s", node.ErrUnsuitable, speaks, minVersion, maxVersion)
	}
	var features struct {
		GenesisHash string `json:"genesis_hash"`
	}
	if err := fresh.ask(ctx, &features, "server.features", nil); err != nil {
		return err
	}
	if want := c.cfg.Network.GenesisHash.String(); features.GenesisHash != want {
		return fmt.Errorf("%w: its chain starts with block %.80q, expected %s of network %s", node.ErrUnsuitable, features.GenesisHash, want, c.cfg.Network.Name)
	}
	return nil
}

// refusal is an error that the server answers with.
type refusal struct {
	Code    int
	Message string
}

func (r *refusal) Error() string { return fmt.Sprintf("%.300q (code %d)", r.Message, r.Code) }

// Codes of a refusal, by JSON-RPC 2.0.
const (
	methodNotFound = -32601
	invalidParams  = -32602
)

// ask asks one question. An error of node.ErrUnavailable that is no refusal leaves the
// connection in a state in which it cannot be used any more.
func (c *conn) ask(ctx context.Context, result any, method string, params []any) error {
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	c.asked++
	if params == nil {
		params = []any{}
	}
	line, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": c.asked, "method": method, "params": params})
	if err != nil {
		return err
	}
	if _, err := c.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("%w: %w", node.ErrUnavailable, err)
	}
	for range maxUnasked {
		line, err := c.line()
		if err != nil {
			return fmt.Errorf("%w: %w", node.ErrUnavailable, err)
		}
		var answer struct {
			ID     *int
			Result json.RawMessage
			Error  *refusal
		}
		if err := json.Unmarshal(line, &answer); err != nil {
			return fmt.Errorf("%w: %w: its port does not serve the Electrum protocol", node.ErrUnavailable, err)
		}
		if answer.Error != nil && (answer.ID == nil || *answer.ID == c.asked) {
			return classify(method, answer.Error)
		}
		if answer.ID == nil || *answer.ID != c.asked {
			continue // a notification
		}
		if err := json.Unmarshal(answer.Result, result); err != nil {
			return fmt.Errorf("%w: %w", node.ErrInvalid, err)
		}
		return nil
	}
	return fmt.Errorf("%w: %d messages came, and no answer among them", node.ErrUnavailable, maxUnasked)
}

var errTooLong = fmt.Errorf("its answer is longer than any may be, %d bytes", maxAnswer)

// line reads up to the end of a line. Memory grows with what has come.
func (c *conn) line() ([]byte, error) {
	var line []byte
	for {
		part, err := c.r.ReadSlice('\n')
		if line = append(line, part...); len(line) > maxAnswer {
			return nil, errTooLong
		}
		if err == nil {
			return bytes.TrimSpace(line), nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
	}
}

// classify gives a refusal the meaning that it has in package node.
func classify(method string, r *refusal) error {
	kind := node.ErrUnavailable
	switch {
	case method == "blockchain.transaction.get" && strings.Contains(strings.ToLower(r.Message), "no such"):
		kind = node.ErrNotFound
	case method == "blockchain.transaction.broadcast":
		kind = node.ErrRejected
	case method == "server.version", r.Code == methodNotFound, r.Code == invalidParams:
		kind = node.ErrUnsuitable
	}
	return fmt.Errorf("%w: %w", kind, r)
}
