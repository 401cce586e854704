package graph

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/graph/badgerdb"
)

// Errors of Open, Connect and Disconnect, to be matched with errors.Is.
var (
	// ErrMismatch says that the database was made for another network, start
	// height or format. Use another folder, or the parameters that it names.
	ErrMismatch = errors.New("database made for something else")
	// ErrLocked says that another process has the database open.
	ErrLocked = badgerdb.ErrLocked
	// ErrDiskFull says that the disk has too little room left for a step, or for
	// opening the graph. Nothing was changed. Make room, then go on.
	ErrDiskFull = badgerdb.ErrDiskFull
	// ErrBlock says that a block cannot be connected: it does not continue the
	// chain, or contradicts itself. Nothing was changed.
	ErrBlock = errors.New("block cannot be connected")
	// ErrHorizon says that a block is too old to be disconnected: its undo record
	// is gone. Rebuild the graph from the node.
	ErrHorizon = errors.New("beyond the undo horizon")
)

// Params are fixed in the database when it is made. They decide what the state
// hash can be compared with (identity-rules §9).
type Params struct {
	Network     string `json:"network"`      // chaincfg.Params.Name
	StartHeight uint32 `json:"start_height"` // height of the first block that is applied
}

// Defaults of Options.
const (
	// DefaultUndoBlocks is how many blocks can be disconnected at least.
	DefaultUndoBlocks = 1000
	// DefaultMemTable is the size of one memtable in bytes. Up to three exist at
	// once; together with the caches they keep the graph below half of a 1 GiB
	// machine.
	DefaultMemTable = 32 << 20
	// DefaultBlockCache is the size of the cache of table blocks in bytes.
	DefaultBlockCache = 64 << 20
)

// Options tune a graph; the zero value is what a server wants.
type Options struct {
	UndoBlocks uint32 // 0: DefaultUndoBlocks
	MemTable   int64  // bytes, at least 1 MiB; 0: DefaultMemTable
	BlockCache int64  // bytes; 0: DefaultBlockCache
	Log        zerolog.Logger
}

func (opt Options) withDefaults() Options {
	opt.UndoBlocks = cmp.Or(opt.UndoBlocks, DefaultUndoBlocks)
	opt.MemTable = cmp.Or(opt.MemTable, DefaultMemTable)
	opt.BlockCache = cmp.Or(opt.BlockCache, DefaultBlockCache)
	return opt
}

// formatVersion is raised with every change of schema.go that an older or newer
// keytree could misread, and with every change of the rules: what was indexed by
// others is not what is true by these.
//
// Version 4: a signature with ANYONECANPAY shows no author; a block's time and
// target are kept.
const formatVersion = 4

type formatRecord struct {
	Format int `json:"format"`
	Params
}

// Graph is an open identity graph. All methods may be called concurrently.
type Graph struct {
	params Params
	opt    Options
	db     *badgerdb.DB // for reading
	store  store        // for writing

	writer sync.Mutex // held by the one Connect or Disconnect under way

	mu       sync.RWMutex  // held for writing while a step becomes visible
	state    *state        // mu
	tip      *Tip          // mu; nil before the first block
	undoFrom uint32        // mu; lowest height that can be disconnected
	changed  chan struct{} // mu; closed and replaced with every step
	taken    uint64        // mu; how often blocks may have been taken back
	broken   error         // mu; set when memory and disk may disagree

	closing sync.Once
	closed  error // what Close returns; set by closing

	stop context.CancelFunc // ends maintain
	done chan struct{}      // closed when maintain has ended
}

// Open opens the graph in dir, or makes one there, and finishes or drops what a
// killed process left half done. Close it.
//
// Every byte of the database is checked first: ErrDamaged names the file that
// does not hold what was written to it. Whether the records agree with each
// other is for Check to say. ErrLocked, ErrMismatch and ErrDiskFull are the other
// reasons not to open.
func Open(dir string, params Params, opt Options) (*Graph, error) {
	return open(dir, params, opt, surroundings{badgerdb.FreeSpace, func(db *badgerdb.DB) store { return badgerStore{db} }})
}

// surroundings are what a graph depends on; tests make them fail.
type surroundings struct {
	free  func(dir string) (bytes uint64, ok bool, err error) // badgerdb.FreeSpace
	store func(*badgerdb.DB) store
}

func open(dir string, params Params, opt Options, s surroundings) (*Graph, error) {
	opt = opt.withDefaults()
	g := &Graph{params: params, opt: opt, changed: make(chan struct{}), done: make(chan struct{})}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the graph's folder: %w", err)
	}
	db, err := badgerdb.Open(context.Background(), badgerdb.Options{Badger: badgerOptions(dir, opt), MaxValue: maxValue, Free: s.free, Log: opt.Log})
	if err != nil {
		return nil, opening(dir, err)
	}
	g.db, g.store = db, s.store(db)
	if err = g.checkFormat(); err == nil {
		err = g.readBack()
	}
	if err != nil {
		return nil, errors.Join(opening(dir, err), db.Close())
	}
	ctx, stop := context.WithCancel(context.Background())
	g.stop = stop
	go g.maintain(ctx)
	return g, nil
}

