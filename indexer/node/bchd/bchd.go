// Package bchd reads the chain from a bchd node over its gRPC interface, and
// lets wallets find and send coins there. The node has to run with --txindex,
// for spent outputs, and for UnspentOutputs with --addrindex.
//
// Who is trusted: the holder of the certificate's key, to answer at all and to
// name the best chain. Blocks and transactions are checked against their hashes, which
// is as far as one answer can be checked. What never belongs here: what a
// transaction means, and which chain to believe.
package bchd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gcash/bchd/bchrpc/pb"
	"github.com/gcash/bchd/chaincfg"
	"github.com/rs/zerolog"
	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/reach"
)

const (
	// maxMessage is the most that one answer may take, in bytes: a block of
	// 256 MB with room. Memory grows with what arrives, not with this.
	maxMessage = 512 << 20
	// questionTimeout bounds one attempt of a call other than for a block, which has
	// blockTimeout, the transfer of the largest included.
	questionTimeout = 10 * time.Second
	blockTimeout    = 5 * time.Minute
	keepaliveTime   = time.Minute
	// probeTimeout bounds each attempt of Dial, and of connecting at all.
	probeTimeout = 15 * time.Second
)

// Client is a connection to one bchd, and a node.Node. It reconnects by itself.
// All methods may be called concurrently, Close once and last.
type Client struct {
	address  string
	network  *chaincfg.Params
	tls      func() (*tls.Config, error) // as the certificate is now
	retryFor time.Duration
	log      zerolog.Logger
	token    *authToken
	conn     *grpc.ClientConn
	rpc      pb.BchrpcClient

	changes   chan struct{}      // sent to and closed by follow
	following context.Context    // ends with Close
	cancel    context.CancelFunc // ends following
	done      chan struct{}      // closed when follow has ended

	announcing sync.Mutex
	announced  *announcements // announcing; nil until somebody asks
	streams    atomic.Bool    // announcements arrive
}

var _ node.Node = (*Client)(nil)

// Dial connects to a bchd and returns when it has answered and is suitable. It
// waits for a node that does not answer yet, saying so in the log, until ctx
// ends. It fails with node.ErrUnsuitable, saying what to change, for a node of
// another network or without --txindex, a certificate that does not verify, an
// auth token that the node refuses, or a port that is not bchd's gRPC.
func Dial(ctx context.Context, cfg Config) (*Client, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	creds, err := newFreshTLS(cfg.tls)
	if err != nil {
		return nil, err
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           grpcbackoff.Config{BaseDelay: reach.FirstPause, Multiplier: 2, Jitter: 0.2, MaxDelay: reach.MaxPause},
			MinConnectTimeout: probeTimeout,
		}),
	}
	token := newAuthToken(cfg.AuthToken, cfg.TokenFile)
	if cfg.AuthToken != "" {
		options = append(options, grpc.WithPerRPCCredentials(token))
	}
	conn, err := grpc.NewClient("dns:///"+cfg.Address, options...)
	if err != nil {
		return nil, fmt.Errorf("bchd at %s: %w", cfg.Address, err)
	}
	c := &Client{
		address: cfg.Address, network: cfg.Network, tls: cfg.tls, retryFor: cfg.RetryFor, log: cfg.Log.With().Str("node", cfg.Address).Logger(),
		token: token, conn: conn, rpc: pb.NewBchrpcClient(conn),
		changes: make(chan struct{}, 1), done: make(chan struct{}),
	}
	if c.retryFor == 0 {
		c.retryFor = DefaultRetryFor
	}
	if err := reach.Wait(ctx, c.log, c.probe); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	c.following, c.cancel = context.WithCancel(context.Background())
	go c.follow(c.following)
	return c, nil
}

// Close ends the connection and all calls, and closes the channels of Changes and
// Announced.
func (c *Client) Close() error {
	c.cancel()
	<-c.done
	c.announcing.Lock()
	defer c.announcing.Unlock()
	if c.announced != nil {
		<-c.announced.done
	}
	return c.conn.Close()
}

// Changes implements node.Node. The hint is bchd's stream of connected and
// disconnected blocks; there is also one whenever the stream was opened anew.
func (c *Client) Changes() <-chan struct{} { return c.changes }

