package identity

import (
	"context"
	"encoding/binary"
	"errors"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"google.golang.org/grpc/codes"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/rpc/fault"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// ListIdentityChanges implements IdentityService.
func (s *identityService) ListIdentityChanges(ctx context.Context, request *keytreev1.ListIdentityChangesRequest) (*keytreev1.ListIdentityChangesResponse, error) {
	id, err := parseHash("id_tx_hash", request.GetIdTxHash())
	if err != nil {
		return nil, err
	}
	switch parts := request.GetParts(); {
	case parts > maxPage:
		return nil, fault.Field(codes.InvalidArgument, "parts", "expected at most %d, got %d", maxPage, parts)
	case parts > 0 && (request.GetPageSize() > 0 || request.GetPageToken() != ""):
		return nil, fault.Field(codes.InvalidArgument, "parts", "expected neither page_size nor page_token beside it: it has one page")
	case parts > 0:
		return s.overview(ctx, id, request.AtHeight, int(parts))
	}
	list, err := s.openPage(ctx, queryDigest("ListIdentityChanges", id[:], request.AtHeight), request.AtHeight, request)
	if err != nil {
		return nil, err
	}
	defer list.view.Close()
	upTo := list.view.Height()
	if cursor := list.token.cursor; len(cursor) > 0 {
		if len(cursor) != 4 {
			return nil, errCursor()
		}
		upTo = binary.BigEndian.Uint32(cursor)
	}
	versions, more, err := list.view.IdentityVersions(id, upTo, list.limit)
	if err != nil {
		return nil, s.notFoundOr(err, "id_tx_hash", "identity", id, list.view)
	}
	answer := s.changes(list.view, versions)
	if last := len(versions) - 1; more && versions[last].Since > 0 {
		answer.NextPageToken = list.next(binary.BigEndian.AppendUint32(nil, versions[last].Since-1))
	}
	return answer, nil
}

// overview lists the last change of each of so many equal parts of the time since an identity was named.
func (s *identityService) overview(ctx context.Context, id chainhash.Hash, atHeight *uint32, parts int) (*keytreev1.ListIdentityChangesResponse, error) {
	view, err := s.viewAt(atHeight)
	if err != nil {
		return nil, err
	}
	defer view.Close()
	identity, err := view.Identity(id)
	if err != nil {
		return nil, s.notFoundOr(err, "id_tx_hash", "identity", id, view)
	}
	var picked []links.IdentityVersion
	from, length := uint64(identity.NamedAt), uint64(view.Height()-identity.NamedAt)+1
	for part := parts; part > 0; {
		if err := ctx.Err(); err != nil {
			return nil, s.fault(err)
		}
		end := from + length*uint64(part)/uint64(parts) // the first height behind the part
		versions, _, err := view.IdentityVersions(id, uint32(end-1), 1)
		if errors.Is(err, graph.ErrNotFound) || err == nil && len(versions) == 0 {
			break
		}
		if err != nil {
			return nil, s.fault(err)
		}
		picked = append(picked, versions[0])
		if uint64(versions[0].Since) <= from {
			break
		}
		// The last part that ends before this change, or with the block before it.
		part = int(((uint64(versions[0].Since)-from+1)*uint64(parts) - 1) / length)
	}
	return s.changes(view, picked), nil
}

func (s *identityService) changes(view *graph.View, versions []links.IdentityVersion) *keytreev1.ListIdentityChangesResponse {
	at := asOfView(view)
	answer := &keytreev1.ListIdentityChangesResponse{AsOfHeight: at.height, AsOfHash: at.hash}
	for _, v := range versions {
		change := &keytreev1.IdentityChange{Height: v.Since, State: "MERGED"}
		if !v.Merged {
			change.State, change.MainAddress, change.KeyCount = "CURRENT", s.render().address(v.Root), v.Keys
		}
		answer.Changes = append(answer.Changes, change)
	}
	return answer
}