// opening says what was done when err came, and what to do about damage.
func opening(dir string, err error) error {
	if errors.Is(err, ErrDamaged) {
		return fmt.Errorf("opening the graph in %s: %w: remove the folder and index again", dir, err)
	}
	return fmt.Errorf("opening the graph in %s: %w", dir, err)
}

// readBack finishes or drops what was left half done, and derives what is held
// in memory from the store.
func (g *Graph) readBack() error {
	txn := g.db.NewTransaction(false)
	tip, err := tipHeight(txn)
	txn.Discard()
	if err == nil {
		err = sweep(g.db, g.store, tip)
	}
	if err != nil {
		return fmt.Errorf("removing what was not finished: %w", err)
	}
	if err := g.db.View(func(txn *badger.Txn) error {
		if above := blockAbove(txn, tip); above != nil {
			return fmt.Errorf("%w: there is a record of block %d above the tip", ErrDamaged, *above)
		}
		return nil
	}); err != nil {
		return err
	}
	return g.load()
}

// checkFormat compares the database with the parameters, or fixes them in a new
// one.
func (g *Graph) checkFormat() error {
	txn := g.db.NewTransaction(false)
	defer txn.Discard()
	stored, err := read(txn, []byte{prefixFormat})
	if err != nil {
		return err
	}
	if stored == nil {
		it := newIterator(txn, nil)
		defer it.Close()
		if it.Rewind(); it.Valid() && it.Item().Key()[0] != badgerdb.Stamp {
			return fmt.Errorf("%w: there are records, but not the one of the format", ErrDamaged)
		}
		value, err := json.Marshal(formatRecord{formatVersion, g.params})
		if err != nil {
			return err
		}
		var w writes
		w.set([]byte{prefixFormat}, value)
		w.setNoTip()
		return g.write(w.entries)
	}
	var have formatRecord
	if err := json.Unmarshal(stored, &have); err != nil {
		return fmt.Errorf("%w: format record: %w", ErrDamaged, err)
	}
	return have.matches(g.params)
}

// matches returns ErrMismatch unless the database is of this format and has the
// parameters asked for.
func (have formatRecord) matches(params Params) error {
	if want := (formatRecord{formatVersion, params}); have != want {
		return fmt.Errorf("%w: it holds format %d, network %s, start height %d; asked for format %d, network %s, start height %d: use another folder, or remove this one and index again",
			ErrMismatch, have.Format, have.Network, have.StartHeight, want.Format, want.Network, want.StartHeight)
	}
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
	<-g.done
	g.writer.Lock()
	defer g.writer.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.broken = errors.New("graph is closed")
	return g.db.Close()
}

// maintenanceInterval is how often Badger is asked to reclaim its value log, and
// how often the tables are checked for damage that came after the start.
const maintenanceInterval = 10 * time.Minute

// maintain runs until ctx ends.
func (g *Graph) maintain(ctx context.Context) {
	defer close(g.done)
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
	if errors.Is(err, ErrDamaged) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.broken = fmt.Errorf("%w: remove the folder and index again", err)
		close(g.changed)
		g.changed = make(chan struct{})
	}
}

// Params returns what the graph was opened with.
func (g *Graph) Params() Params { return g.params }

// Tip returns the last block applied; ok is false before the first.
func (g *Graph) Tip() (tip Tip, ok bool) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.tip == nil {
		return Tip{}, false
	}
	return *g.tip, true
}

// UndoFrom returns the height of the lowest block that Disconnect can still take
// back.
func (g *Graph) UndoFrom() uint32 {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.undoFrom
}

// Changed returns a channel that is closed when the next step has become
// visible.
func (g *Graph) Changed() <-chan struct{} {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.changed
}

// Connect applies blocks that continue the chain, in one atomic step. When it
// returns nil they are on disk and visible. When it fails with ErrBlock, which is
// the blocks' fault, or ErrDiskFull, nothing has changed. After any other error
// all of the step has happened or none, and Tip says which; or the graph is
// broken, and says so to every question until it is opened anew.
//
// The step's writes are held in memory meanwhile, about 500 bytes per action.
func (g *Graph) Connect(blocks ...Block) error {
	if len(blocks) == 0 {
		return nil
	}
	g.writer.Lock()
	defer g.writer.Unlock()
	if err := g.continues(blocks); err != nil {
		return err
	}

	// From here on readers wait: the state changes in place.
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.broken != nil {
		return g.broken
	}
	var w writes
	tip := g.applyAll(&w, blocks)
	undoFrom, err := g.prune(&w, tip.Height)
	if err == nil {
		err = g.commit(&w)
	}
	if err != nil {
		return g.restore(err)
	}
	g.undoFrom = undoFrom
	g.publish(tip)
	return nil
}

