// Package client asks a keytree server, over gRPC: which identity is behind an address, now
// or as of a block, what an identity is made of, what changes, and what keyservers have
// anchored.
//
// It waits when the server says that it is asked too much, resumes what was interrupted, and
// cuts what is too long for one call. What a server says is believed, but for proof bundles,
// which prove themselves: see Client.Proofs.
//
// Errors are gRPC statuses, with the codes that identity.proto documents, unless a function
// says otherwise. Addresses, ids and hashes are texts as they are there.
//
// What never belongs here: a keyserver's client, which is keyserver/client; a rule of
// identities.
package client

import (
	"context"
	"crypto/tls"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

const (
	// CallTimeout is how long one try of a call may take. It is longer than the server
	// itself allows.
	CallTimeout = 70 * time.Second
	// MaxTries is how often a call is made that the server refuses for now.
	MaxTries = 4
	// MaxWait is the longest time, as a server says it, that is waited before a call is
	// made again.
	MaxWait = 30 * time.Second

	// maxAnswer is the most that one answer may have, in bytes: 10,000 resolutions with
	// full paths are some 50 MB.
	maxAnswer = 128 << 20
	// quiet is after what time without a word the server is asked whether it is there: a
	// Watch may have nothing to say for long.
	quiet = 30 * time.Second
)

// Options are what a Client can be told. The zero value is good.
type Options struct {
	// TLS says which certificates to believe; nil: those that the system does.
	TLS *tls.Config
	// Retrying, if not nil, is told why a Watch was interrupted, and in what time it is
	// tried again. It is called by the goroutine that iterates.
	Retrying func(err error, after time.Duration)
	// Monotonic has no answer be older than one before it, over whichever of many servers behind one address: each call
	// names the newest block that an answer was as of, and a server that is not that far waits for it a little. UNAVAILABLE if
	// none comes that far in some tries. ABORTED if a server has another block there: the chain was reorganised, or that server is behind;
	// what was asked before may be as of a block that is gone, and the next call asks for the height alone.
	Monotonic bool
	// Dial is options for the connection besides.
	Dial []grpc.DialOption
}

// Client asks one server. It is safe for concurrent use. Its View asks as of the tip.
type Client struct {
	View
	conn     *grpc.ClientConn
	retrying func(error, time.Duration)
	sleep    func(context.Context, time.Duration) error
	seen     *seen // of use if the client is Monotonic
}

// New prepares a client for the gRPC interface at an address, to which the first call
// connects. The address is HOST:PORT: over TLS, unless the host is this machine by a loopback
// address or localhost. https://HOST:PORT is over TLS in any case, http://HOST:PORT in plain
// text, which everybody on the way can read and change.
func New(address string, o Options) (*Client, error) {
	hostPort, secure, err := parse(address)
	if err != nil {
		return nil, err
	}
	wire := insecure.NewCredentials()
	if secure {
		wire = credentials.NewTLS(o.TLS)
	}
	c := &Client{retrying: o.Retrying, sleep: sleep, seen: new(seen)}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(wire),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: quiet}),
	}
	if o.Monotonic { // for a call with all its tries
		options = append(options, grpc.WithChainUnaryInterceptor(c.seen.unary), grpc.WithChainStreamInterceptor(c.seen.stream))
	}
	options = append(append(options, grpc.WithChainUnaryInterceptor(c.unary)), o.Dial...)
	if c.conn, err = grpc.NewClient("dns:///"+hostPort, options...); err != nil {
		return nil, fmt.Errorf("client: address %s: %w", address, err)
	}
	c.View = View{identities: keytreev1.NewIdentityServiceClient(c.conn), anchors: keytreev1.NewAnchorServiceClient(c.conn)}
	return c, nil
}

// parse reads the address of a server.
func parse(address string) (hostPort string, secure bool, err error) {
	hostPort, secure = strings.CutPrefix(address, "https://")
	hostPort, plain := strings.CutPrefix(hostPort, "http://")
	host, port, err := net.SplitHostPort(hostPort)
	if err != nil || host == "" || port == "" || secure && plain || strings.ContainsRune(hostPort, '/') {
		return "", false, fmt.Errorf("client: address: expected HOST:PORT, or http:// or https:// before it, got %q", address)
	}
	return hostPort, secure || !plain && !loopback(host), nil
}

// loopback tells whether a host is this machine, and nobody is on the way to it.
func loopback(host string) bool {
	address, err := netip.ParseAddr(host)
	return err == nil && address.IsLoopback() || strings.EqualFold(host, "localhost")
}

