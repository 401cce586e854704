package indexer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"sync/atomic"
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
	Poll     time.Duration // 0: DefaultPoll
	Progress time.Duration // 0: DefaultProgress
	// OnProgress, if not nil, is called after each step of a catch-up, and log
	// lines under way are left out. Until it returns no other step is made.
	OnProgress func(Progress)
	// Memory is what the process may take, in bytes. Blocks on their way take a part of
	// it. 0: graph.DefaultMemory
	Memory int64
	// Observer hears what happens; nil: nobody.
	Observer Observer

	batonsKept int    // 0: the constant; tests have few
	turned     func() // is called when something is done; New sets it
}

// flightBytes is what blocks in flight may take.
func (opt *Options) flightBytes() int64 {
	return min(flightBytes, cmp.Or(opt.Memory, graph.DefaultMemory)/flightShare)
}

// startUpCheck is how many stored block hashes are compared with the node's
// before anything is served (design: promises).
const startUpCheck = 100

// Status is how the graph stands against the node.
type Status struct {
	NodeHeight  uint32 // of the node's tip when last asked
	NodeHeaders uint32 // height of the best header that it knew then; NodeHeight if it does not tell
	NodePeers   int    // how many nodes it was connected to then, node.Untold if it does not tell
	NodeVersion string // what it calls itself; "" if it does not tell
	// NodeAnswered is when it last answered anything; zero if it has not yet.
	NodeAnswered time.Time
	// Checked is set once the last stored blocks have been compared with the
	// node's chain. Until then the graph may hold what is no longer true.
	Checked bool
	// Synced is set while the graph ends with the node's tip, the node has answered
	// just now, and nothing tells that the network's best chain is longer, or that the node
	// could not know.
	Synced bool
	Reason string // why it is not Synced, for people; empty if it is
}

// Indexer feeds one graph from one node.
type Indexer struct {
	node     node.Node
	graph    *graph.Graph
	opt      Options
	net      *chaincfg.Params // set by Run before anything else
	recent   *recent
	believed sync.Once // says that a pruned node has to be believed
	judged   *branch   // whose headers have been judged last; belongs to Run

	turn atomic.Int64 // as Turned, in Unix nanoseconds

	mu      sync.Mutex
	status  Status    // mu; but see Status
	tipTime time.Time // mu; what the header of the graph's tip says; zero where it does not matter how old it is
}

// New returns an indexer that does nothing until Run.
func New(n node.Node, g *graph.Graph, opt Options) *Indexer {
	if opt.Poll == 0 {
		opt.Poll = DefaultPoll
	}
	if opt.Progress == 0 {
		opt.Progress = DefaultProgress
	}
	if opt.Observer == nil {
		opt.Observer = unobserved{}
	}
	ix := &Indexer{graph: g, opt: opt, recent: newRecent(recentKept), status: Status{NodePeers: node.Untold, Reason: "the node has not been asked yet"}}
	ix.node = &observed{n, ix}
	ix.opt.turned = ix.turns
	ix.turns()
	return ix
}

// Turned returns when Run last asked the node for its tip, judged headers, or connected a block
// or took one back. A node that does not answer holds it up for MaxTurn at most.
func (ix *Indexer) Turned() time.Time { return time.Unix(0, ix.turn.Load()) }

// MaxTurn is how long one thing that Run does takes at most, with a node that answers late or
// not at all, and a block that is as hard to apply as one can be.
const MaxTurn = 15 * time.Minute

func (ix *Indexer) turns() { ix.turn.Store(time.Now().UnixNano()) }

const (
	// silence is how long the node may not answer before what it said last is not
	// relied on any more.
	silence = 15 * time.Second
	// maxTipAge is how old the last block may be, on a network where blocks take work,
	// before the node is taken to have fallen behind: what nodes allow as well (BCHN:
	// -maxtipage).
	maxTipAge = 24 * time.Hour
)

// Status returns how the graph stands now. It may be called at any time.
func (ix *Indexer) Status() Status {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	return ix.status.at(time.Now(), ix.tipTime)
}