// commit makes the step durable, if there is room for it.
func (g *Graph) commit(w *writes) error {
	if err := g.db.Room(size(w.entries)); err != nil {
		return err
	}
	return g.write(w.entries)
}

// continues checks that the blocks follow the tip and each other, and that no
// transaction comes twice on the chain.
func (g *Graph) continues(blocks []Block) error {
	g.mu.RLock()
	defer g.mu.RUnlock()
	tip := g.tip
	heights := make(map[chainhash.Hash]uint32) // of the transactions in blocks
	for _, b := range blocks {
		switch {
		case tip == nil && b.Height != g.params.StartHeight:
			return fmt.Errorf("%w: the first block must have height %d, got %d", ErrBlock, g.params.StartHeight, b.Height)
		case tip != nil && b.Height != tip.Height+1:
			return fmt.Errorf("%w: after block %d comes %d, got %d", ErrBlock, tip.Height, tip.Height+1, b.Height)
		case tip != nil && b.PrevHash != tip.Hash:
			return fmt.Errorf("%w: block %v at height %d follows %v, not the tip %v", ErrBlock, b.Hash, b.Height, b.PrevHash, tip.Hash)
		}
		seen := make(map[uint32]bool, len(b.Actions))
		for i := range b.Actions {
			a := &b.Actions[i]
			height, known := heights[a.TxID]
			if seen[a.Index] || known && height == b.Height {
				return fmt.Errorf("%w: block %v has transaction %v, index %d, twice", ErrBlock, b.Hash, a.TxID, a.Index)
			}
			if !known {
				height, known = g.state.heightOfTx(a.TxID)
			}
			if known {
				return fmt.Errorf("%w: transaction %v is at height %d already", ErrBlock, a.TxID, height)
			}
			seen[a.Index], heights[a.TxID] = true, b.Height
		}
		if err := g.newAnchors(&b, heights); err != nil {
			return err
		}
		tip = &Tip{Height: b.Height, Hash: b.Hash}
	}
	return nil
}

// applyAll applies the blocks to the state in memory, collects what they write,
// and returns the new tip.
func (g *Graph) applyAll(w *writes, blocks []Block) *Tip {
	var tip Tip
	if g.tip != nil {
		tip = *g.tip
	}
	for _, b := range blocks {
		s := newStep(g.state, b.Height, tip.Counts)
		s.apply(b)
		tip = Tip{Height: b.Height, Hash: b.Hash, StateHash: nextStateHash(tip.StateHash, b.Hash, s.effects), Counts: s.counts}
		w.set(heightKey(prefixBlock, b.Height), blockRecord{b.Hash, b.PrevHash, b.Time, b.Bits, tip.StateHash, tip.Counts}.encode())
		s.write(w)
	}
	w.setTip(tip.Height, tip.Hash)
	return &tip
}

// pruneEvery is how many undo records are dropped at a time.
const pruneEvery = 100

// prune drops undo records, and stale blocks, below the horizon, and returns the
// new one.
func (g *Graph) prune(w *writes, tip uint32) (undoFrom uint32, err error) {
	keepFrom := max(int64(tip)-int64(g.opt.UndoBlocks)+1, int64(g.params.StartHeight))
	if keepFrom < int64(g.undoFrom)+pruneEvery {
		return g.undoFrom, nil
	}
	// Those of the step itself come before the tip, so they go after it.
	var old []entry
	for _, e := range w.entries {
		if e.key[0] == prefixUndo && int64(binary.BigEndian.Uint32(e.key[1:])) < keepFrom {
			old = append(old, entry{key: e.key})
		}
	}
	txn := g.db.NewTransaction(false)
	defer txn.Discard()
	for _, prefix := range []byte{prefixUndo, prefixStale} {
		it := newIterator(txn, []byte{prefix})
		for it.Rewind(); it.Valid(); it.Next() {
			key := it.Item().KeyCopy(nil)
			if int64(binary.BigEndian.Uint32(key[1:])) >= keepFrom {
				break
			}
			old = append(old, entry{key: key})
		}
		it.Close()
	}
	w.set([]byte{prefixUndoFrom}, binary.BigEndian.AppendUint32(nil, uint32(keepFrom)))
	w.entries = append(w.entries, old...)
	return uint32(keepFrom), nil
}

// restore brings memory back to what is on disk after a failed step, which may
// have got there nevertheless. Called with mu held.
func (g *Graph) restore(cause error) error {
	g.taken++
	if err := g.readBack(); err != nil {
		g.broken = fmt.Errorf("the graph could not be read back after a failed step, restart: %w", err)
		return errors.Join(cause, g.broken)
	}
	g.publish(g.tip)
	return cause
}

// publish makes a committed step visible. Called with mu held.
func (g *Graph) publish(tip *Tip) {
	g.tip = tip
	close(g.changed)
	g.changed = make(chan struct{})
}
