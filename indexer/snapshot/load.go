package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"

	"github.com/gcash/bchd/chaincfg"
	"golang.org/x/sync/errgroup"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/indexer/claims"
)

// How blocks are grouped into steps of the graph. Three are under way at most: one is read, one
// waits, one is being applied.
const (
	stepRecords = 10_000 // blocks and transactions, the last block's not counted
	stepShare   = 16     // the part of the memory that a step may take, the last block's not counted
)

// LoadOptions tune Load; the zero value is fine.
type LoadOptions struct {
	Memory     int64 // what the process may take, in bytes; 0: graph.DefaultMemory
	OnProgress OnProgress
}

// Load applies the rules to the blocks of a snapshot, of which the reader has read the head, in a
// graph that has no block yet. After each block it compares the state hash, and at the end the
// state root, if graph and snapshot have it. ErrRefused if something is not as it should be: it names the
// block. Whatever the error, the graph is to be thrown away.
//
// The result is what the head says. Whether that is what it should be is for Expected to say.
func Load(ctx context.Context, r *Reader, g *graph.Graph, opt LoadOptions) error {
	if _, started := g.Tip(); started {
		return errors.New("loading a snapshot: the index has blocks already")
	}
	opt.Memory = cmp.Or(opt.Memory, graph.DefaultMemory)
	head := r.Head()
	l := &loading{reader: r, graph: g, net: r.net, opt: opt}
	steps := make(chan step)
	var unread error // why reading ended; set before steps is closed
	reading, stop := context.WithCancel(ctx)
	go func() {
		defer close(steps)
		unread = l.read(reading, steps)
	}()
	err := l.apply(ctx, steps)
	stop()
	for range steps { // until reading has ended
	}
	if err = cmp.Or(err, unread); err != nil {
		return err
	}
	tip, _ := g.Tip()
	if root := head.State.StateRoot; root != tip.StateRoot && root != [32]byte{} && tip.StateRoot != [32]byte{} {
		return fmt.Errorf("%w: block %v at height %d: by the rules its state root is %x, the snapshot says %x", ErrRefused, tip.Hash, tip.Height, tip.StateRoot, root)
	}
	return nil
}

// loading is a Load under way.
type loading struct {
	reader *Reader // belongs to read
	graph  *graph.Graph
	net    *chaincfg.Params
	opt    LoadOptions
}

// step is some blocks, and what they should come to.
type step struct {
	blocks []graph.Block
	checks []check // by block
	txs    int
}

// check is what a block that has been applied is compared with.
type check struct {
	stateHash [32]byte
	// anchors is how many transactions there are for the chains of anchors, if one of them shows only
	// when it is applied whether it is; otherwise 0.
	anchors int
}

// read reads the snapshot to its end, and delivers the blocks in steps.
func (l *loading) read(ctx context.Context, steps chan<- step) error {
	var s step
	memory := int64(0)
	deliver := func() error {
		if len(s.blocks) == 0 {
			return nil
		}
		select {
		case steps <- s:
		case <-ctx.Done():
			return ctx.Err()
		}
		s, memory = step{}, 0
		return nil
	}
	for {
		b, err := l.reader.Next()
		if err == io.EOF {
			return deliver()
		}
		if err != nil {
			return errors.Join(err, deliver())
		}
		block, c, size, err := l.take(b)
		if err != nil {
			return fmt.Errorf("%w: block %v at height %d: %w", ErrRefused, b.Header.Hash, b.Height, err)
		}
		s.blocks, s.checks, s.txs = append(s.blocks, block), append(s.checks, c), s.txs+len(b.Txs)
		if memory += size; len(s.blocks)+s.txs >= stepRecords || memory >= l.opt.Memory/stepShare {
			if err := deliver(); err != nil {
				return err
			}
		}
	}
}

// take makes of a block what the graph is given, which takes about size bytes, and what the block is to
// be compared with.
func (l *loading) take(b *Block) (block graph.Block, c check, size int64, err error) {
	if block, err = b.Graph(l.net); err != nil {
		return block, c, 0, err
	}
	c.stateHash = b.StateHash
	size = blockMemory + nodeMemory*int64(len(block.Anchors.Merkle))
	for i := range block.Actions {
		size += actionMemory + int64(len(block.Actions[i].Message))
	}
	for i := range block.Anchors.Txs {
		tx := &block.Anchors.Txs[i]
		size += actionMemory + int64(len(tx.Raw))
		if _, ok := tx.Raw.Anchor(); !ok { // it counts only if it spends a baton
			c.anchors = len(block.Anchors.Txs)
		}
	}
	return block, c, size, nil
}

// What a block takes in memory at most, in bytes, besides messages and transactions.
const (
	blockMemory  = 1 << 10
	actionMemory = 512 // an action, or a transaction for the chains of anchors
	nodeMemory   = 40  // of a merkle tree
)

