package indexer

import (
	"context"
	"time"

	"github.com/keytree-bch/keytree/graph"
)

// How blocks are grouped into steps of the graph while catching up: as many as
// come in stepTime, but not too many for memory.
const (
	stepTime    = time.Second
	stepRecords = 10_000 // blocks and claims, the last block's not counted: some 20 MB
	stepShare   = 4      // the part of the budget that it may take, the last block's not counted
	// stepMargin is how many blocks below the node's tip each becomes a step of its
	// own, so that readers and watchers see it at once.
	stepMargin = 10
)

// applier gives blocks to the graph. It belongs to the goroutine that runs it.
type applier struct {
	*pipeline
	graph    *graph.Graph
	progress *progress
	observer Observer
	last     uint32 // height of the last block to come

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
			a.take(f)
			if a.last-f.height <= stepMargin || len(a.step)+a.claims >= stepRecords || a.shares >= a.budget.limit/stepShare {
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

// take adds a block to the step.
func (a *applier) take(f *flight) {
	header := &f.block.Header
	b := graph.Block{Height: f.height, Hash: f.hash, PrevHash: header.PrevBlock, Time: header.Time, Bits: header.Bits}
	f.block.addTo(&b)
	a.step = append(a.step, b)
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
	began := time.Now()
	if err := a.graph.Connect(a.step...); err != nil {
		return err
	}
	a.observer.Connected(len(a.step), time.Since(began))
	a.progress.connected(a.step[len(a.step)-1].Height, a.actions, a.size)
	a.budget.change(-a.shares)
	a.step, a.actions, a.claims, a.size, a.shares = nil, 0, 0, 0, 0
	return nil
}
