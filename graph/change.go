package graph

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"

	"github.com/keytree-bch/keytree/graph/anchors"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/graph/state"
	"github.com/keytree-bch/keytree/graph/store"
)

// change is a step in the making: what the graph will be, and what has to be written
// for that. It is made of a snapshot and shares with it what stays. As long as it has
// not been written and published nobody sees it, and dropping it is forgetting it.
type change struct {
	next *snapshot // txn is missing
	store.Writes
	takesBack bool // what is above the next tip is to be removed
	adds      work // what the blocks that it connects have
	tally     links.Tally
	draft     *state.Draft
	supposed  bool // it is never written: no state root is made
}

// newChange begins a change of a snapshot that adds so many actions.
func newChange(base *snapshot, actions int) *change {
	next := newSnapshot()
	next.state, next.tip, next.block, next.undoFrom, next.taken = base.state.Fork(), base.tip, base.block, base.undoFrom, base.taken
	height := uint32(0) // of the first block that the change may add
	if base.tip != nil {
		height = base.tip.Height + 1
	}
	return &change{next: next, tally: make(links.Tally), draft: state.NewDraft(base.txn, next.state, height, actions)}
}

// takeStep makes a change of the current snapshot and takes it.
func (g *Graph) takeStep(make func(base *snapshot) (*change, error)) error {
	g.writer.Lock()
	defer g.writer.Unlock()
	base, err := g.hold()
	if err != nil {
		return err
	}
	defer base.release()
	if err := g.tidy(base); err != nil {
		return err
	}
	c, err := make(base)
	if err != nil {
		return errors.Join(err, g.tidy(base)) // of what its stages have written
	}
	return g.take(c)
}

// tidy removes what a failed step has left that is not of a snapshot, the current one or the next.
// Called with writer held.
func (g *Graph) tidy(s *snapshot) error {
	if !g.untidy {
		return nil
	}
	var height *uint32
	if s.tip != nil {
		height = &s.tip.Height
	}
	txn := store.NewTxn(g.db.NewTransaction(false))
	defer txn.Discard()
	err := store.Sweep(g.db, g.store, height, anchors.EachPlace)
	if err == nil {
		err = s.state.Links.Index().Tidy(txn, g.store)
	}
	if err != nil {
		return fmt.Errorf("removing what a failed step has left: %w", err)
	}
	g.untidy = false
	return nil
}

// take makes a change durable and visible, if there is room for it. After an error it
// has been dropped, unless it is durable nevertheless. Called with writer held.
func (g *Graph) take(c *change) error {
	if err := g.db.Room(store.Size(c.Entries)); err != nil {
		return errors.Join(err, g.tidy(g.current.Load()))
	}
	err := store.Commit(g.store, c.Entries)
	if err == nil && c.takesBack {
		g.untidy = true
		err = g.tidy(c.next)
	} else if err == nil {
		g.untidy = false // what its stages have written is below the tip now
	}
	txn := store.NewTxn(g.db.NewTransaction(false))
	if err != nil {
		g.untidy = true
		tip, readErr := store.ReadTip(txn)
		if readErr != nil {
			txn.Discard()
			err = errors.Join(err, fmt.Errorf("the graph could not be read after a failed step, restart: %w", readErr))
			g.giveUp(err)
			return err
		}
		if !same(tip, c.next.tip) {
			txn.Discard()
			return errors.Join(err, g.tidy(g.current.Load()))
		}
	}
	c.next.txn = txn
	g.publish(c.next)
	g.count(c.tally)
	g.keepCheckpoint(c)
	return errors.Join(err, g.tidy(c.next))
}

// count adds to what Tally returns.
func (g *Graph) count(tally links.Tally) {
	g.tallying.Lock()
	defer g.tallying.Unlock()
	for outcome, n := range tally {
		g.tally[outcome] += n
	}
}

// Tally returns what became of the actions of all blocks that were connected since the graph
// was opened. Taking a block back takes nothing off.
func (g *Graph) Tally() links.Tally {
	g.tallying.Lock()
	defer g.tallying.Unlock()
	return maps.Clone(g.tally)
}

// Keys returns how many keys are or were in links, as of the tip.
func (g *Graph) Keys() int { return g.current.Load().state.Links.Keys() }

// same reports whether two tips, nil for none, are the same.
func same(a, b *Tip) bool {
	return a == nil && b == nil || a != nil && b != nil && *a == *b
}

// Connect applies blocks that continue the chain, in one atomic step. When it
// returns nil they are on disk and visible. When it fails with ErrBlock, which is
// the blocks' fault, ErrDiskFull or ErrMemory, nothing has changed. After any other error
// all of the step has happened or none, and Tip says which; or the graph is
// broken, and says so to every question until it is opened anew.
//
// Questions are answered meanwhile, and wait for nothing. Besides the blocks, a step
// holds about 300 bytes per action; what it writes goes to the disk in stages.
func (g *Graph) Connect(blocks ...Block) error {
	if len(blocks) == 0 {
		return nil
	}
	return g.takeStep(func(base *snapshot) (*change, error) { return g.connecting(base, blocks, g.writeStage) })
}

