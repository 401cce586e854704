package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/gcash/bchd/chaincfg"
	"golang.org/x/sync/errgroup"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/indexer/claims"
	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/protocol"
)

// Depth is how many blocks there are on top of the last one of a snapshot, at least.
const Depth = 10

// Bounds on what is under way at a time.
const (
	blocksAhead = 64 // that wait for one before them
	blockCalls  = 4  // blocks that the node is asked for at a time
)

// ErrHeight says that the index cannot make a snapshot of that height.
var ErrHeight = errors.New("no snapshot of this height")

// CreateOptions tune Create; the zero value is fine.
type CreateOptions struct {
	Height *uint32 // of the last block; nil: the highest that there can be
	// Spent has the outputs in it that the authors' signatures cover, where the node tells.
	Spent bool
	// StateLog, if not nil, is a state log that has to have the last block.
	StateLog   StateLog
	OnProgress OnProgress
}

// StateLog is a state log as of a checkpoint: a statelog.Published.
type StateLog interface {
	// Size is how many entries the checkpoint covers, one at least.
	Size() uint64
	// Prove returns a C2SP tlog-proof that an entry is at an index below Size. It fails if another
	// is there.
	Prove(ctx context.Context, index uint64, entry protocol.StateEntry) ([]byte, error)
}

// Index is what a snapshot is made of: a graph.Graph, a graph.Archive, or what asks a server. One
// goroutine asks at a time, after the first questions in order of height.
type Index interface {
	Params() graph.Params
	Tip() (tip graph.Tip, ok bool)
	Recorded(height uint32) (graph.Recorded, error)
}

// Create writes a snapshot of an index to w. The node, which is on the index's chain, is asked for the headers of all
// blocks, and for those blocks that have something in them; what it says is held against the
// index. ErrHeight; node.ErrInvalid if the node says something else than the index has; or an error of the
// node, the graph or w.
func Create(ctx context.Context, w io.Writer, index Index, n node.Node, opt CreateOptions) (*Head, error) {
	net, err := protocol.Network(index.Params().Network)
	if err != nil {
		return nil, err
	}
	height, err := heightOf(index, opt)
	if err != nil {
		return nil, err
	}
	params := index.Params()
	first, err := index.Recorded(params.StartHeight)
	if err != nil {
		return nil, err
	}
	last, err := index.Recorded(height)
	if err != nil {
		return nil, err
	}
	head := &Head{
		Network: params.Network, Start: params.StartHeight, Before: first.Prev,
		State: protocol.StateEntry{Height: height, Block: last.Hash, StateHash: last.StateHash, StateRoot: last.StateRoot},
	}
	if opt.StateLog != nil {
		if head.Proof, err = opt.StateLog.Prove(ctx, uint64(height-head.Start), head.State); err != nil {
			return nil, err
		}
	}
	out, err := NewWriter(w, head)
	if err != nil {
		return nil, err
	}
	c := &creating{index: index, node: n, net: net, opt: opt, head: head}
	if err := c.write(ctx, out); err != nil {
		out.Abandon()
		return nil, err
	}
	return head, out.Close()
}

// heightOf returns the height of the last block of a snapshot.
func heightOf(index Index, opt CreateOptions) (uint32, error) {
	tip, started := index.Tip()
	start := index.Params().StartHeight
	if !started || int64(tip.Height)-Depth < int64(start) {
		return 0, fmt.Errorf("%w: the index has fewer than %d blocks", ErrHeight, Depth+1)
	}
	last, why := tip.Height-Depth, fmt.Sprintf("%d below the index's tip", Depth)
	if opt.StateLog != nil {
		if covered := opt.StateLog.Size() - 1; covered < uint64(last-start) {
			last, why = start+uint32(covered), "the last one that the state log's checkpoint covers"
		}
	}
	if opt.Height == nil {
		return last, nil
	}
	if *opt.Height < start || *opt.Height > last {
		return 0, fmt.Errorf("%w: expected %d to %d, %s, got %d", ErrHeight, start, last, why, *opt.Height)
	}
	return *opt.Height, nil
}

// creating is a Create under way.
type creating struct {
	index Index
	node  node.Node
	net   *chaincfg.Params
	opt   CreateOptions
	head  *Head
}

