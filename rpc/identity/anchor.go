package identity

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"google.golang.org/grpc/codes"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/anchors"
	"github.com/keytree-bch/keytree/keyserver/uid"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/rpc/fault"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// anchorService implements keytree.v1.AnchorService; the .proto file documents its
// calls. It keeps nothing between calls.
type anchorService struct {
	keytreev1.UnimplementedAnchorServiceServer
	graphReader
}

// ListAnchorChains implements AnchorService.
func (s *anchorService) ListAnchorChains(ctx context.Context, request *keytreev1.ListAnchorChainsRequest) (*keytreev1.ListAnchorChainsResponse, error) {
	domain, err := parseAnchorDomain("domain", request.GetDomain())
	if err != nil {
		return nil, err
	}
	query := queryDigest("ListAnchorChains", []byte(domain), request.AtHeight)
	list, err := s.openListing(ctx, query, request.AtHeight, request)
	if err != nil {
		return nil, err
	}
	defer list.close()
	supposed := list.supposed
	after, err := parseActionCursor(list.token.cursor)
	if err != nil {
		return nil, err
	}
	chains, next, err := list.view.AnchorChainsOf(ctx, domain, after, list.limit)
	if err != nil {
		return nil, s.fault(err)
	}
	at := asOfView(list.view)
	answer := &keytreev1.ListAnchorChainsResponse{AsOfHeight: at.height, AsOfHash: at.hash}
	authors := s.authorsAsOf(list.view)
	for i := range chains {
		chain, err := authors.chain(&chains[i])
		if err != nil {
			return nil, s.fault(err)
		}
		answer.Chains = append(answer.Chains, chain)
	}
	if answer.Unconfirmed, err = supposed.chains(ctx, domain, chains, after, next, list.limit); err != nil {
		return nil, s.fault(err)
	}
	if err := authors.settled(); err != nil {
		return nil, s.fault(err)
	}
	if next != nil {
		answer.NextPageToken = list.next(appendActionCursor(*next))
	}
	return answer, nil
}

// GetAnchorChain implements AnchorService.
func (s *anchorService) GetAnchorChain(ctx context.Context, request *keytreev1.GetAnchorChainRequest) (*keytreev1.AnchorChain, error) {
	id, view, err := s.viewOf("chain_tx_hash", request.GetChainTxHash(), request.AtHeight)
	if err != nil {
		return nil, err
	}
	defer view.Close()
	supposed, err := s.suppose(view, request.GetUnconfirmed(), request.AtHeight)
	if err != nil {
		return nil, err
	}
	defer supposed.close()
	answer, err := s.chainAnd(ctx, id, view, supposed)
	if err != nil {
		return nil, s.notFoundOr(err, "chain_tx_hash", "chain of anchors", id, view)
	}
	return answer, nil
}

// chainAnd describes a chain of anchors, and what would differ from it. graph.ErrNotFound if there is none,
// and would be none.
func (s *anchorService) chainAnd(ctx context.Context, id chainhash.Hash, view *graph.View, supposed *supposition) (*keytreev1.AnchorChain, error) {
	at := asOfView(view)
	chain, err := view.AnchorChain(id)
	if errors.Is(err, graph.ErrNotFound) && supposed.known() {
		answer := &keytreev1.AnchorChain{ChainTxHash: id.String(), State: unconfirmedState, Genesis: new(keytreev1.Anchor), Last: new(keytreev1.Anchor), AsOfHeight: at.height, AsOfHash: at.hash}
		answer.Unconfirmed, err = supposed.chain(ctx, id, nil)
		return answer, err
	}
	if err != nil {
		return nil, err
	}
	authors := s.authorsAsOf(view)
	answer, err := authors.chain(&chain)
	if err == nil {
		answer.Unconfirmed, err = supposed.chain(ctx, id, &chain)
	}
	if err == nil {
		err = authors.settled()
	}
	return answer, err
}