// at is what is left of the status at a time after the node has answered: it is not
// synced for ever. The time in the tip's header is zero where it does not matter.
func (s Status) at(now, tipTime time.Time) Status {
	silent, age := now.Sub(s.NodeAnswered), now.Sub(tipTime)
	switch {
	case !s.Synced:
	case silent > silence:
		s.Synced, s.Reason = false, fmt.Sprintf("the node has not answered for %v", silent.Round(time.Second))
	case !tipTime.IsZero() && age > maxTipAge:
		s.Synced = false
		s.Reason = fmt.Sprintf("the node's last block is %v old: is the node cut off from the network, or does it hold blocks back?", age.Round(time.Minute))
	}
	return s
}

// waits notes why the graph does not stand with the node's tip.
func (ix *Indexer) waits(reason string) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	ix.status.Synced, ix.status.Reason = false, reason
}

// told notes what the node says of its chain.
func (ix *Indexer) told(t node.Tip) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	ix.status.NodeHeight, ix.status.NodeHeaders = t.Height, max(t.Height, t.Headers)
	ix.status.NodePeers, ix.status.NodeVersion = t.Peers, t.Version
}

// stands notes that the graph has been compared with the node's chain, and whether
// it ends with the node's tip.
func (ix *Indexer) stands(target node.Tip) error {
	tip, started := ix.graph.Tip()
	var at time.Time
	if started && !easyBlocks(ix.net) {
		header, err := ix.graph.BlockHeader(tip.Height)
		if err != nil {
			return err
		}
		at = time.Unix(int64(header.Time), 0)
	}
	ix.mu.Lock()
	defer ix.mu.Unlock()
	ix.tipTime = at
	s := &ix.status
	s.Checked, s.Reason = true, unsynced(started && tip.Hash == target.Hash, target, ix.net)
	s.Synced = s.Reason == ""
	return nil
}

// unsynced says why a graph that has been compared with the node's chain, and ends with
// its tip or not, may not be what is true now; "" if nothing tells that.
func unsynced(ends bool, target node.Tip, net *chaincfg.Params) string {
	switch {
	case !ends:
		return fmt.Sprintf("catching up with the node, which is at height %d", target.Height)
	case target.Downloading:
		return fmt.Sprintf("the node is behind the network: it is at height %d and knows headers up to %d", target.Height, max(target.Height, target.Headers))
	case target.Peers == 0 && len(net.DNSSeeds) > 0: // a private network may be one node
		return "the node is connected to no other node: it would not hear of a block"
	}
	return ""
}

// easyBlocks reports whether blocks take no work to speak of on the network, at
// least after a pause: then it tells nothing that there are none.
func easyBlocks(net *chaincfg.Params) bool {
	return net.ReduceMinDifficulty || net.NoDifficultyAdjustment
}

// Errors within the package: reasons to wait.
var (
	// errMoved says that the node's best chain changed under a question: ask
	// again.
	errMoved = errors.New("the node's best chain moved")
	// errBehind says that the node's best chain ends below the graph's tip, on the
	// same chain; or is not known yet to be the network's. It has lost or reads again
	// its own data, or has yet to download them.
	errBehind = errors.New("the node is behind")
	// errLessWork says that the node's best chain is another branch than the graph's,
	// and has no more work.
	errLessWork = errors.New("the node is on a branch with less work")
	// errFuture says that the node's chain goes on into the future.
	errFuture = errors.New("the node's chain is ahead of the clock")
)

// Waiting times between tries after a failure.
const (
	firstRetry = 250 * time.Millisecond
	lastRetry  = 15 * time.Second
)

// maxMoves is how often in a row the node's chain may move away under the
// indexer's questions before they are asked at leisure: several nodes may answer at
// one address, which differ for a while.
const maxMoves = 20

