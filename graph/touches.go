package graph

import (
	"slices"
	"sync"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/graph/store"
)

// touchedIDs are the identities that a block touched: whose links it formed or cut, and which it named or merged.
type touchedIDs struct {
	ids    []chainhash.Hash // in ascending order
	merged []chainhash.Hash // those of them that merged, and what with
}

// touched returns what the block at a height of the snapshot's chain has touched.
func (s *snapshot) touched(height uint32) (touchedIDs, error) {
	it := store.NewIterators(s.txn)
	defer it.Close()
	return touchedBy(links.NewIdentities(s.state.Links, it, height, s.tip.Height, func() error { return nil }))
}

// touchedBy returns what the view's block has touched.
func touchedBy(view *links.Identities) (t touchedIDs, err error) {
	for first := 0; ; first += touchedAtOnce {
		effects, _, err := view.Effects(first, touchedAtOnce)
		if err != nil {
			return touchedIDs{}, err
		}
		for i := range effects {
			switch e := &effects[i]; e.Type {
			case links.IdentityMerged:
				t.merged = append(t.merged, e.ID, e.Into)
				t.ids = append(t.ids, e.ID)
			case links.LinkFormed, links.LinkCut, links.IdentityNamed:
				t.ids = append(t.ids, e.ID)
			}
		}
		if len(effects) < touchedAtOnce {
			slices.SortFunc(t.ids, store.CompareHashes)
			t.ids = slices.Compact(t.ids)
			return t, nil
		}
	}
}

// touchedIDs lists the identities that the supposed block would touch, in ascending order.
func (p *pending) touchedIDs() (ids []chainhash.Hash) {
	for _, t := range p.touches {
		ids = append(ids, t.id)
	}
	return slices.Compact(ids)
}

// recentTouches is what many ask about the same few blocks: which identities a block has touched, and what these are named now.
type recentTouches struct {
	mu     sync.Mutex
	blocks []blockTouches // mu; the oldest first
}

// blockTouches is what a block has touched; nobody changes it.
type blockTouches struct {
	hash, tip chainhash.Hash
	ids       []chainhash.Hash // in ascending order
	now       []chainhash.Hash // what they have merged into as of the tip, else themselves; in ascending order
}

// What recentTouches holds at most: blocks, and identities that one of them has touched. A block that touched more
// is not held.
const (
	mostRecentBlocks  = 32
	mostRecentTouched = 4096
)

// of returns what a view's block has touched.
func (r *recentTouches) of(v *View) (blockTouches, error) {
	r.mu.Lock()
	for _, b := range r.blocks {
		if b.hash == v.block.Hash && b.tip == v.snapshot.tip.Hash {
			r.mu.Unlock()
			return b, nil
		}
	}
	r.mu.Unlock()
	touched, err := touchedBy(v.Identities)
	if err != nil {
		return blockTouches{}, err
	}
	b := blockTouches{hash: v.block.Hash, tip: v.snapshot.tip.Hash, ids: touched.ids}
	if b.now, err = v.snapshot.survivorsNow(touched.ids); err != nil {
		return blockTouches{}, err
	}
	b.now = slices.Clone(b.now)
	slices.SortFunc(b.now, store.CompareHashes)
	if len(b.ids) > mostRecentTouched {
		return b, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.blocks) == mostRecentBlocks {
		r.blocks = slices.Delete(r.blocks, 0, 1)
	}
	r.blocks = append(r.blocks, b)
	return b, nil
}
