package graph

import (
	"fmt"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/anchors"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/graph/store"
)

// View answers questions as of one block: those about links and those about anchors. Every
// answer of one view is about the
// same state, whatever is connected meanwhile; if the block is taken back, the
// answer is ErrReorganised, until it comes back. A view holds
// resources of the store until Close. It is not safe for concurrent use; make
// one per request.
type View struct {
	*links.Identities
	*anchors.Chains
	g         *Graph
	snapshot  *snapshot // held until Close
	iterators *store.Iterators
	block     store.Block
	height    uint32

	// taken is snapshot.taken of the one that was current when the view's block was last
	// known to be on the chain.
	taken uint64

	closed bool
}

// At returns a view as of height, nil meaning the tip. ErrEmpty before the first
// block; ErrHeight before the start height and beyond the tip.
func (g *Graph) At(height *uint32) (*View, error) {
	s, err := g.hold()
	if err != nil {
		return nil, err
	}
	v, err := s.at(g, height)
	if err != nil {
		s.release()
	}
	return v, err
}

// at returns a view of a snapshot, which it holds from then on instead of the caller.
func (s *snapshot) at(g *Graph, height *uint32) (*View, error) {
	if s.tip == nil {
		return nil, ErrEmpty
	}
	v := &View{g: g, snapshot: s, height: s.tip.Height, block: s.block, taken: s.taken}
	if height != nil && *height != s.tip.Height {
		v.height = *height
		if v.height < g.params.StartHeight || v.height > s.tip.Height {
			return nil, fmt.Errorf("%w: expected %d to %d, got %d", ErrHeight, g.params.StartHeight, s.tip.Height, v.height)
		}
		var err error
		if v.block, err = store.ReadBlock(s.txn, v.height); err != nil {
			return nil, err
		}
	}
	v.iterators = store.NewIterators(s.txn)
	v.Identities = links.NewIdentities(s.state.Links, v.iterators, v.height, s.tip.Height, v.stillThere)
	v.Chains = anchors.NewChains(v.iterators, v.height)
	return v, nil
}

// back returns a view of the same snapshot as of another height.
func (v *View) back(height uint32) (*View, error) {
	v.snapshot.hold()
	other, err := v.snapshot.at(v.g, &height)
	if err != nil {
		v.snapshot.release()
	}
	return other, err
}

// Close releases the view. Closing twice does nothing.
func (v *View) Close() {
	if v.closed {
		return
	}
	v.closed = true
	v.iterators.Close()
	v.snapshot.release()
}

// Height returns the height that the view is as of.
func (v *View) Height() uint32 { return v.height }

// Hash returns the hash of the block that the view is as of.
func (v *View) Hash() chainhash.Hash { return v.block.Hash }

// Block returns what the graph adds up to at the block that the view is as of, and the hash of the block before.
func (v *View) Block() (at Tip, prev chainhash.Hash) { return *v.block.Tip(v.height), v.block.Prev }

// Tip returns the tip that the view was opened under: what Since answers is as of it.
func (v *View) Tip() Tip { return *v.snapshot.tip }

// stillThere returns ErrReorganised if the view's block is not on the chain any more.
func (v *View) stillThere() error {
	if s := v.g.current.Load(); s.broken == nil && s.taken == v.taken {
		return nil
	}
	s, err := v.g.hold()
	if err != nil {
		return err
	}
	defer s.release()
	if err := s.hasBlock(v.height, &v.block); err != nil {
		return err
	}
	v.taken = s.taken
	return nil
}

// Batons returns the txids whose output 0 is the baton of an unbroken chain of
// anchors as of the tip, in any order: whatever spends one of them matters.
func (g *Graph) Batons() []chainhash.Hash { return g.current.Load().state.Anchors.Batons() }
