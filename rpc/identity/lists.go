package identity

import (
	"context"
	"encoding/binary"
	"errors"

	"google.golang.org/protobuf/proto"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/graph/store"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// Sizes of pages of keys and actions.
const (
	defaultPage = 100
	maxPage     = 1000
	// maxSupposed is how many actions, requests or links a page has at most that says as well what would differ, and how many that
	// would: each takes several questions.
	maxSupposed = 400
	// unitUnconfirmed is how many entries that may be otherwise are as much work as another call.
	unitUnconfirmed = 100
)

// maxAnswer is about how many bytes a page or a message of a stream is ended
// at, so that it stays below the 4 MB that gRPC clients accept by default.
const maxAnswer = 3 << 20

// listing is one page of a list as of a block, being made.
type listing struct {
	view     *graph.View
	limit    int
	token    pageToken    // of this page; its cursor is nil on the first
	supposed *supposition // after the view
}

// pageRequest asks for a page of a list.
type pageRequest interface {
	GetPageSize() uint32
	GetPageToken() string
}

// listRequest asks for a page of a list, and maybe for what is pending beside it.
type listRequest interface {
	pageRequest
	GetUnconfirmed() bool
}

// openListing opens what a page is as of: on the first page, what at_height asks for, then the
// same block; and what is pending after that, if the request asks for it. Close it.
func (r *graphReader) openListing(ctx context.Context, query [16]byte, atHeight *uint32, request listRequest) (*listing, error) {
	if request.GetPageToken() != "" {
		atHeight = nil // the token says it
	}
	list, err := r.openPage(ctx, query, atHeight, request)
	if err != nil {
		return nil, err
	}
	if list.supposed, err = r.suppose(list.view, request.GetUnconfirmed(), atHeight); err != nil {
		list.view.Close()
		return nil, err
	}
	return list, nil
}

// suppose returns what is pending, if the page is to have that beside it, and it has fewer entries then.
func (l *listing) suppose() *supposition {
	if l.supposed.known() {
		l.limit = min(l.limit, maxSupposed)
	}
	return l.supposed
}

func (l *listing) close() {
	l.supposed.close()
	l.view.Close()
}

// openPage opens the view that a page is as of.
func (r *graphReader) openPage(ctx context.Context, query [16]byte, atHeight *uint32, request pageRequest) (*listing, error) {
	limit, err := parsePageSize(request.GetPageSize(), defaultPage, maxPage)
	if err != nil {
		return nil, err
	}
	token, err := parsePageTokenFor(query, request.GetPageToken())
	if err != nil {
		return nil, err
	}
	if err := awaitPage(ctx, limit); err != nil {
		return nil, err
	}
	if token == nil {
		view, err := r.viewAt(atHeight)
		if err != nil {
			return nil, err
		}
		return &listing{view, limit, pageToken{query: query, height: view.Height(), hash: view.Hash()}, nil}, nil
	}
	if err := r.unavailable(); err != nil {
		return nil, err
	}
	view, err := r.graph.At(&token.height)
	if graph.OffChain(err) {
		return nil, errReorganised(token.height, token.hash)
	}
	if err != nil {
		return nil, r.fault(err)
	}
	if view.Hash() != token.hash {
		view.Close()
		return nil, errReorganised(token.height, token.hash)
	}
	return &listing{view, limit, *token, nil}, nil
}

// next returns the token of the page that goes on at cursor.
func (l *listing) next(cursor []byte) string {
	token := l.token
	token.cursor = cursor
	return token.String()
}

// ListIdentityKeys implements IdentityService.
func (s *identityService) ListIdentityKeys(ctx context.Context, request *keytreev1.ListIdentityKeysRequest) (*keytreev1.ListIdentityKeysResponse, error) {
	id, err := parseHash("id_tx_hash", request.GetIdTxHash())
	if err != nil {
		return nil, err
	}
	query := queryDigest("ListIdentityKeys", id[:], request.AtHeight)
	list, err := s.openListing(ctx, query, request.AtHeight, request)
	if err != nil {
		return nil, err
	}
	defer list.close()
	supposed := list.supposed
	after, err := parseMemberCursor(list.token.cursor)
	if err != nil {
		return nil, err
	}
	at := asOfView(list.view)
	answer := &keytreev1.ListIdentityKeysResponse{AsOfHeight: at.height, AsOfHash: at.hash}
	if supposed != nil {
		about, err := s.identityAnd(ctx, id, list.view, supposed)
		if err != nil {
			return nil, s.notFoundOr(err, "id_tx_hash", "identity", id, list.view)
		}
		if answer.Unconfirmed = about.Unconfirmed; about.State == unconfirmedState {
			return answer, nil
		}
	}
	members, next, err := list.view.Members(ctx, id, after, list.limit)
	if after != nil && errors.Is(err, graph.ErrNotFound) {
		return nil, errCursor() // the first page had the identity
	}
	if err != nil {
		return nil, s.notFoundOr(err, "id_tx_hash", "identity", id, list.view)
	}
	for _, member := range members {
		answer.Keys = append(answer.Keys, s.render().key(member))
	}
	if next != nil {
		answer.NextPageToken = list.next(appendMemberCursor(*next))
	}
	return answer, nil
}

// ListAddressActions implements IdentityService.
func (s *identityService) ListAddressActions(ctx context.Context, request *keytreev1.ListAddressActionsRequest) (*keytreev1.ListAddressActionsResponse, error) {
	key, err := parseAddress("address", request.GetAddress(), s.net)
	if err != nil {
		return nil, err
	}
	query := queryDigest("ListAddressActions", key[:], request.AtHeight)
	list, err := s.openListing(ctx, query, request.AtHeight, request)
	if err != nil {
		return nil, err
	}
	defer list.close()
	supposed := list.suppose()
	if err := supposed.charge(ctx, list.limit); err != nil {
		return nil, err
	}
	after, err := parseActionCursor(list.token.cursor)
	if err != nil {
		return nil, err
	}
	found, next, err := list.view.ActionsOf(ctx, key, after, list.limit)
	if err != nil {
		return nil, s.fault(err)
	}
	at := asOfView(list.view)
	answer := &keytreev1.ListAddressActionsResponse{AsOfHeight: at.height, AsOfHash: at.hash}
	if answer.Actions = s.actionsUpTo(found, at); len(answer.Actions) < len(found) {
		found = found[:len(answer.Actions)]
		last := &found[len(found)-1]
		next = &store.Position{Height: last.Height, Index: last.Index}
	}
	if answer.Unconfirmed, err = supposed.actions(ctx, key, found, after, next, list.limit); err != nil {
		return nil, s.fault(err)
	}
	if next != nil {
		answer.NextPageToken = list.next(appendActionCursor(*next))
	}
	return answer, nil
}

// actionsUpTo renders actions up to maxAnswer, one at least if there is one.
func (s *identityService) actionsUpTo(found []links.ActionStatus, at asOf) (page []*keytreev1.Action) {
	size := 0
	for i, action := range found {
		rendered := s.render().action(action, at)
		if size += proto.Size(rendered); size > maxAnswer && i > 0 {
			break
		}
		page = append(page, rendered)
	}
	return page
}

// The cursors of the two lists, in big-endian numbers. That of keys is a key, and a byte more, 1, if it
// is done.

func appendMemberCursor(c links.MemberCursor) []byte {
	if c.Done {
		return append(c.Key[:], 1)
	}
	return c.Key[:]
}

func parseMemberCursor(b []byte) (*links.MemberCursor, error) {
	if len(b) == 0 {
		return nil, nil
	}
	var c links.MemberCursor
	switch n := copy(c.Key[:], b); {
	case n < len(c.Key):
		return nil, errCursor()
	case len(b) == n+1 && b[n] == 1:
		c.Done = true
	case len(b) > n:
		return nil, errCursor()
	}
	return &c, nil
}

func appendActionCursor(c store.Position) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, c.Height), c.Index)
}

func parseActionCursor(b []byte) (*store.Position, error) {
	if len(b) == 0 {
		return nil, nil
	}
	if len(b) != 8 {
		return nil, errCursor()
	}
	return &store.Position{
		Height: binary.BigEndian.Uint32(b),
		Index:  binary.BigEndian.Uint32(b[4:]),
	}, nil
}