// Graph is the block as the graph is given it. Nothing of it aliases the block. The error says what a
// transaction is said to be and is not: one that matters, for the chains of anchors or not, with an author,
// that spends what it is said to.
func (b *Block) Graph(net *chaincfg.Params) (block graph.Block, err error) {
	h := &b.Header
	block = graph.Block{Height: b.Height, Hash: h.Hash, PrevHash: h.PrevBlock, Time: h.Time, Bits: h.Bits}
	var indices []uint32 // of anchors
	var signatures errgroup.Group
	signatures.SetLimit(runtime.GOMAXPROCS(0))
	for i := range b.Txs {
		t := &b.Txs[i]
		claim, err := t.claim()
		if err == nil && t.Spent != nil && len(t.Spent) != len(claim.By.Inputs) {
			err = fmt.Errorf("its author's signature covers %d outputs, there are %d", len(claim.By.Inputs), len(t.Spent))
		}
		if err != nil {
			return block, errors.Join(fmt.Errorf("transaction %v: %w", claim.TxID, err), signatures.Wait())
		}
		if by := claim; t.Spent != nil {
			signatures.Go(func() error {
				if err := by.Check(net, b.Height, t.Spent); err != nil {
					return fmt.Errorf("transaction %v does not spend what it is said to: %w", by.TxID, err)
				}
				return nil
			})
		}
		if t.Acted {
			author := claim.By.Key // alone: what the signature covers is not needed any more
			claim.Author = &author
		}
		if action, ok := claim.Link(); ok {
			block.Actions = append(block.Actions, action)
		}
		if tx, ok := claim.AnchorTx(); ok {
			block.Anchors.Txs, indices = append(block.Anchors.Txs, tx), append(indices, t.Index)
		}
	}
	if err := signatures.Wait(); err != nil || len(indices) == 0 {
		return block, err
	}
	block.Anchors.Header = serialized(h)
	block.Anchors.Merkle, err = b.Merkle.Part(indices...)
	return block, err
}

// claim is what is kept of the transaction, which has to be what it is said to be.
func (t *Tx) claim() (claims.Claim, error) {
	carrier := t.Raw.Carrier(nil)
	carrier.Index, carrier.SpendsBaton = t.Index, t.Anchors
	claim, matters := claims.Of(&carrier)
	claim.TxID = carrier.TxID
	switch {
	case !matters:
		return claim, errors.New("it carries neither an action nor an anchor")
	case carrier.Anchor != nil && !t.Anchors:
		return claim, errors.New("it carries an anchor, and is not said to")
	case t.Acted && claim.By == nil:
		return claim, errors.New("it is said to have an author, and names none")
	case t.Spent != nil && !t.Acted:
		return claim, errors.New("it has outputs that its author's signature covers, and no author")
	}
	return claim, nil
}

// apply applies the steps that come in, and compares what they come to.
func (l *loading) apply(ctx context.Context, steps <-chan step) error {
	head := l.reader.head // never changes
	meter := newMeter(l.opt.OnProgress, Progress{Stage: StageLoad, From: head.Start, To: head.State.Height})
	for s := range steps {
		if err := l.graph.Connect(s.blocks...); err != nil {
			first, last := &s.blocks[0], &s.blocks[len(s.blocks)-1]
			if errors.Is(err, graph.ErrBlock) {
				err = fmt.Errorf("%w: %w", ErrRefused, err)
			}
			return fmt.Errorf("blocks %v at height %d to %v at height %d: %w", first.Hash, first.Height, last.Hash, last.Height, err)
		}
		for i := range s.blocks {
			if err := l.compare(&s.blocks[i], s.checks[i]); err != nil {
				return err
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		meter.progress.Height = s.blocks[len(s.blocks)-1].Height
		meter.progress.Txs += int64(s.txs)
		meter.tell()
	}
	return nil
}

// compare compares a block that was applied with what the snapshot says.
func (l *loading) compare(b *graph.Block, c check) error {
	at, err := tipAt(l.graph, b.Height)
	if err != nil {
		return err
	}
	if at.StateHash != c.stateHash {
		return fmt.Errorf("%w: block %v at height %d: by the rules its state hash is %x, the snapshot says %x: "+
			"an action was left out, added or changed in this block", ErrRefused, b.Hash, b.Height, at.StateHash, c.stateHash)
	}
	if c.anchors == 0 {
		return nil
	}
	recorded, err := l.graph.Recorded(b.Height)
	if err != nil {
		return err
	}
	counted := 0
	for i := range recorded.Txs {
		if recorded.Txs[i].Anchors {
			counted++
		}
	}
	if counted != c.anchors {
		return fmt.Errorf("%w: block %v at height %d: %d of its transactions are said to be for chains of anchors, by the rules %d are",
			ErrRefused, b.Hash, b.Height, c.anchors, counted)
	}
	return nil
}

// tipAt is what a graph adds up to at a height.
func tipAt(g *graph.Graph, height uint32) (graph.Tip, error) {
	view, err := g.At(&height)
	if err != nil {
		return graph.Tip{}, err
	}
	defer view.Close()
	at, _ := view.Block()
	return at, nil
}
