package graph

import (
	"fmt"

	"github.com/keytree-bch/keytree/graph/store"
)

// Disconnect takes the tip back: afterwards the graph is as it was before that
// block was connected (protocol/SPEC.md §8). The block is remembered as stale for
// those who watch. ErrHorizon if it lies below the undo horizon. Failing is as
// with Connect.
func (g *Graph) Disconnect() error {
	return g.takeStep(func(base *snapshot) (*change, error) {
		switch {
		case base.tip == nil:
			return nil, fmt.Errorf("%w: there is no block to disconnect", ErrHorizon)
		case base.tip.Height < base.undoFrom:
			return nil, fmt.Errorf("%w: block %d cannot be disconnected, only those from %d on", ErrHorizon, base.tip.Height, base.undoFrom)
		}
		c, err := g.disconnecting(base)
		if err != nil {
			err = fmt.Errorf("disconnecting block %d: %w", base.tip.Height, err)
		}
		return c, err
	})
}

// disconnecting returns the change that takes the tip of a snapshot back.
func (g *Graph) disconnecting(base *snapshot) (*change, error) {
	seq, err := nextStale(base.txn)
	if err != nil {
		return nil, err
	}
	height := base.tip.Height
	c := newChange(base, 0)
	c.next.taken++
	if err := c.next.state.TakeBack(base.txn, height); err != nil {
		return nil, err
	}
	touched, err := base.touched(height)
	if err != nil {
		return nil, err
	}
	// Before the tip moves: whoever finds the block stale finds what it had changed.
	stale := Disconnected{Height: height, Hash: base.block.Hash, PrevHash: base.block.Prev}
	changed := store.StaleChange{Keys: c.next.state.Links.MovedSince(base.state.Links), IDs: touched.ids}
	changed.Encode(height, stale.Hash, c.Set)
	c.Set(stale.Encode(seq))
	if height == g.params.StartHeight {
		c.next.tip, c.next.block = nil, store.Block{}
		c.SetNoTip()
	} else {
		before, err := store.ReadBlock(base.txn, height-1)
		if err != nil {
			return nil, err
		}
		if err := c.next.state.CheckRoot(&before); err != nil {
			return nil, err
		}
		c.next.setBlock(height-1, before)
		c.SetTip(height-1, before.Hash)
	}
	c.takesBack = true
	return c, nil
}
