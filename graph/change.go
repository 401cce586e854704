package graph

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// change is a step in the making: what the graph will be, and what has to be written
// for that. It is made of a snapshot and shares with it what stays. As long as it has
// not been written and published nobody sees it, and dropping it is forgetting it.
type change struct {
	next *snapshot // txn is missing
	writes
	takesBack bool // what is above the next tip is to be removed
	draft     *draft
}

// newChange begins a change of a snapshot that adds so many actions.
func newChange(base *snapshot, actions int) *change {
	next := newSnapshot()
	next.state, next.tip, next.block, next.undoFrom, next.taken = base.state.fork(), base.tip, base.block, base.undoFrom, base.taken
	before := base.ledger()
	before.blocks = &next.state.blocks
	return &change{next: next, draft: newDraft(before, actions)}
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
	if err := g.tidy(base.tip); err != nil {
		return err
	}
	c, err := make(base)
	if err != nil {
		return errors.Join(err, g.tidy(base.tip)) // of what its stages have written
	}
	return g.take(c)
}

// tidy removes what a failed step has left above the tip. Called with writer held.
func (g *Graph) tidy(tip *Tip) error {
	if !g.untidy {
		return nil
	}
	var height *uint32
	if tip != nil {
		height = &tip.Height
	}
	if err := sweep(g.db, g.store, height); err != nil {
		return fmt.Errorf("removing what a failed step has left: %w", err)
	}
	g.untidy = false
	return nil
}

// take makes a change durable and visible, if there is room for it. After an error it
// has been dropped, unless it is durable nevertheless. Called with writer held.
func (g *Graph) take(c *change) error {
	if err := g.db.Room(size(c.entries)); err != nil {
		return errors.Join(err, g.tidy(g.current.Load().tip))
	}
	err := g.write(c.entries)
	if err == nil && c.takesBack {
		g.untidy = true
		err = g.tidy(c.next.tip)
	} else if err == nil {
		g.untidy = false // what its stages have written is below the tip now
	}
	txn := g.db.NewTransaction(false)
	if err != nil {
		g.untidy = true
		tip, readErr := readTip(txn)
		if readErr != nil {
			txn.Discard()
			err = errors.Join(err, fmt.Errorf("the graph could not be read after a failed step, restart: %w", readErr))
			g.giveUp(err)
			return err
		}
		if !tip.is(c.next.tip) {
			txn.Discard()
			return errors.Join(err, g.tidy(g.current.Load().tip))
		}
	}
	c.next.txn = txn
	g.publish(c.next)
	return errors.Join(err, g.tidy(c.next.tip))
}

// is reports whether two tips, nil for none, are the same.
func (t *Tip) is(other *Tip) bool {
	return t == nil && other == nil || t != nil && other != nil && *t == *other
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
func (g *Graph) connecting(base *snapshot, blocks []Block, out func(stage []entry) error) (*change, error) {
	if err := g.hasMemory(base.state, blocks); err != nil {
		return nil, err
	}
	actions := 0
	for i := range blocks {
		actions += len(blocks[i].Actions)
	}
	c := newChange(base, actions)
	c.out, c.stageBytes = out, g.opt.stageBytes
	for i := range blocks {
		if err := c.follows(&blocks[i], g.params); err != nil {
			return nil, err
		}
		if err := c.apply(&blocks[i]); err != nil {
			return nil, err
		}
	}
	c.setTip(c.next.tip.Height, c.next.tip.Hash)
	return c, g.prune(c, base)
}

// writeStage writes a part of a step, if there is room for it. Called with writer held.
func (g *Graph) writeStage(entries []entry) error {
	if err := g.db.Room(size(entries)); err != nil {
		return err
	}
	g.untidy = true
	return g.write(entries)
}

// follows checks that a block comes after the tip.
func (c *change) follows(b *Block, params Params) error {
	tip := c.next.tip
	switch {
	case tip == nil && b.Height != params.StartHeight:
		return fmt.Errorf("%w: the first block must have height %d, got %d", ErrBlock, params.StartHeight, b.Height)
	case tip != nil && b.Height != tip.Height+1:
		return fmt.Errorf("%w: after block %d comes %d, got %d", ErrBlock, tip.Height, tip.Height+1, b.Height)
	case tip != nil && b.PrevHash != tip.Hash:
		return fmt.Errorf("%w: block %v at height %d follows %v, not the tip %v", ErrBlock, b.Hash, b.Height, b.PrevHash, tip.Hash)
	}
	return nil
}

// apply applies a block that comes after the tip. ErrBlock if it has a transaction
// twice, or one that is on the chain already.
func (c *change) apply(b *Block) error {
	if err := c.newAnchors(b); err != nil {
		return err
	}
	s := newStep(c.next.state, c.draft, b.Height, c.next.block.counts)
	if err := s.apply(b); err != nil {
		return err
	}
	c.beginBlock(b.Height)
	r := blockRecord{b.Hash, b.PrevHash, b.Time, b.Bits, nextStateHash(c.next.block.stateHash, b.Hash, s.effects), s.counts}
	c.next.setBlock(b.Height, r)
	c.set(heightKey(prefixBlock, b.Height), r.encode())
	s.write(&c.writes)
	if s.err != nil {
		return s.err
	}
	return c.err
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
	var old []entry
	for _, r := range c.finished {
		for chunk := range r.chunks {
			if int64(r.height) < keepFrom {
				old = append(old, entry{key: chunkKey(prefixUndo, r.height, chunk)})
			}
		}
	}
	for _, prefix := range []byte{prefixUndo, prefixStale} {
		it := newIterator(base.txn, []byte{prefix})
		for it.Rewind(); it.Valid(); it.Next() {
			key := it.Item().KeyCopy(nil)
			if int64(binary.BigEndian.Uint32(key[1:])) >= keepFrom {
				break
			}
			old = append(old, entry{key: key})
		}
		it.Close()
	}
	c.next.undoFrom = uint32(keepFrom)
	c.set([]byte{prefixUndoFrom}, binary.BigEndian.AppendUint32(nil, c.next.undoFrom))
	c.entries = append(c.entries, old...)
	return nil
}