// connecting returns the change that applies blocks, but for the stages that it has given
// out; nil keeps all of it. ErrBlock if they do not continue the chain, or contradict
// themselves or it.
func (g *Graph) connecting(base *snapshot, blocks []Block, out func(stage []store.Entry) error) (*change, error) {
	if err := g.hasMemory(base, blocks); err != nil {
		return nil, err
	}
	actions := 0
	for i := range blocks {
		actions += len(blocks[i].Actions)
	}
	c := newChange(base, actions)
	c.Out, c.StageBytes, c.supposed = out, g.opt.stageBytes, out == nil
	for i := range blocks {
		if err := c.follows(&blocks[i], g.params); err != nil {
			return nil, err
		}
		if err := proven(&blocks[i]); err != nil {
			return nil, err
		}
		if err := c.apply(&blocks[i]); err != nil {
			return nil, err
		}
	}
	var merged [][]byte
	if !c.supposed {
		var err error
		if merged, err = c.next.state.Links.Index().Settle(base.txn, g.opt.recentActions, c.Set); err != nil {
			return nil, err
		}
	}
	c.SetTip(c.next.tip.Height, c.next.tip.Hash)
	for _, key := range merged {
		c.Entries = append(c.Entries, store.Entry{Key: key})
	}
	c.adds = workOf(blocks)
	return c, g.prune(c, base)
}

// writeStage writes a part of a step, if there is room for it. Called with writer held.
func (g *Graph) writeStage(entries []store.Entry) error {
	if err := g.db.Room(store.Size(entries)); err != nil {
		return err
	}
	g.untidy = true
	return store.Commit(g.store, entries)
}

// follows checks that a block comes after the tip.
func (c *change) follows(b *Block, params Params) error {
	tip := c.next.tip
	switch {
	case tip == nil && b.Height != params.StartHeight:
		return fmt.Errorf("%w: the first block must have height %d, got %d", store.ErrBlock, params.StartHeight, b.Height)
	case tip != nil && b.Height != tip.Height+1:
		return fmt.Errorf("%w: after block %d comes %d, got %d", store.ErrBlock, tip.Height, tip.Height+1, b.Height)
	case tip != nil && b.PrevHash != tip.Hash:
		return fmt.Errorf("%w: block %v at height %d follows %v, not the tip %v", store.ErrBlock, b.Hash, b.Height, b.PrevHash, tip.Hash)
	}
	return nil
}

// proven checks that a block has its anchors.
func proven(b *Block) error {
	if len(b.Anchors.Txs) == 0 {
		return nil
	}
	return b.Anchors.Check(b.Hash)
}

// apply applies a block that comes after the tip. ErrBlock if it has a transaction
// twice, or one that is on the chain already.
func (c *change) apply(b *Block) error {
	if err := c.draft.Repeats(b); err != nil {
		return err
	}
	step, err := state.Apply(c.next.state, c.draft, b, c.next.block.Counts)
	if err != nil {
		return err
	}
	r := store.Block{Hash: b.Hash, Prev: b.PrevHash, Time: b.Time, Bits: b.Bits, StateHash: step.Hash(c.next.block.StateHash), Counts: step.Counts()}
	if !c.supposed {
		if r.StateRoot, err = step.Root(); err != nil {
			return err
		}
	}
	c.next.setBlock(b.Height, r)
	for outcome, n := range step.Tally() {
		c.tally[outcome] += n
	}
	if err := step.Write(&c.Writes, &r); err != nil {
		return err
	}
	return c.Err
}

// pruneEvery is how many undo records are dropped at a time.
const pruneEvery = 100

// prune drops undo records, and stale blocks, below the horizon.
func (g *Graph) prune(c *change, base *snapshot) error {
	keepFrom := max(int64(c.next.tip.Height)-int64(g.opt.UndoBlocks)+1, int64(g.params.StartHeight))
	if keepFrom < int64(base.undoFrom)+pruneEvery {
		return nil
	}
	// Those of the step itself come before the tip, so they go after it.
	var old []store.Entry
	for _, r := range c.Finished {
		for chunk := range r.Chunks {
			if int64(r.Height) < keepFrom {
				old = append(old, store.Entry{Key: store.ChunkKey(store.PrefixUndo, r.Height, chunk)})
			}
		}
	}
	for _, prefix := range []byte{store.PrefixUndo, store.PrefixStale, store.PrefixStaleChange} {
		it := store.NewIterator(base.txn, []byte{prefix})
		for it.Rewind(); it.Valid(); it.Next() {
			key := it.Item().KeyCopy()
			if int64(binary.BigEndian.Uint32(key[1:])) >= keepFrom {
				break
			}
			old = append(old, store.Entry{Key: key})
		}
		it.Close()
	}
	c.next.undoFrom = uint32(keepFrom)
	c.Set([]byte{store.PrefixUndoFrom}, binary.BigEndian.AppendUint32(nil, c.next.undoFrom))
	c.Entries = append(c.Entries, old...)
	return nil
}