// Close ends the connection. Calls that go on fail.
func (c *Client) Close() error { return c.conn.Close() }

// Conn is the connection, for what else the server has: keytree.v1.KeyserverService, pages
// of lists, health. It is closed by Close.
func (c *Client) Conn() *grpc.ClientConn { return c.conn }

// At returns what asks as of the block at a height.
func (c *Client) At(height uint32) View {
	v := c.View
	v.at = &height
	return v
}

// Unconfirmed returns what asks as of the tip, and what would differ if what is pending were the next block:
// that stands in the field Unconfirmed of answers, which says so if the server does not know it. Lists list what
// is confirmed, but for those named Unconfirmed. One that is only pending is in an answer's Unconfirmed, too: its
// state is UNCONFIRMED then.
func (c *Client) Unconfirmed() View {
	v := c.View
	v.unconfirmed = true
	return v
}

// Pending tells what would become of an action that is not confirmed yet if what is pending were
// the next block. NOT_FOUND if the server knows of none in such a transaction.
func (c *Client) Pending(ctx context.Context, txid string) (*Action, error) {
	a, err := c.Unconfirmed().Action(ctx, txid)
	if err != nil {
		return nil, err
	}
	pending := a.GetUnconfirmed().GetActions()
	if a.State != stateUnconfirmed || len(pending) == 0 {
		return nil, status.Error(codes.NotFound, "no such action is pending")
	}
	return pending[0], nil
}

// stateUnconfirmed is that of an action that is only pending.
const stateUnconfirmed = "UNCONFIRMED"

// Mempool lists the actions that are pending, with what would become of each if they alone made up the next
// block, in the order of their txids. An action that comes or goes meanwhile may be missing. ErrMempool if the
// server does not know what is pending.
func (c *Client) Mempool(ctx context.Context) iter.Seq2[*PendingAction, error] {
	return list(func(token string) ([]*PendingAction, string, error) {
		page, err := c.identities.ListMempool(ctx, &keytreev1.ListMempoolRequest{PageSize: pageSize, PageToken: token})
		if err == nil && !page.GetMempool().GetAvailable() {
			err = fmt.Errorf("%w: %s", ErrMempool, page.GetMempool().GetReason())
		}
		return page.GetActions(), page.GetNextPageToken(), err
	})
}

// Status tells what the server has indexed.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	return c.identities.GetStatus(ctx, &keytreev1.GetStatusRequest{})
}

// Block tells which block is at a height of the chain, and what state hash and state root are after it: without its events.
// OUT_OF_RANGE if there is none.
func (c *Client) Block(ctx context.Context, height uint32) (*Block, error) {
	for token := ""; ; { // what was disconnected comes first
		page, err := c.identities.ListEvents(ctx, &keytreev1.ListEventsRequest{FromHeight: &height, ToHeight: &height, PageSize: 1, PageToken: token})
		if err != nil {
			return nil, err
		}
		for _, block := range page.Blocks {
			if block.Type == "CONNECT" && block.Height == height {
				return &Block{Type: block.Type, Height: height, Hash: block.Hash, PrevHash: block.PrevHash, StateHash: block.StateHash, StateRoot: block.StateRoot}, nil
			}
		}
		if next := page.NextPageToken; next != "" && next != token {
			token = next
			continue
		}
		return nil, fmt.Errorf("%w: expected block %d, got none", errAnswer, height)
	}
}

// unary bounds the time of a call, and makes it again when the server has refused it for now,
// and said when it may be: nothing was done then.
func (c *Client) unary(ctx context.Context, method string, request, answer any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	for try := 1; ; try++ {
		err := once(ctx, method, request, answer, conn, invoke, opts...)
		after, refused := RetryAfter(err)
		if !refused || try == MaxTries || after > MaxWait {
			return err
		}
		if deadline, ok := ctx.Deadline(); ok && time.Now().Add(after).After(deadline) {
			return err
		}
		if c.sleep(ctx, after) != nil {
			return err
		}
	}
}

func once(ctx context.Context, method string, request, answer any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	ctx, cancel := context.WithTimeout(ctx, CallTimeout)
	defer cancel()
	return invoke(ctx, method, request, answer, conn, opts...)
}

// RetryAfter returns in what time the server wants to be asked again, if err is a refusal
// that says so.
func RetryAfter(err error) (after time.Duration, refused bool) {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			return max(0, info.GetRetryDelay().AsDuration()), true
		}
	}
	return 0, false
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
