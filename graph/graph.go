package graph

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/graph/anchors"
	"github.com/keytree-bch/keytree/graph/badgerdb"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/graph/state"
	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/graph/txids"
)

// Errors of Open, Connect, Disconnect and questions, to be matched with errors.Is.
var (
	ErrMismatch = store.ErrMismatch
	ErrDamaged  = store.ErrDamaged
	ErrBlock    = store.ErrBlock
	ErrMemory   = store.ErrMemory
	ErrNotFound = store.ErrNotFound
	ErrWork     = links.ErrWork
	// ErrLocked says that another process has the database open.
	ErrLocked = badgerdb.ErrLocked
	// ErrDiskFull says that the disk has too little room left for a step, or for
	// opening the graph. Nothing was changed. Make room, then go on.
	ErrDiskFull = badgerdb.ErrDiskFull
	// ErrHorizon says that a block is too old to be disconnected: its undo record
	// is gone. Rebuild the graph from the node.
	ErrHorizon = errors.New("beyond the undo horizon")
	// ErrEmpty says that no block has been applied yet. Try again later.
	ErrEmpty = errors.New("no block indexed yet")
	// ErrHeight says that the height asked for is before the start height or
	// beyond the tip. Ask for a height within the range that the message names.
	ErrHeight = errors.New("height out of range")
	// ErrReorganised says that the block which a view is as of has been taken off
	// the chain. Make another view.
	ErrReorganised = errors.New("block taken off the chain")
)

// OffChain reports whether err says that there is no block at a height, or not
// any more: ErrHeight, ErrEmpty or ErrReorganised.
func OffChain(err error) bool {
	return errors.Is(err, ErrHeight) || errors.Is(err, ErrEmpty) || errors.Is(err, ErrReorganised)
}

// What is known of a graph, and what it is made of.
type (
	Params = store.Params
	Tip    = store.Tip
	Block  = state.Block
)

// Defaults of Options.
const (
	// DefaultUndoBlocks is how many blocks can be disconnected at least.
	DefaultUndoBlocks = 1000
	// DefaultMemory is what the process may take in bytes.
	DefaultMemory = 512 << 20
)

// recentActions is how many actions are in memory, by their txids, before they become a run.
const recentActions = 64 << 10

// Options tune a graph; the zero value is what a server wants.
type Options struct {
	UndoBlocks uint32 // 0: DefaultUndoBlocks
	Memory     int64  // what the process may take, in bytes; 0: DefaultMemory
	MemTable   int64  // bytes, at least 1 MiB; 0: as Memory allows
	BlockCache int64  // bytes; 0: as Memory allows
	// NoStateRoot: blocks that come get no state root (protocol/SPEC.md §12), which saves time and memory.
	NoStateRoot bool
	// ProofRebuildKeys is how many keys are read again for a proof as of an older block at most; 0: DefaultProofRebuildKeys.
	ProofRebuildKeys int
	// ProofMemory is what maps as of older blocks may take, in bytes, so that proofs as of them need not make them again;
	// 0: an eighth of Memory. One that was made again is kept beyond that as long as there is room.
	ProofMemory int64
	Log         zerolog.Logger

	stageBytes        int // 0: the constant; tests have many stages of few bytes
	checkpointActions int // 0: the constants; tests have many checkpoints
	recentActions     int // 0: the constant; tests have many runs of txids
}

func (opt Options) withDefaults() Options {
	opt.UndoBlocks = cmp.Or(opt.UndoBlocks, DefaultUndoBlocks)
	opt.Memory = cmp.Or(opt.Memory, DefaultMemory)
	opt.MemTable = cmp.Or(opt.MemTable, store.MemTable(opt.Memory))
	opt.BlockCache = cmp.Or(opt.BlockCache, store.BlockCache(opt.Memory))
	opt.ProofRebuildKeys = cmp.Or(opt.ProofRebuildKeys, DefaultProofRebuildKeys)
	opt.ProofMemory = cmp.Or(opt.ProofMemory, opt.Memory/8)
	opt.recentActions = cmp.Or(opt.recentActions, recentActions)
	return opt
}

// Graph is an open identity graph. All methods may be called concurrently.
type Graph struct {
	params Params
	opt    Options
	db     *badgerdb.DB    // for reading
	store  store.Committer // for writing

	writer     sync.Mutex   // held by the one Connect or Disconnect under way
	untidy     bool         // writer; a failed step may have left something above the tip
	checkpoint checkpointed // writer

	current    atomic.Pointer[snapshot]
	publishing sync.Mutex // held while current is replaced, or what is pending after it
	generation uint64     // publishing; of what was set last as pending
	supposing  sync.Mutex // held by the one SetPending under way

	followers *followers
	recent    recentTouches
	proofMaps *proofMaps

	tallying sync.Mutex
	tally    links.Tally // tallying

	closing sync.Once
	closed  error // what Close returns; set by closing

	stop    context.CancelFunc // ends running
	running sync.WaitGroup     // maintain and watch
}

// Open opens the graph in dir, or makes one there, and finishes or drops what a
// killed process left half done. Close it.
//
// Every byte of the database is checked first: ErrDamaged names the file that
// does not hold what was written to it. Whether the records agree with each
// other is for package fsck to say. ErrLocked, ErrMismatch, ErrDiskFull and ErrMemory are the
// other reasons not to open.
func Open(dir string, params Params, opt Options) (*Graph, error) {
	return open(dir, params, opt, dependencies{badgerdb.FreeSpace, func(db *badgerdb.DB) store.Committer { return store.Badger{DB: db} }})
}