// ListAnchors implements AnchorService.
func (s *anchorService) ListAnchors(ctx context.Context, request *keytreev1.ListAnchorsRequest) (*keytreev1.ListAnchorsResponse, error) {
	var (
		subject []byte
		page    func(ctx context.Context, list *listing) (anchors []anchors.Status, cursor []byte, err error)
		pending func(s *supposition, limit int) ([]anchors.Status, bool, error) // those behind the last page
	)
	switch {
	case (request.GetDomain() == "") == (request.GetChainTxHash() == ""):
		return nil, fault.Field(codes.InvalidArgument, "domain", "expected one of domain and chain_tx_hash")
	case request.GetDomain() != "":
		domain, err := parseAnchorDomain("domain", request.GetDomain())
		if err != nil {
			return nil, err
		}
		subject = append([]byte("domain "), domain...)
		page = func(ctx context.Context, list *listing) ([]anchors.Status, []byte, error) {
			return s.anchorsOf(ctx, list, domain)
		}
		pending = func(s *supposition, limit int) ([]anchors.Status, bool, error) {
			return s.anchorsOf(ctx, domain, limit)
		}
	default:
		id, err := parseHash("chain_tx_hash", request.GetChainTxHash())
		if err != nil {
			return nil, err
		}
		subject = append([]byte("chain "), id[:]...)
		page = func(ctx context.Context, list *listing) ([]anchors.Status, []byte, error) {
			return s.anchorsIn(ctx, list, id)
		}
		pending = func(s *supposition, limit int) ([]anchors.Status, bool, error) { return s.anchorsIn(ctx, id, limit) }
	}
	list, err := s.openListing(ctx, queryDigest("ListAnchors", subject, request.AtHeight), request.AtHeight, request)
	if err != nil {
		return nil, err
	}
	defer list.close()
	supposed := list.supposed
	anchors, cursor, err := page(ctx, list)
	if err != nil {
		return nil, err
	}
	at := asOfView(list.view)
	answer := &keytreev1.ListAnchorsResponse{AsOfHeight: at.height, AsOfHash: at.hash}
	authors := s.authorsAsOf(list.view)
	for i := range anchors {
		anchor, err := authors.anchor(&anchors[i])
		if err != nil {
			return nil, s.fault(err)
		}
		answer.Anchors = append(answer.Anchors, anchor)
	}
	answer.Unconfirmed = supposed.anchorsAnswer()
	if supposed.known() && cursor == nil {
		added, more, err := pending(supposed, list.limit)
		if err == nil {
			answer.Unconfirmed.More = more
			err = supposed.addAnchors(answer.Unconfirmed, added)
		}
		if err != nil {
			return nil, s.fault(err)
		}
	}
	if err := authors.settled(); err != nil {
		return nil, s.fault(err)
	}
	if cursor != nil {
		answer.NextPageToken = list.next(cursor)
	}
	return answer, nil
}

// anchorsOf returns a page of the anchors of a domain, and where the next one
// begins, nil at the end.
func (s *anchorService) anchorsOf(ctx context.Context, list *listing, domain string) ([]anchors.Status, []byte, error) {
	after, err := parseActionCursor(list.token.cursor)
	if err != nil {
		return nil, nil, err
	}
	anchors, next, err := list.view.AnchorsOf(ctx, domain, after, list.limit)
	if err != nil {
		return nil, nil, s.fault(err)
	}
	if next == nil {
		return anchors, nil, nil
	}
	return anchors, appendActionCursor(*next), nil
}

// anchorsIn returns a page of the anchors of a chain, and where the next one begins,
// nil at the end.
func (s *anchorService) anchorsIn(ctx context.Context, list *listing, id chainhash.Hash) ([]anchors.Status, []byte, error) {
	chain, err := list.view.AnchorChain(id)
	if err != nil {
		return nil, nil, s.notFoundOr(err, "chain_tx_hash", "chain of anchors", id, list.view)
	}
	from := uint32(0)
	if cursor := list.token.cursor; len(cursor) == 4 {
		from = binary.BigEndian.Uint32(cursor)
	} else if len(cursor) > 0 {
		return nil, nil, errCursor()
	}
	anchors, err := list.view.Anchors(ctx, id, from, list.limit)
	if err != nil {
		return nil, nil, s.fault(err)
	}
	next := uint64(from) + uint64(len(anchors))
	if next >= uint64(chain.Anchors) {
		return anchors, nil, nil
	}
	return anchors, binary.BigEndian.AppendUint32(nil, uint32(next)), nil
}

// GetAnchor implements AnchorService.
func (s *anchorService) GetAnchor(ctx context.Context, request *keytreev1.GetAnchorRequest) (*keytreev1.AnchorTransaction, error) {
	txid, view, err := s.viewOf("tx_hash", request.GetTxHash(), request.AtHeight)
	if err != nil {
		return nil, err
	}
	defer view.Close()
	supposed, err := s.suppose(view, request.GetUnconfirmed(), request.AtHeight)
	if err != nil {
		return nil, err
	}
	defer supposed.close()
	at := asOfView(view)
	proof, err := view.AnchorProof(txid)
	if errors.Is(err, graph.ErrNotFound) && supposed.known() {
		answer := &keytreev1.AnchorTransaction{TxHash: txid.String(), AsOfHeight: at.height, AsOfHash: at.hash, Unconfirmed: supposed.anchorsAnswer()}
		anchor, err := supposed.pending.Anchor(txid)
		if err == nil {
			err = supposed.addAnchors(answer.Unconfirmed, []anchors.Status{anchor})
		}
		if err != nil {
			return nil, s.notFoundOr(err, "tx_hash", "anchor", txid, view)
		}
		return answer, nil
	}
	if err != nil {
		return nil, s.notFoundOr(err, "tx_hash", "anchor", txid, view)
	}
	answer := &keytreev1.AnchorTransaction{
		TxHash: txid.String(), RawTx: proof.Raw, Height: proof.Height, TxIndex: proof.Index, BlockHeader: proof.Header[:],
		AsOfHeight: at.height, AsOfHash: at.hash, Unconfirmed: supposed.anchorsAnswer(),
	}
	for _, hash := range proof.Branch {
		answer.MerkleBranch = append(answer.MerkleBranch, hash.String())
	}
	anchor, err := view.Anchor(txid)
	if errors.Is(err, graph.ErrNotFound) {
		return answer, nil // it broke a chain
	}
	if err != nil {
		return nil, s.fault(err)
	}
	authors := s.authorsAsOf(view)
	if answer.Anchor, err = authors.anchor(&anchor); err == nil {
		err = authors.settled()
	}
	if err != nil {
		return nil, s.fault(err)
	}
	return answer, nil
}

