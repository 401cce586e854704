package indexer

import (
	"cmp"
	"context"
	"sync"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/indexer/node"
)

// Bounds on what is under way at a time.
const (
	// flightBytes is what the blocks in flight may take. Adapters and the garbage
	// collector need a few times as much on top while blocks are large.
	flightBytes = 128 << 20
	// firstGuess is how large the first block is taken to be: as large as the
	// network has allowed since 2018, so that the first ones come in few at a time.
	firstGuess = 32 << 20
	// blocksAhead is how many blocks may wait for a slower one before them.
	blocksAhead = 1024
	// hashCalls, blockCalls and spentCalls are how many questions of each kind the
	// node is asked at a time.
	hashCalls  = 16
	blockCalls = 8
	spentCalls = 32
)

// flight is a block on its way from the node to the graph. One stage at a time
// owns it.
type flight struct {
	height uint32
	hash   chainhash.Hash // once it is known
	share  int64          // of the budget, in bytes
	size   int64          // of the serialized block
	raw    []byte         // the serialized block, until its turn has come
	block  *extracted
	err    error // why there is no block
}

// pipeline brings blocks from the node to the graph. Each stage works ahead of
// the next, as far as the budget and the bounds above allow; what goes wrong
// with a block travels in its place, so that the blocks before it get through.
//
//	hashes   of the node's best chain, if it wants blocks asked for by hash    fetch.go
//	blocks   several at a time                                                 fetch.go
//	extract  what matters in them, on all cores                                extract.go
//	in turn  once more, if a block before makes a baton that was not known     batons.go
//	authors  of actions and anchors                                            author.go
//	apply    in order, many in one step                                        apply.go
type pipeline struct {
	node   node.Node
	name   string // of the node
	net    *chaincfg.Params
	verify Verify
	batons *batons
	budget *budget
	blocks chan struct{} // holds a value for each block being downloaded
	spents chan struct{} // holds a value for each spent output being asked for

	running sync.WaitGroup // all goroutines
}

func (ix *Indexer) newPipeline(net *chaincfg.Params) *pipeline {
	return &pipeline{
		node: ix.node, name: ix.opt.NodeName, net: net, verify: ix.opt.Verify, batons: newBatons(ix.graph, cmp.Or(ix.opt.batonsKept, batonsKept)),
		budget: newBudget(flightBytes, firstGuess),
		blocks: make(chan struct{}, blockCalls),
		spents: make(chan struct{}, spentCalls),
	}
}

// forward connects the blocks up to target.
func (ix *Indexer) forward(ctx context.Context, target node.Tip) error {
	next := ix.graph.Params().StartHeight
	tip, started := ix.graph.Tip()
	if started {
		next = tip.Height + 1
	}
	if next > target.Height {
		return nil
	}
	ctx, stop := context.WithCancel(ctx)
	p := ix.newPipeline(ix.net)
	defer p.running.Wait()
	defer stop()
	a := &applier{pipeline: p, graph: ix.graph, target: target, progress: newProgress(ix.opt, next, target.Height)}
	if started {
		a.prev = &tip.Hash
	}
	return a.run(ctx, p.fetch(ctx, next, target.Height))
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
