package indexer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/indexer/node"
)

// How blocks are grouped into steps of the graph while catching up: as many as
// come in stepTime, but not too many for memory.
const (
	stepTime    = time.Second
	stepRecords = 10_000          // blocks and claims, the last block's not counted: some 20 MB
	stepBytes   = flightBytes / 4 // of the budget, the last block's not counted
	// stepMargin is how many blocks below the node's tip each becomes a step of its
	// own, so that readers and watchers see it at once.
	stepMargin = 10
)

// applier gives blocks to the graph. It belongs to the goroutine that runs it.
type applier struct {
	*pipeline
	graph    *graph.Graph
	progress *progress
	target   node.Tip        // the last block to come
	prev     *chainhash.Hash // of the block that the next one has to follow; nil before the first

	// The step in the making.
	step    []graph.Block
	actions int
	claims  int
	size    int64 // bytes of the serialized blocks
	shares  int64 // of the budget
}

// run takes the blocks that come in and applies them. Whatever ends it, all
// blocks taken before are on disk.
func (a *applier) run(ctx context.Context, in <-chan *flight) error {
	for {
		more, err := a.collect(ctx, in)
		if err := a.connect(); err != nil {
			return err
		}
		if err != nil || !more {
			return err
		}
	}
}

// collect takes blocks until they are worth a step. more is false if there are
// none left.
func (a *applier) collect(ctx context.Context, in <-chan *flight) (more bool, err error) {
	var due <-chan time.Time
	for {
		select {
		case f, open := <-in:
			if !open {
				return false, ctx.Err()
			}
			if f.err != nil {
				return false, f.err
			}
			if err := a.follows(ctx, f); err != nil {
				return false, err
			}
			a.take(f)
			if a.target.Height-f.height <= stepMargin || len(a.step)+a.claims >= stepRecords || a.shares >= stepBytes {
				return true, nil
			}
			if due == nil {
				due = time.After(stepTime)
			}
		case <-due:
			return true, nil
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// follows checks that the block continues the chain, and that the chain leads to
// the target.
func (a *applier) follows(ctx context.Context, f *flight) error {
	switch {
	case f.height == a.target.Height && f.hash != a.target.Hash:
		return fmt.Errorf("%w: node %s sent block %v at height %d, expected its tip %v", errMoved, a.name, f.hash, f.height, a.target.Hash)
	case f.height == 0:
		if f.hash != *a.net.GenesisHash {
			return a.invalid(f, fmt.Errorf("expected the first block of %s, %v", a.net.Name, a.net.GenesisHash))
		}
		return nil
	case a.prev == nil || f.block.Header.PrevBlock == *a.prev:
		return nil
	}
	// The chain may have been reorganised between two questions. But if the node
	// says that both blocks are in its best chain, it lies.
	broken := fmt.Errorf("it follows %v, expected %v", f.block.Header.PrevBlock, a.prev)
	for _, place := range []struct {
		height uint32
		hash   chainhash.Hash
	}{{f.height, f.hash}, {f.height - 1, *a.prev}, {f.height, f.hash}} {
		now, err := a.node.BlockHash(ctx, place.height)
		if err != nil && !errors.Is(err, node.ErrNotFound) {
			return err
		}
		if err != nil || now != place.hash {
			return fmt.Errorf("%w: block %v at height %d: %w", errMoved, f.hash, f.height, broken)
		}
	}
	return a.invalid(f, broken)
}

// take adds a block to the step.
func (a *applier) take(f *flight) {
	b := graph.Block{Height: f.height, Hash: f.hash, PrevHash: f.block.Header.PrevBlock}
	f.block.addTo(&b)
	a.step, a.prev = append(a.step, b), new(b.Hash)
	a.actions += len(b.Actions)
	a.claims += len(f.block.Claims)
	a.size += f.size
	a.shares += f.share
}

// connect applies the step, if there is one, and begins the next.
func (a *applier) connect() error {
	if len(a.step) == 0 {
		return nil
	}
	if err := a.graph.Connect(a.step...); err != nil {
		return err
	}
	a.progress.connected(a.step[len(a.step)-1].Height, a.actions, a.size)
	a.budget.change(-a.shares)
	a.step, a.actions, a.claims, a.size, a.shares = nil, 0, 0, 0, 0
	return nil
}