// parseAnchorDomain reads the domain in a field of a request.
func parseAnchorDomain(field, domain string) (string, error) {
	if err := uid.CheckDomain(domain); err != nil || len(domain) > protocol.MaxAnchorDomain {
		return "", fault.Field(codes.InvalidArgument, field, "expected a host name in lower case of 1 to %d bytes, got %q",
			protocol.MaxAnchorDomain, fault.Shortened(domain))
	}
	return domain, nil
}

// anchorAuthors renders anchors as of a view, with the identities behind their
// authors, each as of the anchor's own block.
type anchorAuthors struct {
	*graphReader
	view   *graph.View // the confirmed one
	asked  breakReader // view, or what is pending after it
	at     asOf
	breaks map[chainhash.Hash]chainBreak // those that were looked up
}

// breakReader tells how a chain of anchors was broken, and by which transaction.
type breakReader interface {
	ChainBreak(id chainhash.Hash) (how protocol.Break, by chainhash.Hash, err error)
}

// chainBreak is what a breakReader tells.
type chainBreak struct {
	how protocol.Break
	by  chainhash.Hash
}

// authorsAsOf returns a renderer for anchors of a view, which stays the caller's.
func (r *graphReader) authorsAsOf(view *graph.View) *anchorAuthors {
	return &anchorAuthors{graphReader: r, view: view, asked: view, at: asOfView(view), breaks: make(map[chainhash.Hash]chainBreak)}
}

// settled returns graph.ErrReorganised unless the view's block, and so those of all
// anchors, have been on the chain until now.
func (a *anchorAuthors) settled() error {
	header, err := a.graph.BlockHeader(a.view.Height())
	if graph.OffChain(err) || err == nil && header.Hash != a.view.Hash() {
		return graph.ErrReorganised
	}
	return err
}

func (a *anchorAuthors) chain(in *anchors.Chain) (*keytreev1.AnchorChain, error) {
	out := &keytreev1.AnchorChain{
		ChainTxHash: in.ID.String(), Domain: in.Domain, AnchorCount: in.Anchors, State: "OPEN",
		AsOfHeight: a.at.height, AsOfHash: a.at.hash,
	}
	if in.Break != protocol.Unbroken {
		out.State, out.BreakReason, out.BrokenByTxHash, out.BrokenHeight = "BROKEN", breakName(in.Break), in.BrokenBy.String(), in.BrokenAt
	}
	var err1, err2 error
	a.breaks[in.ID] = chainBreak{in.Break, in.BrokenBy}
	out.Genesis, err1 = a.anchor(&in.Genesis)
	out.Last, err2 = a.anchor(&in.Last)
	return out, errors.Join(err1, err2)
}

// anchor renders an anchor.
func (a *anchorAuthors) anchor(in *anchors.Status) (*keytreev1.Anchor, error) {
	broken, known := a.breaks[in.Chain]
	if !known {
		var err error
		if broken.how, broken.by, err = a.asked.ChainBreak(in.Chain); err != nil {
			return nil, fmt.Errorf("the chain of anchor %v: %w", in.TxID, err)
		}
		a.breaks[in.Chain] = broken
	}
	out := &keytreev1.Anchor{
		TxHash: in.TxID.String(), Height: in.Height, TxIndex: in.Index, ChainTxHash: in.Chain.String(), Number: in.Number,
		Domain: in.Domain, Position: in.Position, Head: in.Head[:], Root: in.Root[:], AuthorAddress: a.render().addressOrNone(in.Author),
	}
	if broken.by == in.TxID && broken.how.BelongsToChain() {
		out.BreakReason = breakName(broken.how)
	}
	if in.Author == nil {
		return out, nil
	}
	if in.Identity == (anchors.Identity{}) {
		out.AuthorMainAddress = out.AuthorAddress
		return out, nil
	}
	out.AuthorMainAddress, out.AuthorIdTxHash = a.render().address(in.Identity.Root), in.Identity.ID.String()
	return out, nil
}

func breakName(b protocol.Break) string {
	switch b {
	case protocol.Unbroken:
		return ""
	case protocol.NoRecord:
		return "NO_RECORD"
	case protocol.OtherDomain:
		return "OTHER_DOMAIN"
	case protocol.NotFirstInput:
		return "NOT_FIRST_INPUT"
	case protocol.LowerPosition:
		return "LOWER_POSITION"
	case protocol.OtherHead:
		return "OTHER_HEAD"
	}
	return fmt.Sprintf("BREAK_%d", uint8(b))
}
