package identity

import (
	"context"
	"fmt"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/rpc/fault"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// unconfirmedState is the state of what is pending only.
const unconfirmedState = "UNCONFIRMED"

// maxUnconfirmed is about how many bytes of what would differ stand beside an answer of
// maxAnswer.
const maxUnconfirmed = 512 << 10

// supposition answers what would differ from the answers of a view if what is pending were the next
// block. One goroutine uses it, until close.
type supposition struct {
	*graphReader
	pending *graph.PendingView // nil: nothing is known, for the reason
	reason  string
	now     time.Time // to which ages are told
}

// suppose returns the supposition for a view if a request asks for it, else nil, whose methods do nothing. A height
// asked for that is not the tip's is refused.
func (r *graphReader) suppose(view *graph.View, asked bool, atHeight *uint32) (*supposition, error) {
	if !asked {
		return nil, nil
	}
	s := &supposition{graphReader: r, now: time.Now()}
	pending, ok := view.Pending()
	if ok {
		s.pending = pending
		return s, nil
	}
	tip, _ := r.graph.Tip()
	if atHeight != nil && *atHeight < tip.Height {
		return nil, fault.Field(codes.InvalidArgument, "unconfirmed", "what is unconfirmed comes after the tip, block %d: expected no at_height with it, got %d", tip.Height, *atHeight)
	}
	s.reason = notPending(view, tip)
	return s, nil
}

// notPending says, for people, why it is not known what is pending after a view.
func notPending(view *graph.View, tip graph.Tip) string {
	if tip.Hash != view.Hash() {
		return fmt.Sprintf("the answer is as of block %d, and what is unconfirmed comes after the tip, block %d: begin again", view.Height(), tip.Height)
	}
	return "the node's mempool is not known as of the tip: the node is behind or elsewhere, was not asked yet since the tip came, or the server does not watch its mempool"
}

func (s *supposition) close() {
	if s != nil && s.pending != nil {
		s.pending.Close()
	}
}

// known tells whether it is known what is pending.
func (s *supposition) known() bool { return s != nil && s.pending != nil }

// answer returns what there is to say without a difference; nil if nobody asked.
func (s *supposition) answer() *keytreev1.Unconfirmed {
	switch {
	case s == nil:
		return nil
	case s.pending == nil:
		return &keytreev1.Unconfirmed{Reason: s.reason}
	}
	return &keytreev1.Unconfirmed{Available: true, Height: s.pending.Height()}
}

// at is what an answer of what is pending is as of.
func (s *supposition) at() asOf { return asOf{height: s.pending.Height()} }

// by renders the transactions that are the reason for something.
func (s *supposition) by(txids []chainhash.Hash) []*keytreev1.PendingTransaction {
	out := make([]*keytreev1.PendingTransaction, len(txids))
	for i, txid := range txids {
		out[i] = s.transaction(txid)
	}
	return out
}

func (s *supposition) transaction(txid chainhash.Hash) *keytreev1.PendingTransaction {
	tx, _ := s.pending.Tx(txid)
	out := &keytreev1.PendingTransaction{TxHash: txid.String(), DoubleSpend: tx.DoubleSpend}
	if !tx.Seen.IsZero() {
		out.SeenAgo = proto.Uint32(s.ago(tx.Seen))
	}
	return out
}

// ago returns how many seconds ago something was.
func (s *supposition) ago(t time.Time) uint32 { return uint32(max(0, s.now.Sub(t)/time.Second)) }

// resolution says what would differ from the resolution of a key.
func (s *supposition) resolution(ctx context.Context, was links.Resolution, omitPath bool) (*keytreev1.Unconfirmed, error) {
	out := s.answer()
	if !s.known() {
		return out, nil
	}
	is, err := s.pending.Resolve(ctx, was.Key)
	if err != nil {
		return nil, err
	}
	render := func(r links.Resolution) *keytreev1.Resolution {
		return s.render().resolution(r, s.at(), omitPath, s.render().address)
	}
	rendered := render(is)
	if proto.Equal(rendered, render(was)) {
		return out, nil
	}
	txids, more, err := s.pending.WhyKey(ctx, was.Key)
	out.Differs, out.Resolution, out.By, out.More = true, rendered, s.by(txids), more
	return out, err
}

// identity says what would differ from an identity, nil if there is none. graph.ErrNotFound if there
// would be none either.
func (s *supposition) identity(ctx context.Context, id chainhash.Hash, was *links.Identity) (*keytreev1.Unconfirmed, error) {
	out := s.answer()
	if !s.known() {
		if was == nil {
			return nil, graph.ErrNotFound
		}
		return out, nil
	}
	is, err := s.pending.Identity(id)
	if err != nil {
		return nil, err
	}
	txids, moved, more, err := s.pending.WhyIdentity(id)
	if err != nil {
		return nil, err
	}
	out.Identity = s.render().identity(is, s.at())
	if was != nil && len(txids) == 0 && proto.Equal(out.Identity, s.render().identity(*was, s.at())) {
		out.Identity = nil
		return out, nil
	}
	out.Differs, out.By, out.More = true, s.by(txids), more
	for _, key := range moved {
		r, err := s.pending.Resolve(ctx, key)
		if err != nil {
			return nil, err
		}
		out.Keys = append(out.Keys, s.render().resolution(r, s.at(), true, s.render().address))
	}
	return out, nil
}

// action says what would differ from an action, nil if it is not confirmed. graph.ErrNotFound if it
// is not pending either.
func (s *supposition) action(txid chainhash.Hash, was *links.ActionStatus) (*keytreev1.Unconfirmed, error) {
	out := s.answer()
	if !s.known() {
		if was == nil {
			return nil, graph.ErrNotFound
		}
		return out, nil
	}
	is, err := s.pending.Action(txid)
	if err != nil {
		return nil, err
	}
	_, err = s.add(out, &is, was)
	return out, err
}

// add adds to what would differ an action, unless it was the same; size is about how much that was.
func (s *supposition) add(out *keytreev1.Unconfirmed, is, was *links.ActionStatus) (size int, err error) {
	rendered := s.render().action(*is, s.at())
	if was != nil && proto.Equal(rendered, s.render().action(*was, s.at())) {
		return 0, nil
	}
	txids, err := s.pending.WhyAction(is.TxID)
	if err != nil {
		return 0, err
	}
	out.Differs = true
	out.Actions = append(out.Actions, rendered)
	s.addReasons(out, txids)
	return proto.Size(rendered), nil
}

// addReasons adds transactions that are not there yet to the reasons why something would differ.
func (s *supposition) addReasons(out *keytreev1.Unconfirmed, txids []chainhash.Hash) {
	for _, tx := range s.by(txids) {
		if len(out.By) == graph.MaxCauses {
			out.More = true
			break
		}
		if !hasTransaction(out.By, tx.TxHash) {
			out.By = append(out.By, tx)
		}
	}
}

func hasTransaction(txs []*keytreev1.PendingTransaction, txid string) bool {
	for _, tx := range txs {
		if tx.TxHash == txid {
			return true
		}
	}
	return false
}

// actions says what would differ from a page of the actions of a key, which begins behind after, and
// goes up to next or to the end.
func (s *supposition) actions(ctx context.Context, key protocol.KeyHash, page []links.ActionStatus, after, next *store.Position, limit int) (*keytreev1.Unconfirmed, error) {
	out := s.answer()
	if !s.known() {
		return out, nil
	}
	was := make(map[chainhash.Hash]*links.ActionStatus, len(page))
	for i := range page {
		was[page[i].TxID] = &page[i]
	}
	// As many more may have come as the page can have.
	all, rest, err := s.pending.ActionsOf(ctx, key, after, len(page)+limit)
	if err != nil {
		return nil, err
	}
	out.More = rest != nil && (next == nil || before(rest, next))
	size := 0
	for i := range all {
		is := &all[i]
		if next != nil && before(next, &store.Position{Height: is.Height, Index: is.Index}) {
			break
		}
		if size > maxUnconfirmed {
			out.More = true
			break
		}
		added, err := s.add(out, is, was[is.TxID])
		if err != nil {
			return nil, err
		}
		size += added
	}
	return out, nil
}

func before(a, b *store.Position) bool {
	return a.Height < b.Height || a.Height == b.Height && a.Index < b.Index
}

// mempool says what is known of the node's mempool as of the tip.
func (r *graphReader) mempool() *keytreev1.Mempool {
	view, err := r.graph.At(nil)
	if err != nil {
		return &keytreev1.Mempool{Reason: "there is no tip"}
	}
	defer view.Close()
	supposed, err := r.suppose(view, true, nil)
	if err != nil {
		return &keytreev1.Mempool{Reason: err.Error()}
	}
	defer supposed.close()
	return supposed.mempool()
}

// mempool says what is known of the node's mempool.
func (s *supposition) mempool() *keytreev1.Mempool {
	if s.pending == nil {
		return &keytreev1.Mempool{Reason: s.reason}
	}
	coverage := s.pending.Coverage()
	out := &keytreev1.Mempool{Available: true, Transactions: uint32(s.pending.Len()), Omitted: uint32(coverage.Omitted), Complete: coverage.Complete}
	if !coverage.AsOf.IsZero() {
		out.ComparedAgo = proto.Uint32(s.ago(coverage.AsOf))
	}
	return out
}

// ListMempool implements IdentityService.
func (s *identityService) ListMempool(ctx context.Context, request *keytreev1.ListMempoolRequest) (*keytreev1.ListMempoolResponse, error) {
	limit, err := parsePageSize(request.GetPageSize(), defaultPage, maxPage)
	if err != nil {
		return nil, err
	}
	token := pageToken{query: queryDigest("ListMempool", nil)}
	sent, err := parsePageTokenFor(token.query, request.GetPageToken())
	if err != nil {
		return nil, err
	}
	var after mempoolCursor
	if sent != nil {
		if after, err = parseMempoolCursor(sent.cursor); err != nil {
			return nil, err
		}
	}
	if err := awaitPage(ctx, limit); err != nil {
		return nil, err
	}
	view, err := s.viewAt(nil)
	if err != nil {
		return nil, err
	}
	defer view.Close()
	supposed, err := s.suppose(view, true, nil)
	if err != nil {
		return nil, err
	}
	defer supposed.close()
	at := asOfView(view)
	answer := &keytreev1.ListMempoolResponse{AsOfHeight: at.height, AsOfHash: at.hash, Mempool: s.followed(supposed.mempool())}
	if !supposed.known() {
		return answer, nil
	}
	answer.Height = supposed.pending.Height()
	next, err := supposed.list(ctx, answer, after, limit)
	if err != nil {
		return nil, s.fault(err)
	}
	if next != nil {
		token.cursor = next.bytes()
		answer.NextPageToken = token.String()
	}
	return answer, nil
}

// list fills a page of what is pending. next is nil at the end.
func (s *supposition) list(ctx context.Context, out *keytreev1.ListMempoolResponse, after mempoolCursor, limit int) (next *mempoolCursor, err error) {
	if !after.anchors {
		actions, more, err := s.pending.Actions(ctx, after.action, limit)
		if err != nil {
			return nil, err
		}
		size := 0
		for i := range actions {
			rendered := s.render().action(actions[i], s.at())
			if size += proto.Size(rendered); size > maxAnswer && i > 0 {
				return &mempoolCursor{action: &actions[i-1].TxID}, nil
			}
			out.Actions = append(out.Actions, &keytreev1.PendingAction{Transaction: s.transaction(actions[i].TxID), Action: rendered})
		}
		if more != nil {
			return &mempoolCursor{action: more}, nil
		}
		limit -= len(actions)
	}
	// One more than there is room for tells whether there are more.
	effects, err := s.pending.AnchorEffects(int(after.effect), limit+1)
	if err != nil {
		return nil, err
	}
	for i := range effects {
		if i == limit {
			return &mempoolCursor{anchors: true, effect: after.effect + uint32(limit)}, nil
		}
		out.Anchors = append(out.Anchors, &keytreev1.PendingEvent{Transaction: s.transaction(effects[i].Tx), Event: s.render().anchorEvent(effects[i])})
	}
	return nil, nil
}

// mempoolCursor is a place in the listing of what is pending: behind an action, nil for the
// beginning, or, once those are listed, at an effect of anchors, by its number.
type mempoolCursor struct {
	action  *chainhash.Hash
	anchors bool
	effect  uint32
}

func (c mempoolCursor) bytes() []byte {
	if c.anchors {
		return appendActionCursor(store.Position{Index: c.effect})
	}
	return c.action[:]
}

func parseMempoolCursor(b []byte) (c mempoolCursor, err error) {
	if len(b) == chainhash.HashSize {
		txid := chainhash.Hash(b)
		return mempoolCursor{action: &txid}, nil
	}
	at, err := parseActionCursor(b)
	if err != nil || at == nil || at.Height != 0 {
		return c, errCursor()
	}
	return mempoolCursor{anchors: true, effect: at.Index}, nil
}
