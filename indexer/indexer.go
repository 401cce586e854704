package indexer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/protocol"
)

// Defaults of Options.
const (
	// DefaultPoll is how often the node is asked for its tip when it gives no
	// hint.
	DefaultPoll = 5 * time.Second
	// DefaultProgress is how often long work is reported.
	DefaultProgress = 5 * time.Second
)

// Options tune an Indexer; the zero value is what a server wants.
type Options struct {
	Log      zerolog.Logger
	NodeName string        // what errors call the node; no credentials
	Verify   Verify        // 0: VerifyActions
	Poll     time.Duration // 0: DefaultPoll
	Progress time.Duration // 0: DefaultProgress
	// OnProgress, if not nil, is called after each step of a catch-up, and log
	// lines under way are left out. Until it returns no other step is made.
	OnProgress func(Progress)

	batonsKept int // 0: the constant; tests have few
}

// startUpCheck is how many stored block hashes are compared with the node's
// before anything is served (design: promises).
const startUpCheck = 100

// Status is how the graph stands against the node.
type Status struct {
	NodeHeight uint32 // of the node's tip when last asked
	// Checked is set once the last stored blocks have been compared with the
	// node's chain. Until then the graph may hold what is no longer true.
	Checked bool
	// Synced is set while the graph ends with the node's tip, and the node is not in
	// its initial block download.
	Synced bool
}

// Indexer feeds one graph from one node.
type Indexer struct {
	node  node.Node
	graph *graph.Graph
	opt   Options
	net   *chaincfg.Params // set by Run before anything else

	mu     sync.Mutex
	status Status // mu
}

// New returns an indexer that does nothing until Run.
func New(n node.Node, g *graph.Graph, opt Options) *Indexer {
	if opt.Poll == 0 {
		opt.Poll = DefaultPoll
	}
	if opt.Progress == 0 {
		opt.Progress = DefaultProgress
	}
	return &Indexer{node: n, graph: g, opt: opt}
}

// Status returns how the graph stands now. It may be called at any time.
func (ix *Indexer) Status() Status {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	return ix.status
}

func (ix *Indexer) setStatus(change func(*Status)) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	change(&ix.status)
}

// Errors within the package.
var (
	// errMoved says that the node's best chain changed under a question: ask
	// again.
	errMoved = errors.New("the node's best chain moved")
	// errBehind says that the node's best chain ends below the graph's tip, on the
	// same chain.
	errBehind = errors.New("the node is behind the database")
)

// Waiting times between tries after a failure.
const (
	firstRetry = 250 * time.Millisecond
	lastRetry  = 15 * time.Second
)

// maxMoves is how often in a row the node's chain may move away under the
// indexer's questions before the node is taken to be talking nonsense.
const maxMoves = 20

// Run keeps the graph equal to the node's best chain until ctx ends, and then
// returns nil. A block that was begun is finished first.
//
// It waits, and says so, while the node is away, or is still catching up with
// what the database holds. It returns an error when it cannot go on: the node
// cannot supply what authorship needs (node.ErrUnsuitable), answers with invalid
// data (node.ErrInvalid), or has left the graph's chain below the undo horizon
// (graph.ErrHorizon); or the database fails. The graph is then as of the last
// block connected.
func (ix *Indexer) Run(ctx context.Context) (err error) {
	if ix.net, err = protocol.Network(ix.graph.Params().Network); err != nil {
		return err
	}
	hints := ix.node.Changes()
	retry := firstRetry
	moves := 0
	for {
		wait := ix.opt.Poll
		err := ix.sync(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			retry, moves = firstRetry, 0
		case errors.Is(err, errMoved):
			if moves++; moves > maxMoves {
				return fmt.Errorf("%w: its chain did not hold still for %d tries: %w", node.ErrInvalid, maxMoves, err)
			}
			wait = 0
		case errors.Is(err, errBehind):
			ix.opt.Log.Warn().Err(err).Msg("waiting for the node")
		case errors.Is(err, node.ErrUnavailable), errors.Is(err, node.ErrNotFound):
			ix.setStatus(func(s *Status) { s.Synced = false })
			ix.opt.Log.Warn().Err(err).Dur("retry_in", retry).Msg("the node does not answer")
			wait, retry = retry, min(2*retry, lastRetry)
		default:
			ix.setStatus(func(s *Status) { s.Synced = false })
			return err
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case _, open := <-hints:
			if !open {
				hints = nil // the adapter was closed; polling goes on until ctx ends
			}
		case <-timer.C:
		}
		timer.Stop()
	}
}

