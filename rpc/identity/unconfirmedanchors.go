package identity

import (
	"context"
	"math"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"google.golang.org/protobuf/proto"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/anchors"
	"github.com/keytree-bch/keytree/graph/store"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// anchorsAnswer returns what there is to say of anchors without a difference; nil if nobody asked.
func (s *supposition) anchorsAnswer() *keytreev1.UnconfirmedAnchors {
	plain := s.answer()
	if plain == nil {
		return nil
	}
	return &keytreev1.UnconfirmedAnchors{Available: plain.Available, Reason: plain.Reason, Height: plain.Height}
}

// authors renders anchors as they would be.
func (s *supposition) authors() *anchorAuthors {
	a := s.authorsAsOf(s.pending.Tip())
	a.asked, a.at = s.pending, s.at()
	return a
}

// chain says what would differ from a chain of anchors, nil if there is none. graph.ErrNotFound if
// there would be none either.
func (s *supposition) chain(ctx context.Context, id chainhash.Hash, was *anchors.Chain) (*keytreev1.UnconfirmedAnchors, error) {
	out := s.anchorsAnswer()
	if !s.known() {
		if was == nil {
			return nil, graph.ErrNotFound
		}
		return out, nil
	}
	is, err := s.pending.AnchorChain(id)
	if err == nil {
		err = s.addChain(ctx, out, &is, was)
	}
	return out, err
}

// addChain adds to what would differ a chain, unless it was the same.
func (s *supposition) addChain(ctx context.Context, out *keytreev1.UnconfirmedAnchors, is, was *anchors.Chain) error {
	if was != nil && was.Anchors == is.Anchors && was.BrokenBy == is.BrokenBy {
		return nil
	}
	rendered, err := s.authors().chain(is)
	if err != nil {
		return err
	}
	out.Differs = true
	out.Chains = append(out.Chains, rendered)
	from := uint32(0)
	if was != nil {
		from = was.Anchors
	}
	added, err := s.pending.Anchors(ctx, is.ID, from, graph.MaxCauses)
	if err != nil {
		return err
	}
	for i := range added {
		s.because(out, added[i].TxID)
	}
	out.More = out.More || from+uint32(len(added)) < is.Anchors
	if is.BrokenBy != (chainhash.Hash{}) {
		s.because(out, is.BrokenBy)
	}
	return nil
}

// because adds a transaction to the reasons, once.
func (s *supposition) because(out *keytreev1.UnconfirmedAnchors, txid chainhash.Hash) {
	switch {
	case hasTransaction(out.By, txid.String()):
	case len(out.By) == graph.MaxCauses:
		out.More = true
	default:
		out.By = append(out.By, s.transaction(txid))
	}
}

// chains says what would differ from a page of the chains of a domain, which begins behind after,
// and goes up to next or to the end.
func (s *supposition) chains(ctx context.Context, domain string, page []anchors.Chain, after, next *store.Position, limit int) (*keytreev1.UnconfirmedAnchors, error) {
	out := s.anchorsAnswer()
	if !s.known() {
		return out, nil
	}
	most := len(page)
	if next == nil {
		most += limit // that would begin
	}
	all, more, err := s.pending.AnchorChainsOf(ctx, domain, after, most)
	if err != nil {
		return nil, err
	}
	out.More = next == nil && more != nil
	size := 0
	for i := range all {
		var was *anchors.Chain
		if i < len(page) { // those that would begin come behind them
			was = &page[i]
		}
		if size > maxUnconfirmed {
			out.More = true
			break
		}
		before := len(out.Chains)
		if err := s.addChain(ctx, out, &all[i], was); err != nil {
			return nil, err
		}
		for _, chain := range out.Chains[before:] {
			size += proto.Size(chain)
		}
	}
	return out, nil
}

// anchorsOf lists the pending anchors of a domain; more tells whether there are others.
func (s *supposition) anchorsOf(ctx context.Context, domain string, limit int) (added []anchors.Status, more bool, err error) {
	added, next, err := s.pending.AnchorsOf(ctx, domain, &store.Position{Height: s.pending.Tip().Height(), Index: math.MaxUint32}, limit)
	return added, next != nil, err
}

// anchorsIn lists the pending anchors of a chain, if that is there; more tells whether there are others.
func (s *supposition) anchorsIn(ctx context.Context, id chainhash.Hash, limit int) (added []anchors.Status, more bool, err error) {
	was, err := s.pending.Tip().AnchorChain(id)
	if err != nil {
		return nil, false, err
	}
	added, err = s.pending.Anchors(ctx, id, was.Anchors, limit+1)
	if more = len(added) > limit; more {
		added = added[:limit]
	}
	return added, more, err
}

// addAnchors adds pending anchors to what would differ.
func (s *supposition) addAnchors(out *keytreev1.UnconfirmedAnchors, added []anchors.Status) error {
	authors, size := s.authors(), 0
	for i := range added {
		rendered, err := authors.anchor(&added[i])
		if err != nil {
			return err
		}
		if size += proto.Size(rendered); size > maxUnconfirmed {
			out.More = true
			break
		}
		out.Differs = true
		out.Anchors = append(out.Anchors, rendered)
		s.because(out, added[i].TxID)
	}
	return nil
}
