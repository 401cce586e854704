package indexer

import (
	"cmp"
	"context"
	"fmt"
	"sync"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/indexer/node"
)

// Bounds on what is under way at a time.
const (
	// flightBytes is what the blocks in flight may take if there is memory enough, which
	// is flightShare times as much. Adapters and the garbage collector need a few times
	// as much on top while blocks are large.
	flightBytes = 128 << 20
	flightShare = 8
	// firstGuess is how large the first block is taken to be: as large as the
	// network has allowed since 2018, so that the first ones come in few at a time.
	firstGuess = 32 << 20
	// blocksAhead is how many blocks may wait for a slower one before them.
	blocksAhead = 1024
	// blockCalls and spentCalls are how many questions of each kind the node is asked
	// at a time.
	blockCalls = 8
	spentCalls = 32
)

// flight is a block on its way from the node to the graph. One stage at a time
// owns it.
type flight struct {
	height uint32
	hash   chainhash.Hash
	share  int64  // of the budget, in bytes
	size   int64  // of the serialized block
	raw    []byte // the serialized block, until its turn has come
	block  *extracted
	err    error // why there is no block
}

// pipeline brings blocks from the node to the graph. Each stage works ahead of
// the next, as far as the budget and the bounds above allow; what goes wrong
// with a block travels in its place, so that the blocks before it get through.
//
//	blocks   several at a time                                                 fetch.go
//	extract  what matters in them, on all cores                                extract.go
//	in turn  once more, if a block before makes a baton that was not known     batons.go
//	authors  of actions and anchors, signatures on all cores                   author.go
//	apply    in order, many in one step                                        apply.go
//
// Which blocks there are has been established before, by their headers (branch.go).
type pipeline struct {
	node     node.Node
	name     string // of the node
	net      *chaincfg.Params
	log      zerolog.Logger
	batons   *batons
	recent   *recent
	believed *sync.Once // says that a pruned node has to be believed
	budget   *budget
	blocks   chan struct{} // holds a value for each block being downloaded
	spents   chan struct{} // holds a value for each question about what is spent

	running sync.WaitGroup // all goroutines
}

func (ix *Indexer) newPipeline() *pipeline {
	return &pipeline{
		node: ix.node, name: ix.opt.NodeName, net: ix.net, log: ix.opt.Log,
		batons: newBatons(ix.graph, cmp.Or(ix.opt.batonsKept, batonsKept)), recent: ix.recent, believed: &ix.believed,
		budget: newBudget(ix.opt.flightBytes(), firstGuess),
		blocks: make(chan struct{}, blockCalls),
		spents: make(chan struct{}, spentCalls),
	}
}

// forward connects the blocks of a branch that continues the graph.
func (ix *Indexer) forward(ctx context.Context, b *branch, target node.Tip) error {
	if len(b.hashes) > 0 {
		ix.waits(fmt.Sprintf("catching up with the node, which is at height %d", target.Height))
		if err := ix.connect(ctx, b); err != nil {
			return err
		}
	}
	if err := ix.stands(target); err != nil {
		return err
	}
	return b.short
}

func (ix *Indexer) connect(ctx context.Context, b *branch) error {
	ctx, stop := context.WithCancel(ctx)
	p := ix.newPipeline()
	defer p.running.Wait()
	defer stop()
	last := uint32(b.last())
	a := &applier{pipeline: p, graph: ix.graph, observer: ix.opt.Observer, last: last, progress: newProgress(ix.opt, b.first, last)}
	return a.run(ctx, p.fetch(ctx, b))
}

// inOrder has work done on what comes in, each in a goroutine of its own, and
// delivers the results in the order of in. Up to ahead of them are under way or
// wait for one before them. admit is called before each, in order, and may wait;
// false ends it all. The returned channel is closed after the last result, or
// soon after ctx ends.
func inOrder[In, Out any](ctx context.Context, running *sync.WaitGroup, in <-chan In, ahead int, admit func(*In) bool, work func(In) Out) <-chan Out {
	places := make(chan chan Out, ahead)
	out := make(chan Out)
	running.Go(func() {
		defer close(places)
		for x := range in {
			result := make(chan Out, 1)
			select {
			case places <- result:
			case <-ctx.Done():
				return
			}
			if !admit(&x) {
				return
			}
			running.Go(func() { result <- work(x) })
		}
	})
	running.Go(func() {
		defer close(out)
		for result := range places {
			select {
			case x := <-result:
				select {
				case out <- x:
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	})
	return out
}
