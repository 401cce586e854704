// Package bitcoind reads the chain from a node that speaks the JSON-RPC of
// bitcoind, as Bitcoin Cash Node and most others do.
//
// Blocks come in binary by REST while the node serves it (-rest=1), else by JSON-RPC.
// Spent outputs come from the node's transaction index or, without one, from its undo
// data. The package asks the node what it can do, and looks at no version.
//
//	bitcoind.go  Dial: whether the node is suitable; Close
//	config.go    how to reach a node; its URL, password and cookie
//	call.go      a question over HTTP: credentials, time limits, asking again
//	answer.go    an answer of JSON-RPC, and what its errors mean in the terms of package node
//	hexresult.go an answer that is one long hex string, such as a block
//	blocktxs.go  an answer with a block's transactions in JSON, read one by one
//	rest.go      the same data by REST, where that works
//	chain.go     the tip, hashes and blocks
//	headers.go   headers
//	source.go    where this node gets spent outputs from
//	spent.go     what transactions spend, and the transactions before them
//	decodedtx.go a transaction in the node's JSON, with what it spends
//	unspent.go   whether an output is unspent
//	hints.go     notifications of new blocks, by ZeroMQ
//
// # Who is trusted
//
// Whoever answers at the address is trusted to name the best chain. Blocks and
// transactions are checked against their hashes. Undo data cannot be checked so: the
// indexer compares it with signatures and, where a doubt is left, with the transaction
// that has the spent output (Previous). A transaction from the index proves itself, so a
// node with an index is asked for that alone. ZeroMQ only hints. Passwords leave this
// package only in the Authorization header.
//
// What never belongs here: what a transaction means, and which chain to believe.
package bitcoind

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/reach"
)

const (
	// maxBlock is the most that a block may take, in bytes: one of 256 MB with
	// room. Memory grows with what arrives, not with this.
	maxBlock = 512 << 20
	// maxBlockAnswer is the most that an answer with a block may take: in JSON
	// with all inputs and outputs, of which only one transaction at a time is in
	// memory.
	maxBlockAnswer = 16 * maxBlock
	// maxAnswer is the same for other answers: a transaction of 1 MB in JSON with
	// room.
	maxAnswer = 64 << 20

	// connections to the node at a time. bchd refuses more than 10 clients by
	// default, bitcoind more than 16 waiting questions.
	connections = 8
	// blocksAtOnce is how many of them are for blocks, so that no question waits for
	// a block to arrive.
	blocksAtOnce = connections - 2
	// idleTimeout is less than the 30 s after which bitcoind hangs up.
	idleTimeout = 20 * time.Second
	// questionTimeout bounds one attempt of a question, other than those for which
	// the node sends a block or reads a whole one with what it spends: these have
	// blockTimeout, the transfer included.
	questionTimeout = 10 * time.Second
	blockTimeout    = 5 * time.Minute
	connectTimeout  = 10 * time.Second
)

// Client is a connection to one node, and a node.Node. It reconnects by itself.
// All methods may be called concurrently, Close once and last.
type Client struct {
	address    string // HOST:PORT, without a secret
	url        string // scheme and address
	fixed      login  // unless there is a cookie file
	cookieFile string
	network    *chaincfg.Params
	from       uint32
	retryFor   time.Duration
	log        zerolog.Logger
	http       *http.Client
	blocks     chan struct{} // holds a value for each question about a block

	closing   context.Context // ends with Close
	close     context.CancelFunc
	hints     *hints
	announced *announcements
	heights   *spentHeights

	mu       sync.Mutex
	cookie   login     // mu; zero: to be read from its file
	source   source    // mu; undecided until the node could be asked
	restFrom time.Time // mu; REST is asked from then on, see pauseREST
	behind   bool      // mu; the node was downloading at the last Tip
}

var _ node.Node = (*Client)(nil)

// Dial connects to a node and returns when it has answered and is suitable. It
// waits for a node that does not answer yet or still loads its chain, saying so
// in the log, until ctx ends. It fails with node.ErrUnsuitable, saying what to
// change, for a node of another network, one that can tell nothing of spent
// outputs or has pruned away what is needed, credentials that the node refuses,
// a certificate that does not verify, or a port that is no JSON-RPC.
func Dial(ctx context.Context, cfg Config) (*Client, error) {
	c, err := newClient(cfg)
	if err != nil {
		return nil, err
	}
	if err := reach.Wait(ctx, c.log, c.probe); err != nil {
		c.close()
		c.http.CloseIdleConnections()
		return nil, err
	}
	go c.hints.follow(c.closing)
	return c, nil
}

