package indexer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/indexer/node/blockfile"
	"github.com/keytree-bch/keytree/protocol"
)

// Bounds on the memory of an import, in bytes. The graph's own comes on top.
const (
	// rangeMemory is what the actions and anchors of one range of blocks may take if
	// there is memory enough: 250,000 of them with short messages. After each range, all
	// that it found is on disk.
	rangeMemory = 256 << 20
	// readMemory is what the blocks being read at a time may take if there is memory
	// enough, unless a single one is larger.
	readMemory = 256 << 20
	// importShare times as much memory is enough for each.
	importShare = 8
)

// ImportOptions tune an import; the zero value is fine.
type ImportOptions struct {
	Log    zerolog.Logger
	Verify Verify // 0: VerifyFull
	// Progress is how often progress is reported. 0: DefaultProgress
	Progress time.Duration
	// OnProgress, if not nil, is called instead of writing log lines. It must not
	// wait.
	OnProgress func(ImportProgress)

	// Memory is what the process may take, in bytes. 0: graph.DefaultMemory
	Memory int64

	rangeMemory int64 // 0: as Memory allows; tests have many ranges of few blocks
}

// Import connects the blocks of a chain in files to the graph, from where the
// graph ends to where the files do. It takes back first what the graph has of another
// branch.
//
// An import that is interrupted goes on from the last range that was finished,
// like any other that begins with a graph that is not empty. Import returns the
// context's error then. After any other error, all blocks before the one that it
// names are in the graph. blockfile.ErrDamaged says that the files are not what a
// node wrote, graph.ErrHorizon that they leave the graph's chain too far below its
// tip.
//
// It makes two passes over the files, for one range of blocks after the other:
//
//  1. From the range's first block on: find the actions and anchors.
//  2. From its last block back to the genesis block, or until all are found: find
//     the outputs that these spend, which tell their authors; see spentOutputs.
func Import(ctx context.Context, chain *blockfile.Chain, g *graph.Graph, opt ImportOptions) error {
	net, err := protocol.Network(g.Params().Network)
	if err != nil {
		return err
	}
	opt.Progress = cmp.Or(opt.Progress, DefaultProgress)
	opt.Memory = cmp.Or(opt.Memory, graph.DefaultMemory)
	opt.rangeMemory = cmp.Or(opt.rangeMemory, min(rangeMemory, opt.Memory/importShare))
	im := &importer{chain: chain, graph: g, net: net, opt: opt}
	next, err := im.begin(ctx)
	if err != nil {
		return err
	}
	im.meter = &meter{opt: opt, size: chain.Size}
	defer im.meter.run()()
	for next <= int64(chain.Height()) {
		found, err := im.actions(ctx, next)
		if err := im.finish(ctx, found, err); err != nil {
			return err
		}
		next = found.end
	}
	return nil
}

// importer is one import.
type importer struct {
	chain *blockfile.Chain
	graph *graph.Graph
	net   *chaincfg.Params
	opt   ImportOptions
	meter *meter
}

// begin returns the height of the first block to import, after it has taken back
// what the graph has and the files do not.
func (im *importer) begin(ctx context.Context) (int64, error) {
	start := int64(im.graph.Params().StartHeight)
	last := int64(im.chain.Height())
	if last < start {
		err := fmt.Errorf("%w: the chain in the files ends at height %d, the index starts at %d", blockfile.ErrNoChain, last, start)
		if n := im.chain.Found().Unproven; n > 0 {
			err = fmt.Errorf("%w; %d more blocks, up to height %d, may be another coin's: let the node download more", err, n, last+int64(n))
		}
		return 0, err
	}
	tip, started := im.graph.Tip()
	if !started {
		return start, nil
	}
	common := min(int64(tip.Height), last)
	for ; common >= start; common-- {
		header, err := im.graph.BlockHeader(uint32(common))
		if err != nil {
			return 0, err
		}
		if header.Hash == im.chain.Hash(uint32(common)) {
			break
		}
	}
	depth := int64(tip.Height) - common
	if depth == 0 || common == last {
		return int64(tip.Height) + 1, nil
	}
	theirs, err := workOf(common+1, last, func(height uint32) (protocol.Header, error) { return im.chain.Header(height), nil })
	if err != nil {
		return 0, err
	}
	ours, err := workOf(common+1, int64(tip.Height), im.graph.BlockHeader)
	switch {
	case err != nil:
		return 0, err
	case theirs.Cmp(ours) <= 0:
		return 0, fmt.Errorf("%w: it leaves the database's chain after height %d, and goes on to %d with %v hashes on average; the database's %d blocks took %v: "+
			"wait until the node has caught up, or is this another node?", blockfile.ErrNoChain, common, last, theirs, depth, ours)
	case common+1 < int64(im.graph.UndoFrom()):
		return 0, fmt.Errorf("%w: the chain in the files leaves the database's after height %d, and only blocks from %d on can be taken back: "+
			"delete the graph folder and import again", graph.ErrHorizon, common, im.graph.UndoFrom())
	}
	im.opt.Log.Warn().Int64("blocks", depth).Int64("common_height", common).Uint32("from_height", tip.Height).
		Stringer("stale_tip", tip.Hash).Msg("the files have another branch: taking blocks back")
	for range depth {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		if err := im.graph.Disconnect(); err != nil {
			return 0, err
		}
	}
	return common + 1, nil
}

// blockRange is a range of blocks and what was found in it.
type blockRange struct {
	first, end int64        // heights; end is that behind the last block
	blocks     []importable // those in which something matters, by height
}

// importable is a block in which something matters.
type importable struct {
	height int64
	*extracted
}