// Run keeps the graph equal to the node's best chain until ctx ends, and then
// returns nil. A block that was begun is finished first.
//
// It waits while the node is away, refuses questions, cannot supply what authorship needs,
// is behind what the database holds, or contradicts itself; and while there is no room on
// the disk. The log says so rarely, Status at once.
//
// It returns an error when it cannot go on: the node answers with what is not true
// (node.ErrInvalid), or has left the graph's chain below the undo horizon
// (graph.ErrHorizon); or the database fails. The graph is then as of the last
// block connected.
func (ix *Indexer) Run(ctx context.Context) (err error) {
	if ix.net, err = protocol.Network(ix.graph.Params().Network); err != nil {
		return err
	}
	hints := ix.node.Changes()
	trouble := node.NewTrouble(ix.opt.Log, node.WarnEvery, "waiting for the node", "the node is followed again")
	full := node.NewTrouble(ix.opt.Log, node.WarnEvery, "waiting for room on the disk", "there is room on the disk again")
	retry := firstRetry
	moves := 0
	for {
		ix.turns()
		wait := ix.opt.Poll
		before, _ := ix.graph.Tip()
		err := ix.sync(ctx)
		if now, _ := ix.graph.Tip(); now != before { // it got on
			retry = firstRetry
		}
		if !errors.Is(err, errMoved) {
			moves = 0
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			retry = firstRetry
			trouble.Over()
			full.Over()
		case errors.Is(err, errMoved) && moves < maxMoves:
			moves++
			wait = 0
		case errors.Is(err, node.ErrInvalid):
			ix.waits(err.Error())
			return err
		case errors.Is(err, errBehind), errors.Is(err, errLessWork), errors.Is(err, errFuture):
			ix.waits(err.Error())
			trouble.Warn(err)
		case errors.Is(err, errMoved):
			err = fmt.Errorf("its answers do not fit together (do several nodes answer there?): %w", err)
			fallthrough
		case errors.Is(err, node.ErrUnavailable), errors.Is(err, node.ErrUnsuitable), errors.Is(err, node.ErrNotFound):
			ix.waits(err.Error())
			trouble.Warn(err)
			wait, retry = retry, min(2*retry, lastRetry)
		case errors.Is(err, graph.ErrDiskFull):
			ix.waits("the disk of the index is nearly full") // which disk is not for clients
			full.Warn(err)
			wait, retry = retry, min(2*retry, lastRetry)
		default:
			ix.waits(err.Error())
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
	ix.told(target)
	tip, started := ix.graph.Tip()
	start := ix.graph.Params().StartHeight
	if !started {
		if target.Height < start {
			return fmt.Errorf("%w: it is at height %d, the index starts at %d", errBehind, target.Height, start)
		}
		from, err := ix.beforeStart(ctx)
		if err != nil {
			return err
		}
		b, err := ix.branch(ctx, from, target)
		if err != nil {
			return err
		}
		return ix.forward(ctx, b, target)
	}
	common, err := ix.lastCommon(ctx, min(tip.Height, target.Height))
	if err != nil {
		return err
	}
	if common == int64(target.Height) && target.Height >= start {
		ours, err := ix.graph.BlockHeader(target.Height)
		if err != nil {
			return err
		}
		if ours.Hash != target.Hash {
			return fmt.Errorf("%w: its tip was %v at height %d, now its block there is %v", errMoved, target.Hash, target.Height, ours.Hash)
		}
	}
	switch {
	case common == int64(target.Height) && target.Height < tip.Height:
		// Blocks that were connected do not become untrue because the node has lost them.
		if err := ix.stands(target); err != nil {
			return err
		}
		return fmt.Errorf("%w: it is at height %d, on the chain that is indexed up to %d, and knows headers up to %d: "+
			"it has lost blocks or reads them again", errBehind, target.Height, tip.Height, max(target.Height, target.Headers))
	case common == int64(tip.Height) && target.Height == tip.Height:
		return ix.stands(target)
	}
	from, err := ix.behind(ctx, common)
	if err != nil {
		return err
	}
	b, err := ix.branch(ctx, from, target)
	if err != nil {
		return err
	}
	if err := ix.takeBack(ctx, tip, common, b); err != nil {
		return err
	}
	return ix.forward(ctx, b, target)
}

// takeBack disconnects the blocks above the last one in common with the node's
// branch, if there are any and the branch has more work.
func (ix *Indexer) takeBack(ctx context.Context, tip graph.Tip, common int64, b *branch) error {
	depth := int64(tip.Height) - common
	if depth == 0 {
		return nil
	}
	if first, err := ix.graph.BlockHeader(b.first); err != nil {
		return err
	} else if len(b.hashes) > 0 && b.hashes[0] == first.Hash {
		return fmt.Errorf("%w: it had another block than %v at height %d, and now it has this one", errMoved, first.Hash, b.first)
	}
	if int64(b.base) != common {
		ix.judged = nil
		return fmt.Errorf("%w: its chain leaves the one that is indexed at height %d now", errMoved, common)
	}
	ours, err := workOf(common+1, int64(tip.Height), ix.graph.BlockHeader)
	if err != nil {
		return err
	}
	if b.work().Cmp(ours) <= 0 {
		return fmt.Errorf("%w: its chain leaves the one that is indexed after height %d, and goes on to %d with %v hashes on average; "+
			"the %d blocks that are indexed took %v", errLessWork, common, b.last(), b.work(), depth, ours)
	}
	if lowest := ix.graph.UndoFrom(); common+1 < int64(lowest) {
		return fmt.Errorf("%w: the node's chain leaves the database's after height %d, and only blocks from %d on can be taken back; "+
			"is this the right node? If it is, delete the graph folder and index again", graph.ErrHorizon, common, lowest)
	}
	ix.opt.Log.Warn().Int64("blocks", depth).Int64("common_height", common).Uint32("from_height", tip.Height).
		Stringer("stale_tip", tip.Hash).Msg("reorganisation: taking blocks back")
	ix.waits(fmt.Sprintf("taking back %d blocks: the node's chain has more work", depth))
	ix.opt.Observer.Reorganised(int(depth))
	for range depth {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := ix.graph.Disconnect(); err != nil {
			return err
		}
		ix.turns()
	}
	return nil
}

// workOf is the work of the blocks from one height to another.
func workOf(from, to int64, headerAt func(height uint32) (protocol.Header, error)) (*big.Int, error) {
	sum := new(big.Int)
	for height := from; height <= to; height++ {
		header, err := headerAt(uint32(height))
		if err != nil {
			return nil, err
		}
		work, err := header.Work()
		if err != nil {
			return nil, err
		}
		sum.Add(sum, work)
	}
	return sum, nil
}

// agree reports whether graph and node have the same block at height. Before the
// start height, where the graph has none, they do.
func (ix *Indexer) agree(ctx context.Context, height uint32) (bool, error) {
	if height < ix.graph.Params().StartHeight {
		return true, nil
	}
	ours, err := ix.graph.BlockHeader(height)
	if err != nil {
		return false, err
	}
	theirs, err := ix.node.BlockHash(ctx, height)
	return ours.Hash == theirs, movedIfNotFound(err)
}

// lastCommon returns the height of the last block up to from that graph and node
// have in common, one below the start height if there is none. Since blocks
// link, one block in common would prove all before it; the check at the start
// looks at many all the same, and so finds a database whose blocks do not.
func (ix *Indexer) lastCommon(ctx context.Context, from uint32) (int64, error) {
	start := int64(ix.graph.Params().StartHeight)
	compared := int64(1)
	if !ix.Status().Checked {
		compared = startUpCheck
	}
	common := int64(from)
	h := common
	for ; h >= start && h > int64(from)-compared; h-- {
		same, err := ix.agree(ctx, uint32(h))
		if err != nil {
			return 0, err
		}
		if !same {
			common = h - 1
		}
	}
	// If none has agreed at the end, go on in growing steps until one does, and come
	// back in shrinking ones: the chains may have parted long ago.
	differs, agrees := h+1, h
	if common != h {
		return common, nil
	}
	for step := int64(1); agrees >= start; step *= 2 {
		same, err := ix.agree(ctx, uint32(agrees))
		if err != nil {
			return 0, err
		}
		if same {
			break
		}
		differs = agrees
		agrees = max(start-1, agrees-step)
	}
	for differs-agrees > 1 {
		middle := (differs + agrees) / 2
		same, err := ix.agree(ctx, uint32(middle))
		if err != nil {
			return 0, err
		}
		if same {
			agrees = middle
		} else {
			differs = middle
		}
	}
	return agrees, nil
}
