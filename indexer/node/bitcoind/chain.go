package bitcoind

import (
	"context"
	"fmt"
	"math"
	"strings"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/indexer/node"
)

// headerSize is the size in bytes of a serialized block header.
const headerSize = 80

// chainInfo is what getblockchaininfo tells, as far as it matters here.
type chainInfo struct {
	Chain                string
	Blocks               *uint32
	Headers              uint32
	BestBlockHash        string
	InitialBlockDownload bool
	Pruned               bool
	PruneHeight          uint32 // lowest block that is there
}

// downloading reports whether the node knows of blocks that it has yet to download,
// or reads again (-reindex). It takes more than that the node says it is in its initial
// download: a node says so whenever its tip is a day old, for good on a test network where
// nobody mines. It also takes more than one header without a block: the header of each new
// block comes before the block.
func (i chainInfo) downloading() bool {
	return i.Blocks != nil && (i.Headers > *i.Blocks+1 || i.InitialBlockDownload && i.Headers > *i.Blocks)
}

func (i chainInfo) tip() (node.Tip, error) {
	if i.Blocks == nil || *i.Blocks > math.MaxInt32 {
		return node.Tip{}, fmt.Errorf("%w: expected a number of blocks up to %d", node.ErrInvalid, math.MaxInt32)
	}
	hash, err := parseHash(i.BestBlockHash)
	return node.Tip{Height: *i.Blocks, Hash: hash, Downloading: i.downloading(), Headers: max(*i.Blocks, i.Headers), Peers: node.Untold}, err
}

// Tip implements node.Node. While the node is still downloading, the tip is the block that
// it has come to, and the log says so.
func (c *Client) Tip(ctx context.Context) (node.Tip, error) {
	var info chainInfo
	if err := c.call(ctx, "tip", &info, "getblockchaininfo"); err != nil {
		return node.Tip{}, err
	}
	tip, err := info.tip()
	if err != nil {
		return node.Tip{}, fmt.Errorf("node at %s: tip: %w", c.address, err)
	}
	if err := c.checkNetwork(info); err != nil {
		return node.Tip{}, err
	}
	tip.Version, tip.Peers = c.askOfItself(ctx)
	c.noteDownload(info)
	if !info.InitialBlockDownload { // during which nothing is announced
		c.hints.seen(tip.Hash)
	}
	return tip, nil
}

// askOfItself returns what the node calls itself, and how many peers it has. This is for
// people: each may be missing. Not every node has the first call.
func (c *Client) askOfItself(ctx context.Context) (version string, peers int) {
	ask := func(call method, answer any) bool {
		return c.once(ctx, questionTimeout, string(call), func(ctx context.Context) error { return c.post(ctx, into(answer), call) }) == nil
	}
	var info struct {
		Subversion  string
		Connections *int
	}
	if !ask("getnetworkinfo", &info) || info.Connections == nil {
		info.Connections = new(int)
		if !ask("getconnectioncount", info.Connections) {
			*info.Connections = node.Untold
		}
	}
	version = strings.ToValidUTF8(info.Subversion[:min(len(info.Subversion), node.MaxVersion)], "")
	return version, max(node.Untold, *info.Connections)
}

// noteDownload logs the beginning and the end of the node's download.
func (c *Client) noteDownload(info chainInfo) {
	c.mu.Lock()
	downloading := info.downloading()
	changed := c.behind != downloading
	c.behind = downloading
	c.mu.Unlock()
	switch {
	case changed && downloading:
		c.log.Warn().Uint32("height", *info.Blocks).Uint32("headers", info.Headers).
			Msg("the node is behind the network: it still downloads blocks, or reads them again")
	case changed:
		c.log.Info().Uint32("height", *info.Blocks).Msg("the node has all blocks that it knows of")
	}
}

// BlockHash implements node.Node.
func (c *Client) BlockHash(ctx context.Context, height uint32) (chainhash.Hash, error) {
	what := fmt.Sprintf("block %d", height)
	if height > math.MaxInt32 {
		return chainhash.Hash{}, fmt.Errorf("node at %s: %s: %w", c.address, what, node.ErrNotFound)
	}
	var s string
	if err := c.call(ctx, what, &s, "getblockhash", height); err != nil {
		return chainhash.Hash{}, err
	}
	hash, err := parseHash(s)
	if err != nil {
		return chainhash.Hash{}, fmt.Errorf("node at %s: %s: %w", c.address, what, err)
	}
	return hash, nil
}

// Block implements node.Node. Nodes also know blocks that have left their best
// chain.
func (c *Client) Block(ctx context.Context, hash chainhash.Hash) ([]byte, error) {
	var raw []byte
	err := c.retryBlock(ctx, fmt.Sprintf("block %v", hash), func(ctx context.Context) error {
		var restErr error
		if c.asksREST() {
			restErr = c.byREST(ctx, "block/"+hash.String()+".bin", maxBlock, func(answer []byte) error {
				raw = answer
				return checkHeader(raw, hash)
			})
			if restErr == nil {
				return nil
			}
		}
		if err := c.post(ctx, hexInto(&raw, maxBlock), "getblock", hash.String(), 0); err != nil {
			return err
		}
		if err := checkHeader(raw, hash); err != nil {
			return err
		}
		c.pauseREST(restErr)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return raw, nil
}

func checkHeader(raw []byte, hash chainhash.Hash) error {
	if len(raw) < headerSize {
		return fmt.Errorf("%w: %d bytes", node.ErrInvalid, len(raw))
	}
	if got := chainhash.DoubleHashH(raw[:headerSize]); got != hash {
		return fmt.Errorf("%w: it sent block %v", node.ErrInvalid, got)
	}
	return nil
}