// actions finds the actions and anchors in the blocks from first on, up to the last
// or until they fill the memory set aside for them. With an error, which is that of
// a block, the range ends before this block.
func (im *importer) actions(ctx context.Context, first int64) (blockRange, error) {
	found := blockRange{first: first}
	last := int64(im.chain.Height())
	batons := newBatons(im.graph, batonsKept)
	known := make([]int, last-first+1) // how many of them had been found when the block was walked over
	var mu sync.Mutex                  // guards found.blocks
	var memory atomic.Int64
	im.meter.begin(stageActions, first, last)
	done, err := im.each(ctx, first, last,
		func() bool { return memory.Load() < im.opt.rangeMemory },
		func(height int64, raw []byte) error {
			x, err := extract(height, raw, im.net, im.opt.Verify, batons, nil)
			if err != nil {
				return im.damaged(height, err)
			}
			known[height-first] = x.batons
			if len(x.Claims) > 0 {
				memory.Add(x.memory())
				mu.Lock()
				defer mu.Unlock()
				found.blocks = append(found.blocks, importable{height, x})
			}
			return nil
		})
	slices.SortFunc(found.blocks, func(a, b importable) int { return cmp.Compare(a.height, b.height) })
	found.cut(first + done)
	if ctx.Err() != nil {
		return found, ctx.Err()
	}
	if err := im.missed(&found, batons, known); err != nil {
		return found, err
	}
	return found, err
}

// cut ends the range before a height. (Blocks above one that fails may have been
// walked over before.)
func (r *blockRange) cut(end int64) {
	r.end = end
	at, _ := r.at(end)
	r.blocks = r.blocks[:at]
}

// at returns where the block at height is among r.blocks, or has to be.
func (r *blockRange) at(height int64) (int, bool) {
	return slices.BinarySearchFunc(r.blocks, height, func(b importable, height int64) int { return cmp.Compare(b.height, height) })
}

// missed walks once more over the blocks for which not all batons were known. With
// an error, which is that of a block, the range ends before this block.
func (im *importer) missed(found *blockRange, batons *batons, known []int) error {
	nothing := new(extracted)
	for height := found.first; height < found.end; height++ {
		at, some := found.at(height)
		x := nothing
		if some {
			x = found.blocks[at].extracted
		}
		if batons.inTurn(x.anchors(), known[height-found.first]) {
			continue
		}
		if err := im.chain.Lend(uint32(height), func(raw []byte) (err error) {
			if x, err = extract(height, raw, im.net, im.opt.Verify, batons, nil); err != nil {
				return im.damaged(height, err)
			}
			return nil
		}); err != nil {
			found.cut(height)
			return err
		}
		switch {
		case some:
			found.blocks[at].extracted = x
		case len(x.Claims) > 0:
			found.blocks = slices.Insert(found.blocks, at, importable{height, x})
		}
	}
	return nil
}

// finish establishes the authors of the actions that were found, and connects the
// blocks. ended is why the range ended early, nil if it did not.
func (im *importer) finish(ctx context.Context, found blockRange, ended error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := im.authors(ctx, found); err != nil {
		return err
	}
	return errors.Join(im.connect(ctx, found), ended)
}

// connect gives the blocks of the range to the graph, many in one step.
func (im *importer) connect(ctx context.Context, found blockRange) error {
	im.meter.begin(stageConnect, found.first, found.end-1)
	var step []graph.Block
	claims := 0
	for height := found.first; height < found.end; height++ {
		header := im.chain.Header(uint32(height))
		b := graph.Block{Height: uint32(height), Hash: header.Hash, PrevHash: header.PrevBlock, Time: header.Time, Bits: header.Bits}
		if len(found.blocks) > 0 && found.blocks[0].height == height {
			found.blocks[0].addTo(&b)
			claims += len(found.blocks[0].Claims)
			found.blocks = found.blocks[1:]
		}
		step = append(step, b)
		im.meter.done(height)
		if len(step)+claims < stepRecords && height+1 < found.end {
			continue
		}
		if err := im.graph.Connect(step...); err != nil {
			return err
		}
		step, claims = step[:0], 0
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// damaged is the error about what is in a block.
func (im *importer) damaged(height int64, err error) error {
	return fmt.Errorf("%w: block %v at height %d in %s: %w; let the node check its files (BCHN: -checkblocks=0 -checklevel=1)",
		blockfile.ErrDamaged, im.chain.Hash(uint32(height)), height, im.chain.Place(uint32(height)), err)
}

// each reads the blocks from height from up or down to height to, on all
// processors, and has work done on each, as long as more, if not nil, says so. It
// returns how many were done: all of the first ones, without a gap. The error is
// that of the first block that is not among them, or the context's.
//
// A block is only lent to work.
func (im *importer) each(ctx context.Context, from, to int64, more func() bool, work func(height int64, raw []byte) error) (done int64, err error) {
	step, count := int64(1), to-from+1
	if to < from {
		step, count = -1, from-to+1
	}
	var taken atomic.Int64 // blocks are taken in order, and each that is taken gets done
	var failed atomic.Bool
	var mu sync.Mutex // guards done and err from here on
	done = count
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), max(1, int(min(readMemory, im.opt.Memory/importShare))/im.chain.Largest())) {
		workers.Go(func() {
			for ctx.Err() == nil && !failed.Load() && (more == nil || more()) {
				i := taken.Add(1) - 1
				if i >= count {
					return
				}
				height := from + step*i
				failure := im.chain.Lend(uint32(height), func(raw []byte) error { return work(height, raw) })
				if failure != nil {
					failed.Store(true)
					mu.Lock()
					if i < done {
						done, err = i, failure
					}
					mu.Unlock()
					return
				}
				im.meter.done(height)
			}
		})
	}
	workers.Wait()
	if err == nil {
		err = ctx.Err()
	}
	return min(done, taken.Load()), err
}