// probe tries once whether the node answers and is suitable.
func (c *Client) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if err := c.probeTLS(ctx); err != nil {
		return err
	}
	info, err := once(ctx, c, questionTimeout, "chain info", c.rpc.GetBlockchainInfo, &pb.GetBlockchainInfoRequest{})
	if err != nil {
		return err
	}
	if err := c.checkInfo(info); err != nil {
		return err
	}
	genesis, err := once(ctx, c, questionTimeout, "genesis block", c.rpc.GetBlockInfo, heightRequest(0))
	if err != nil {
		return err
	}
	hash, err := headerHash(genesis.GetInfo(), 0)
	if err != nil {
		return fmt.Errorf("bchd at %s: genesis block: %w", c.address, err)
	}
	if hash != *c.network.GenesisHash {
		return fmt.Errorf("bchd at %s: %w: its chain starts with block %v, expected %v of network %s",
			c.address, node.ErrUnsuitable, hash, c.network.GenesisHash, c.network.Name)
	}
	return nil
}

// checkInfo is asked again and again: another node may be started at the address, or
// this one without its index.
func (c *Client) checkInfo(info *pb.GetBlockchainInfoResponse) error {
	if got := networkName(info.BitcoinNet); got != c.network.Name {
		return fmt.Errorf("bchd at %s: %w: it is on network %s, expected %s: give the address of another node, or the network that this one is on",
			c.address, node.ErrUnsuitable, got, c.network.Name)
	}
	if !info.TxIndex {
		return fmt.Errorf("bchd at %s: %w: it has no transaction index: restart it with --txindex", c.address, node.ErrUnsuitable)
	}
	return nil
}

// probeTLS shakes hands once beside gRPC, which would give the reason of a
// failure as text only.
func (c *Client) probeTLS(ctx context.Context) error {
	unsuitable := func(format string, args ...any) error {
		return fmt.Errorf("bchd at %s: %w: %w", c.address, node.ErrUnsuitable, fmt.Errorf(format, args...))
	}
	config, err := c.tls()
	if err != nil {
		return fmt.Errorf("bchd at %s: %w: %w", c.address, node.ErrUnavailable, err)
	}
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", c.address)
	if err := reach.Unverified(err); err != nil {
		return fmt.Errorf("bchd at %s: %w", c.address, err)
	}
	if notTLS := new(tls.RecordHeaderError); errors.As(err, notTLS) {
		return unsuitable("it does not speak TLS: give the port of bchd's --grpclisten")
	}
	if err != nil {
		return fmt.Errorf("bchd at %s: %w: %w", c.address, node.ErrUnavailable, err)
	}
	defer conn.Close()
	if conn.(*tls.Conn).ConnectionState().NegotiatedProtocol != "h2" {
		return unsuitable("it speaks TLS but not HTTP/2: give the port of bchd's --grpclisten, not of --rpclisten")
	}
	return nil
}

func networkName(net pb.GetBlockchainInfoResponse_BitcoinNet) string {
	switch net {
	case pb.GetBlockchainInfoResponse_MAINNET:
		return chaincfg.MainNetParams.Name
	case pb.GetBlockchainInfoResponse_REGTEST:
		return chaincfg.RegressionNetParams.Name
	case pb.GetBlockchainInfoResponse_TESTNET3:
		return chaincfg.TestNet3Params.Name
	case pb.GetBlockchainInfoResponse_TESTNET4:
		return chaincfg.TestNet4Params.Name
	case pb.GetBlockchainInfoResponse_SIMNET:
		return chaincfg.SimNetParams.Name
	}
	return net.String()
}

// follow owns the stream of block notifications until ctx ends. gRPC pings while
// a stream is open, so this also notices a dead connection.
func (c *Client) follow(ctx context.Context) {
	defer close(c.done)
	defer close(c.changes)
	pauses := reach.NewPauses()
	trouble := node.NewTrouble(c.log, node.WarnEvery, "block notifications interrupted, subscribing again and again", "block notifications arrive again")
	for {
		token := c.token.current()
		stream, err := c.rpc.SubscribeBlocks(ctx, &pb.SubscribeBlocksRequest{}, grpc.WaitForReady(true))
		for err == nil {
			// The first hint stands for whatever happened without a stream.
			c.hint()
			if _, err = stream.Recv(); err == nil {
				pauses.Reset()
				trouble.Over()
			}
		}
		if ctx.Err() != nil {
			return
		}
		trouble.Warn(err)
		if refusesToken(status.Convert(err)) {
			_ = c.token.renew(token) // the next subscription tells whether that helped
		}
		if !pauses.Sleep(ctx) {
			return
		}
	}
}

func (c *Client) hint() {
	select {
	case c.changes <- struct{}{}:
	default: // the last hint has not been taken yet
	}
}
