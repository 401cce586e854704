package graph

import (
	"fmt"
	"sync/atomic"

	"github.com/keytree-bch/keytree/graph/state"
	"github.com/keytree-bch/keytree/graph/store"
)

// snapshot is the graph as of a step: nobody changes it. Questions are asked of a
// snapshot, while the next one is being made, written and published by replacing a
// pointer; so they wait for neither.
type snapshot struct {
	state    *state.State
	tip      *Tip        // nil before the first block
	block    store.Block // of tip
	undoFrom uint32      // lowest height that can be disconnected
	taken    uint64      // how many blocks have been taken back before

	pending atomic.Pointer[pending] // of the next block, never nil; replaced with Graph.publishing held

	changed chan struct{} // closed when another snapshot has been published
	broken  error         // why the graph answers nothing; set before it is published

	// txn reads the store as it was when the step was on disk. It is shared: a new
	// one would wait for the commit under way. Badger asks for transactions to be used
	// by one goroutine at a time; reading ones change nothing in theirs but an atomic
	// counter of iterators.
	txn *store.Txn
	// holders are those who may read txn: the graph while this is the current snapshot,
	// a step that is made of it, and each view. The last one to release it ends txn.
	holders atomic.Int64
}

// newSnapshot returns a snapshot that its maker holds.
func newSnapshot() *snapshot {
	s := &snapshot{changed: make(chan struct{})}
	s.holders.Store(1)
	s.pending.Store(nothingPending())
	return s
}

// hold adds a holder, unless there is none any more.
func (s *snapshot) hold() bool {
	for {
		n := s.holders.Load()
		if n == 0 {
			return false
		}
		if s.holders.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (s *snapshot) release() {
	if s.holders.Add(-1) == 0 && s.txn != nil {
		s.txn.Discard()
	}
}

// setBlock sets the tip to the block with a record.
func (s *snapshot) setBlock(height uint32, r store.Block) {
	s.block = r
	s.tip = r.Tip(height)
}

// hold returns the current snapshot, to be released; or says why there is none to be
// asked.
func (g *Graph) hold() (*snapshot, error) {
	for {
		s := g.current.Load()
		if s.broken != nil {
			return nil, s.broken
		}
		if s.hold() {
			return s, nil
		}
	}
}

// inStore calls ask with a snapshot of the store.
func (g *Graph) inStore(ask func(*store.Txn) error) error {
	s, err := g.hold()
	if err != nil {
		return err
	}
	defer s.release()
	return ask(s.txn)
}

// publish makes a snapshot the current one, which the graph holds from then on
// instead of whoever made it.
func (g *Graph) publish(next *snapshot) {
	g.publishing.Lock()
	defer g.publishing.Unlock()
	last := g.current.Load()
	if last != nil && last.broken != nil {
		next.broken = last.broken
	}
	g.replace(last, next)
	g.proofMaps.published(next)
}

// giveUp lets the graph answer nothing from now on, but for what it was.
func (g *Graph) giveUp(why error) {
	g.publishing.Lock()
	defer g.publishing.Unlock()
	last := g.current.Load()
	next := newSnapshot()
	next.state, next.tip, next.block, next.undoFrom, next.taken, next.broken = last.state, last.tip, last.block, last.undoFrom, last.taken, why
	g.replace(last, next)
}

// replace is called with publishing held.
func (g *Graph) replace(last, next *snapshot) {
	g.current.Store(next)
	if last != nil {
		close(last.changed)
		close(last.pending.Load().changed)
		last.release()
	}
}

// hasBlock returns ErrReorganised unless the block with a record is at a height of
// the chain.
func (s *snapshot) hasBlock(height uint32, r *store.Block) error {
	value, err := store.Read(s.txn, store.HeightKey(store.PrefixBlock, height))
	if err != nil {
		return err
	}
	if s.tip == nil || s.tip.Height < height || string(value) != string(r.Encode()) {
		return fmt.Errorf("%w: block %v at height %d was taken back while it was asked about, ask again", ErrReorganised, r.Hash, height)
	}
	return nil
}