// sync brings the graph to the node's tip.
func (ix *Indexer) sync(ctx context.Context) error {
	target, err := ix.node.Tip(ctx)
	if err != nil {
		return err
	}
	tip, started := ix.graph.Tip()
	ix.setStatus(func(s *Status) {
		s.NodeHeight = target.Height
		s.Synced = s.Checked && started && tip.Hash == target.Hash && !target.Downloading
	})
	if !started && target.Height < ix.graph.Params().StartHeight {
		return fmt.Errorf("%w: it is at height %d, the index starts at %d", errBehind, target.Height, ix.graph.Params().StartHeight)
	}
	if started {
		if err := ix.backToCommon(ctx, tip, target); err != nil {
			return err
		}
	}
	ix.setStatus(func(s *Status) { s.Checked = true })
	if err := ix.forward(ctx, target); err != nil {
		return err
	}
	tip, started = ix.graph.Tip()
	ix.setStatus(func(s *Status) { s.Synced = started && tip.Hash == target.Hash && !target.Downloading })
	return nil
}

// backToCommon disconnects what the node's best chain does not have.
func (ix *Indexer) backToCommon(ctx context.Context, tip graph.Tip, target node.Tip) error {
	checked := ix.Status().Checked
	if target.Height < tip.Height && !checked {
		// Only at the start: a node whose chain gets shorter while it is watched has
		// taken blocks back, and is followed.
		same, err := ix.agree(ctx, target.Height)
		if err != nil {
			return err
		}
		if same {
			return fmt.Errorf("%w: it is at height %d, the database at %d", errBehind, target.Height, tip.Height)
		}
	}
	common, err := ix.lastCommon(ctx, min(tip.Height, target.Height), checked)
	if err != nil {
		return err
	}
	depth := int64(tip.Height) - common
	if depth == 0 {
		return nil
	}
	if lowest := ix.graph.UndoFrom(); common+1 < int64(lowest) {
		return fmt.Errorf("%w: the node's chain leaves the database's after height %d, and only blocks from %d on can be taken back; "+
			"is this the right node? If it is, delete the graph folder and index again", graph.ErrHorizon, common, lowest)
	}
	ix.opt.Log.Warn().Int64("blocks", depth).Int64("common_height", common).Uint32("from_height", tip.Height).
		Stringer("stale_tip", tip.Hash).Msg("reorganisation: taking blocks back")
	ix.setStatus(func(s *Status) { s.Synced = false })
	for range depth {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := ix.graph.Disconnect(); err != nil {
			return err
		}
	}
	return nil
}

// agree reports whether graph and node have the same block at height. Before the
// start height, where the graph has none, they do.
func (ix *Indexer) agree(ctx context.Context, height uint32) (bool, error) {
	if height < ix.graph.Params().StartHeight {
		return true, nil
	}
	ours, err := ix.graph.BlockHash(height)
	if err != nil {
		return false, err
	}
	theirs, err := ix.node.BlockHash(ctx, height)
	if errors.Is(err, node.ErrNotFound) {
		return false, errMoved
	}
	return ours == theirs, err
}

// lastCommon returns the height of the last block up to from that graph and node
// have in common, one below the start height if there is none. Since blocks
// link, one block in common would prove all before it; the check at the start
// looks at many all the same, and so finds a database whose blocks do not.
func (ix *Indexer) lastCommon(ctx context.Context, from uint32, checked bool) (int64, error) {
	start := int64(ix.graph.Params().StartHeight)
	look := 1
	if !checked {
		look = startUpCheck
	}
	common := int64(from)
	for h := common; h >= start && look > 0; h-- {
		same, err := ix.agree(ctx, uint32(h))
		if err != nil {
			return 0, err
		}
		if !same {
			common = h - 1
		}
		// After a difference, go on at least until a block agrees.
		if look--; look == 0 && common == h-1 {
			look = 1
		}
	}
	return common, nil
}