// write writes the blocks. They are fetched several at a time, and written in order.
func (c *creating) write(ctx context.Context, out *Writer) error {
	work, ctx := errgroup.WithContext(ctx)
	places := make(chan chan *Block, blocksAhead)
	asking := make(chan struct{}, blockCalls) // holds a value for each block that is asked for
	work.Go(func() error {
		defer close(places)
		return c.eachHeader(ctx, func(b *Block) error {
			place := make(chan *Block, 1)
			select {
			case places <- place:
			case <-ctx.Done():
				return ctx.Err()
			}
			txs, err := c.indexed(b)
			if err != nil || len(txs) == 0 {
				place <- b
				return err
			}
			select {
			case asking <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			}
			work.Go(func() error {
				defer func() { <-asking }()
				err := c.fetch(ctx, b, txs)
				if err == nil {
					place <- b
				}
				return err
			})
			return nil
		})
	})
	work.Go(func() error {
		meter := newMeter(c.opt.OnProgress, Progress{Stage: StageCreate, From: c.head.Start, To: c.head.State.Height})
		for place := range places {
			select {
			case b := <-place:
				if err := out.Add(b); err != nil {
					return err
				}
				meter.progress.Height, meter.progress.Txs = b.Height, meter.progress.Txs+int64(len(b.Txs))
				meter.tell()
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return ctx.Err()
	})
	return work.Wait()
}

// eachHeader calls do for each block, with its header alone.
func (c *creating) eachHeader(ctx context.Context, do func(*Block) error) error {
	height, last := int64(c.head.Start), c.head.Before
	if height == 0 {
		h := &c.net.GenesisBlock.Header
		genesis := protocol.Header{Hash: *c.net.GenesisHash, MerkleRoot: h.MerkleRoot, Version: h.Version, Time: uint32(h.Timestamp.Unix()), Bits: h.Bits, Nonce: h.Nonce}
		if err := do(&Block{Header: genesis}); err != nil {
			return err
		}
		height, last = 1, genesis.Hash
	}
	for end := int64(c.head.State.Height); height <= end; {
		headers, err := c.node.Headers(ctx, last, uint32(height-1), uint32(end-height+1))
		if errors.Is(err, node.ErrNotFound) {
			err = fmt.Errorf("%w: is it the node of this index?", err)
		}
		if err != nil {
			return fmt.Errorf("headers behind block %v at height %d: %w", last, height-1, err)
		}
		for _, h := range headers[:min(int64(len(headers)), end-height+1)] {
			if err := do(&Block{Height: uint32(height), Header: h}); err != nil {
				return err
			}
			height, last = height+1, h.Hash
		}
	}
	return nil
}

// indexed fills in the block's state hash, and returns what the index has of it, which has to be the block
// at its height.
func (c *creating) indexed(b *Block) ([]graph.Transaction, error) {
	r, err := c.index.Recorded(b.Height)
	if err != nil {
		return nil, err
	}
	if r.Hash != b.Header.Hash {
		return nil, fmt.Errorf("%w: its block at height %d is %v, the index has %v: is it the node of this index, and not behind it?",
			node.ErrInvalid, b.Height, b.Header.Hash, r.Hash)
	}
	b.StateHash = r.StateHash
	return r.Txs, nil
}

// fetch gets the block from the node, and takes out of it what the index has.
func (c *creating) fetch(ctx context.Context, b *Block, txs []graph.Transaction) error {
	fail := func(err error) error { return fmt.Errorf("block %v at height %d: %w", b.Header.Hash, b.Height, err) }
	raw, err := c.node.Block(ctx, b.Header.Hash)
	if err != nil {
		return fail(err)
	}
	block, err := protocol.ReadBlock(raw)
	if err != nil {
		return fail(fmt.Errorf("%w: %w", node.ErrInvalid, err))
	}
	found := make(map[uint32]protocol.Tx, len(txs))
	for i := range txs {
		found[txs[i].Index] = nil
	}
	for index, tx := range block.Txs() {
		if _, ok := found[uint32(index)]; ok {
			found[uint32(index)] = append(protocol.Tx(nil), tx...)
		}
	}
	var by []node.Spender
	var acted []int // in b.Txs, of those that by has
	for i := range txs {
		t := Tx{Index: txs[i].Index, Acted: txs[i].Author != nil, Anchors: txs[i].Anchors, Raw: found[txs[i].Index]}
		if t.Raw == nil || t.Raw.TxID() != txs[i].TxID {
			return fail(fmt.Errorf("%w: the index has transaction %v in it at %d, the node has another there", node.ErrInvalid, txs[i].TxID, t.Index))
		}
		b.Txs = append(b.Txs, t)
		if claim, ok := t.Raw.Claim(); c.opt.Spent && t.Acted && ok && claim.Checkable() {
			by, acted = append(by, node.Spender{TxID: txs[i].TxID, Inputs: claim.Inputs}), append(acted, i)
		}
	}
	b.Merkle = block.PartialMerkleTree(b.indices()...)
	if err := b.Merkle.Check(b.each(), b.Header.MerkleRoot); err != nil {
		return fail(fmt.Errorf("%w: %w", node.ErrInvalid, err))
	}
	if len(by) == 0 {
		return nil
	}
	spent, err := c.node.Spent(ctx, b.Header.Hash, by)
	if err == nil && len(spent) != len(by) {
		err = fmt.Errorf("%w: it was asked what %d transactions spend, and answered for %d", node.ErrInvalid, len(by), len(spent))
	}
	if err != nil {
		return fail(err)
	}
	for i, at := range acted {
		if outputs := spent[i].Outputs; len(outputs) == len(by[i].Inputs) && c.holds(b, &b.Txs[at], outputs) {
			b.Txs[at].Spent = outputs
		}
	}
	return nil
}

// holds tells whether the author's signature holds by these outputs: a reader refuses others.
func (c *creating) holds(b *Block, t *Tx, outputs []protocol.Output) bool {
	carrier := t.Raw.Carrier(nil)
	claim, ok := claims.Of(&carrier)
	return ok && claim.By != nil && claim.Check(c.net, b.Height, outputs) == nil
}
