package graph

import (
	"slices"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/graph/store"
)

// touchedIDs are the identities that a block touched: whose links it formed or cut, and which it named or merged.
type touchedIDs struct {
	ids    []chainhash.Hash // in ascending order
	merged []chainhash.Hash // those of them that merged, and what with
}

// touched returns what the block of a snapshot's tip has touched.
func (s *snapshot) touched() (touchedIDs, error) {
	it := store.NewIterators(s.txn)
	defer it.Close()
	return touchedBy(links.NewIdentities(s.state.Links, it, s.tip.Height, s.tip.Height, func() error { return nil }))
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