// newClient returns a client that has asked nothing yet.
func newClient(cfg Config) (*Client, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if _, err := cfg.tls(); err != nil {
		return nil, err
	}
	c := &Client{
		address: cfg.Address, url: "http://" + cfg.Address, fixed: login{cfg.User, cfg.Password}, cookieFile: cfg.CookieFile,
		network: cfg.Network, from: cfg.From, retryFor: cfg.RetryFor, log: cfg.Log.With().Str("node", cfg.Address).Logger(),
	}
	if cfg.TLS {
		c.url = "https://" + cfg.Address
	}
	if c.retryFor == 0 {
		c.retryFor = DefaultRetryFor
	}
	c.closing, c.close = context.WithCancel(context.Background())
	dialer := &net.Dialer{Timeout: connectTimeout}
	// No proxy: the credentials are for the node alone.
	c.http = &http.Client{
		Transport: &http.Transport{
			DialContext: dialer.DialContext,
			DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				// Anew for each connection: a certificate is renewed in its file.
				config, err := cfg.tls()
				if err != nil {
					return nil, err
				}
				return (&tls.Dialer{NetDialer: dialer, Config: config}).DialContext(ctx, network, address)
			},
			MaxConnsPerHost:     connections,
			MaxIdleConnsPerHost: connections,
			IdleConnTimeout:     idleTimeout,
			DisableCompression:  true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	c.heights = newSpentHeights()
	c.blocks = make(chan struct{}, blocksAtOnce)
	c.hints = newHints(cfg.ZMQ, cfg.StallAfter, c.log)
	c.announced = newAnnouncements(cfg.ZMQ, cfg.StallAfter, c.log)
	return c, nil
}

// Close ends all calls and connections, and closes the channels of Changes and
// Announced.
func (c *Client) Close() error {
	c.close()
	<-c.hints.done
	c.announced.close()
	c.http.CloseIdleConnections()
	return nil
}

// Changes implements node.Node. The hints are the node's ZeroMQ topic hashblock;
// there is also one whenever the connection was made anew. Without ZeroMQ there
// is none.
func (c *Client) Changes() <-chan struct{} { return c.hints.changes }

// probe tries once whether the node answers and is suitable, and finds out what
// it can do.
func (c *Client) probe(ctx context.Context) error {
	var info chainInfo
	err := c.once(ctx, questionTimeout, "chain info", func(ctx context.Context) error { return c.post(ctx, into(&info), "getblockchaininfo") })
	if err != nil {
		return err
	}
	tip, err := info.tip()
	if err != nil {
		return fmt.Errorf("node at %s: chain info: %w", c.address, err)
	}
	if err := c.checkNetwork(info); err != nil {
		return err
	}
	err = c.once(ctx, questionTimeout, "genesis block", func(ctx context.Context) error {
		var s string
		if err := c.post(ctx, into(&s), "getblockhash", 0); err != nil {
			return err
		}
		hash, err := parseHash(s)
		if err == nil && hash != *c.network.GenesisHash {
			err = fmt.Errorf("%w: its chain starts with block %v, expected %v of network %s", node.ErrUnsuitable, hash, c.network.GenesisHash, c.network.Name)
		}
		return err
	})
	if err != nil {
		return err
	}
	if info.Pruned && info.PruneHeight > c.from {
		return fmt.Errorf("node at %s: %w: it has pruned its blocks below %d away, and those from %d on are needed: "+
			"give a node that runs without -prune (to prune later is fine, once keytree has read them)",
			c.address, node.ErrUnsuitable, info.PruneHeight, c.from)
	}
	err = c.once(ctx, blockTimeout, "spent outputs", func(ctx context.Context) error { return c.probeSource(ctx, tip) })
	if err != nil {
		return err
	}
	c.log.Debug().Stringer("spent_outputs", c.source).Bool("zmq", c.hints.address != "").Msg("the node is suitable")
	return nil
}

// checkNetwork returns node.ErrUnsuitable if the node is on another network. Tip asks it again
// and again: another node may be started at the address.
func (c *Client) checkNetwork(info chainInfo) error {
	if got := networkName(info.Chain); got != c.network.Name {
		return fmt.Errorf("node at %s: %w: it is on network %.20q, expected %s: give the address of another node, or the network that this one is on",
			c.address, node.ErrUnsuitable, got, c.network.Name)
	}
	return nil
}

// networkName returns the name in chaincfg of what getblockchaininfo calls
// chain. bitcoind's names are its own, bchd's those of chaincfg.
func networkName(chain string) string {
	switch chain {
	case "main":
		return chaincfg.MainNetParams.Name
	case "test":
		return chaincfg.TestNet3Params.Name
	case "test4":
		return chaincfg.TestNet4Params.Name
	case "chip":
		return chaincfg.ChipNetParams.Name
	}
	return chain
}

// parseHash reads a hash in display order, which chainhash would also take when
// it is too short.
func parseHash(s string) (chainhash.Hash, error) {
	hash, err := chainhash.NewHashFromStr(s)
	if err != nil || len(s) != chainhash.MaxHashStringSize {
		return chainhash.Hash{}, fmt.Errorf("%w: expected a hash of %d hex characters, got %.80q", node.ErrInvalid, chainhash.MaxHashStringSize, s)
	}
	return *hash, nil
}