// dependencies are what a graph is opened with besides its options; tests make them fail.
type dependencies struct {
	free  func(dir string) (bytes uint64, ok bool, err error) // badgerdb.FreeSpace
	store func(*badgerdb.DB) store.Committer
}

func open(dir string, params Params, opt Options, s dependencies) (*Graph, error) {
	opt = opt.withDefaults()
	g := &Graph{params: params, opt: opt, tally: make(links.Tally), followers: newFollowers(), proofMaps: newProofMaps(opt.ProofMemory)}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the graph's folder: %w", err)
	}
	db, err := badgerdb.Open(context.Background(), badgerdb.Options{Badger: store.Options(dir, opt.MemTable, opt.BlockCache), MaxValue: store.MaxValue, Free: s.free, Log: opt.Log})
	if err != nil {
		return nil, opening(dir, err)
	}
	g.db, g.store = db, s.store(db)
	if err = store.Fix(db, g.store, params, txids.Begin()); err == nil {
		err = g.readBack()
	}
	if err != nil {
		return nil, errors.Join(opening(dir, err), db.Close())
	}
	ctx, stop := context.WithCancel(context.Background())
	g.stop = stop
	g.running.Go(func() { g.maintain(ctx) })
	g.running.Go(func() { g.watch(ctx) })
	return g, nil
}

// opening says what was done when err came, and what to do about damage.
func opening(dir string, err error) error {
	if errors.Is(err, store.ErrDamaged) {
		return fmt.Errorf("opening the graph in %s: %w: remove the folder and index again", dir, err)
	}
	return fmt.Errorf("opening the graph in %s: %w", dir, err)
}

// readBack drops what a killed process left half done, and derives the snapshot from
// the store.
func (g *Graph) readBack() error {
	txn := store.NewTxn(g.db.NewTransaction(false))
	tip, err := store.TipHeight(txn)
	txn.Discard()
	if err == nil {
		err = store.Sweep(g.db, g.store, tip, anchors.EachPlace)
	}
	if err != nil {
		return fmt.Errorf("removing what was not finished: %w", err)
	}
	s, err := g.load()
	if err != nil {
		return err
	}
	s.state.Links.ForgetLater()
	if err := s.state.Links.Index().Tidy(s.txn, g.store); err != nil {
		s.release()
		return fmt.Errorf("removing what was not finished: %w", err)
	}
	if above := store.BlockAbove(s.txn, tip); above != nil {
		s.release()
		return fmt.Errorf("%w: there is a record of block %d above the tip", ErrDamaged, *above)
	}
	g.publish(s)
	return nil
}

// Close stops the graph and closes its database. Views must be closed before.
// Closing twice does nothing.
func (g *Graph) Close() error {
	g.closing.Do(func() { g.closed = g.close() })
	return g.closed
}

func (g *Graph) close() error {
	g.stop()
	g.running.Wait()
	g.writer.Lock()
	defer g.writer.Unlock()
	g.supposing.Lock() // who supposes something reads the store meanwhile
	defer g.supposing.Unlock()
	if g.checkpoint.since != (work{}) {
		g.writeCheckpoint()
	}
	g.giveUp(errClosed)
	return g.db.Close()
}

// maintenanceInterval is how often Badger is asked to reclaim its value log, and
// how often the tables are checked for damage that came after the start.
const maintenanceInterval = 10 * time.Minute

// maintain runs until ctx ends.
func (g *Graph) maintain(ctx context.Context) {
	tick := time.NewTicker(maintenanceInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// One call rewrites one file at most; the error says when to stop.
		for ctx.Err() == nil && g.db.RunValueLogGC(0.5) == nil {
		}
		g.inspect(ctx)
		g.warnOfMemory()
	}
}

// warnOfMemory says in the log if links have taken most of the memory that they may.
func (g *Graph) warnOfMemory() {
	if m := g.Memory(); m.Left()*m.key < m.Most/8 {
		g.opt.Log.Warn().Int64("links", m.Links).Int64("waiting", m.Waiting).Int64("most", m.Most).Int64("keys_left", m.Left()).
			Msg("the memory for links is nearly used up: allow the process more")
	}
}

// inspect checks the tables of the open graph; if one is damaged, the graph
// answers nothing any more.
func (g *Graph) inspect(ctx context.Context) {
	err := g.db.Inspect(ctx)
	if err == nil || ctx.Err() != nil {
		return
	}
	g.opt.Log.Error().Err(err).Msg("checking the files of the graph")
	if errors.Is(err, store.ErrDamaged) {
		g.giveUp(fmt.Errorf("%w: remove the folder and index again", err))
	}
}

// Err returns why the graph answers nothing until it is opened anew: it was found damaged,
// or closed. It is nil while it answers. When that changes, Changed tells.
func (g *Graph) Err() error { return g.current.Load().broken }

// Params returns what the graph was opened with.
func (g *Graph) Params() Params { return g.params }

// Tip returns the last block applied; ok is false before the first.
func (g *Graph) Tip() (tip Tip, ok bool) {
	s := g.current.Load()
	if s.tip == nil {
		return Tip{}, false
	}
	return *s.tip, true
}

// UndoFrom returns the height of the lowest block that Disconnect can still take
// back.
func (g *Graph) UndoFrom() uint32 { return g.current.Load().undoFrom }

// Changed returns a channel that is closed when the next step has become
// visible.
func (g *Graph) Changed() <-chan struct{} { return g.current.Load().changed }
