package sources

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/keyserver/audit"
	"github.com/keytree-bch/keytree/protocol"
)

// NodeClient is one's own node, bchd.Client or bitcoind.Client for example. Errors are
// those of package node.
type NodeClient interface {
	// Tip returns the end of the best chain.
	Tip(ctx context.Context) (node.Tip, error)
	// BlockHash returns the hash of the best chain's block at a height. node.ErrNotFound
	// if the best chain is shorter.
	BlockHash(ctx context.Context, height uint32) (chainhash.Hash, error)
	// Header returns the header of the best chain's block at a height.
	Header(ctx context.Context, height uint32) ([protocol.HeaderSize]byte, error)
	// Unspent reports whether an output is there and not spent, in the best chain or,
	// with mempool, in what it and the mempool make together.
	Unspent(ctx context.Context, out wire.OutPoint, mempool bool) (bool, error)
}

// Node asks one's own node which blocks are on the best chain, and what they spend. Its
// word is taken for both.
type Node struct{ NodeClient }

var _ audit.Headers = Node{}

// Newest returns the time in the header of the best chain's last block.
func (n Node) Newest(ctx context.Context) (time.Time, error) {
	tip, err := n.Tip(ctx)
	if err != nil {
		return time.Time{}, err
	}
	raw, err := n.Header(ctx, tip.Height)
	if err != nil {
		return time.Time{}, err
	}
	h, err := protocol.ParseHeader(raw[:])
	return time.Unix(int64(h.Time), 0), err
}

// Spending tells whether an output of the best chain is spent.
func (n Node) Spending(ctx context.Context, out wire.OutPoint) (audit.Spending, error) {
	inChain, err := n.Unspent(ctx, out, false)
	switch {
	case err != nil:
		return audit.NotAsked, err
	case !inChain:
		return audit.SpentInBlock, nil
	}
	stillThere, err := n.Unspent(ctx, out, true)
	switch {
	case err != nil:
		return audit.NotAsked, err
	case !stillThere:
		return audit.SpentInMempool, nil
	}
	return audit.Unspent, nil
}

// OnBestChain implements audit.Headers.
func (n Node) OnBestChain(ctx context.Context, height uint32, block chainhash.Hash) error {
	hash, err := n.BlockHash(ctx, height)
	if errors.Is(err, node.ErrNotFound) {
		return fmt.Errorf("%w: the node's best chain ends before height %d", audit.ErrNoHeader, height)
	}
	if err != nil {
		return err
	}
	return sameBlock(height, hash, block)
}

func sameBlock(height uint32, have, asked chainhash.Hash) error {
	if have != asked {
		return fmt.Errorf("%w: at height %d it has block %v, not %v", audit.ErrNotOnBestChain, height, have, asked)
	}
	return nil
}

// WriteHeaders writes the headers of the best chain from a height on to its tip, as
// audit.ReadHeaders reads them, and returns the hash of the first block, and how many
// headers there are. It fails if the chain is reorganised meanwhile: begin again. progress
// hears each height.
func (n Node) WriteHeaders(ctx context.Context, out io.Writer, first uint32, progress func(height, tip uint32)) (begin chainhash.Hash, count uint32, err error) {
	tip, err := n.Tip(ctx)
	if err != nil {
		return begin, 0, err
	}
	if first > tip.Height {
		return begin, 0, fmt.Errorf("the node's best chain ends with block %d, before block %d", tip.Height, first)
	}
	var last chainhash.Hash
	for height := first; height <= tip.Height; height++ {
		raw, err := n.Header(ctx, height)
		if err != nil {
			return begin, 0, err
		}
		h, err := protocol.ParseHeader(raw[:])
		if err != nil {
			return begin, 0, err
		}
		if height == first {
			begin = h.Hash
		} else if h.PrevBlock != last {
			return begin, 0, fmt.Errorf("block %d of the node's best chain does not follow the one that was saved: it was reorganised meanwhile, try again", height)
		}
		last = h.Hash
		if _, err := out.Write(raw[:]); err != nil {
			return begin, 0, err
		}
		progress(height, tip.Height)
	}
	return begin, tip.Height - first + 1, nil
}
