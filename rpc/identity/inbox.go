package identity

import (
	"context"
	"errors"
	"fmt"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/fault"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// ListAddressRequests implements IdentityService.
func (s *identityService) ListAddressRequests(ctx context.Context, request *keytreev1.ListAddressRequestsRequest) (*keytreev1.ListAddressRequestsResponse, error) {
	key, err := parseAddress("address", request.GetAddress(), s.net)
	if err != nil {
		return nil, err
	}
	states, err := parseRequestState(request.GetState())
	if err != nil {
		return nil, err
	}
	query := queryDigest("ListAddressRequests", append(key[:], byte(states)), request.AtHeight)
	list, err := s.openListing(ctx, query, request.AtHeight, request)
	if err != nil {
		return nil, err
	}
	defer list.close()
	supposed := list.suppose()
	from, err := parseActionCursor(list.token.cursor)
	if err != nil {
		return nil, err
	}
	if from == nil {
		if err := supposed.charge(ctx, list.limit); err != nil {
			return nil, err
		}
	}
	found, next, err := list.view.Requests(ctx, key, states, from, list.limit)
	if err != nil {
		return nil, s.fault(err)
	}
	at := asOfView(list.view)
	answer := &keytreev1.ListAddressRequestsResponse{AsOfHeight: at.height, AsOfHash: at.hash, Unconfirmed: supposed.answer()}
	size := 0
	for i := range found {
		rendered := s.render().request(&found[i])
		if size += proto.Size(rendered); size > maxAnswer && i > 0 {
			next = &store.Position{Height: found[i].Height, Index: found[i].Index}
			break
		}
		answer.Requests = append(answer.Requests, rendered)
	}
	if from == nil && supposed.known() {
		err := supposed.changedRequests(ctx, answer.Unconfirmed, key, states, list.limit, func(c *graph.RequestChange) int {
			rendered := s.render().request(&c.Is)
			if c.Was == nil {
				rendered.Pending = supposed.transaction(c.Is.TxID)
			}
			answer.Unconfirmed.Requests = append(answer.Unconfirmed.Requests, rendered)
			return proto.Size(rendered)
		})
		if err != nil {
			return nil, err
		}
	}
	if next != nil {
		answer.NextPageToken = list.next(appendActionCursor(*next))
	}
	return answer, nil
}

// ListAddressLinks implements IdentityService.
func (s *identityService) ListAddressLinks(ctx context.Context, request *keytreev1.ListAddressLinksRequest) (*keytreev1.ListAddressLinksResponse, error) {
	key, err := parseAddress("address", request.GetAddress(), s.net)
	if err != nil {
		return nil, err
	}
	query := queryDigest("ListAddressLinks", key[:], request.AtHeight)
	list, err := s.openListing(ctx, query, request.AtHeight, request)
	if err != nil {
		return nil, err
	}
	defer list.close()
	supposed := list.suppose()
	after, err := parseKeyCursor(list.token.cursor)
	if err != nil {
		return nil, err
	}
	if after == nil {
		if err := supposed.charge(ctx, list.limit); err != nil {
			return nil, err
		}
	}
	found, next, err := list.view.LinksBelow(ctx, key, after, list.limit)
	if errors.Is(err, graph.ErrNotFound) {
		return nil, errCursor() // the page before had that child
	}
	if err != nil {
		return nil, s.fault(err)
	}
	at := asOfView(list.view)
	answer := &keytreev1.ListAddressLinksResponse{AsOfHeight: at.height, AsOfHash: at.hash, Unconfirmed: supposed.answer()}
	for _, link := range found {
		answer.Links = append(answer.Links, s.render().childLink(link))
	}
	if after == nil && supposed.known() {
		err := supposed.changedRequests(ctx, answer.Unconfirmed, key, links.AcceptedRequest, list.limit, func(c *graph.RequestChange) int {
			// Only what was accepted comes to be cut, so both have a child and an accept.
			rendered := s.render().childLink(links.Link{Child: *c.Is.Child, Accept: *c.Is.By, Linked: c.Is.Since})
			if c.Is.Link == links.CutRequest {
				rendered.State, rendered.LinkedHeight = stateName(links.StateCut), c.Was.Since
			}
			answer.Unconfirmed.Links = append(answer.Unconfirmed.Links, rendered)
			return proto.Size(rendered)
		})
		if err != nil {
			return nil, err
		}
	}
	if next != nil {
		answer.NextPageToken = list.next(next[:])
	}
	return answer, nil
}

// changedRequests adds to what would differ the requests asked of a key that would come into one of the states, or
// leave it; add adds one, and tells about how many bytes that was.
func (s *supposition) changedRequests(ctx context.Context, out *keytreev1.Unconfirmed, key protocol.KeyHash, states links.RequestState, limit int, add func(*graph.RequestChange) int) error {
	changes, more, err := s.pending.ChangedRequests(ctx, key, states, limit)
	if err != nil {
		return s.fault(err)
	}
	out.Differs, out.More = len(changes) > 0, more
	size := 0
	for i := range changes {
		if size > maxUnconfirmed {
			out.More = true
			break
		}
		size += add(&changes[i])
		for _, txid := range []*chainhash.Hash{&changes[i].Is.TxID, changes[i].Is.Revoke} {
			if txid == nil || len(out.By) == graph.MaxCauses {
				continue
			}
			why, err := s.pending.WhyAction(*txid)
			if err != nil {
				return s.fault(err)
			}
			s.addReasons(out, why)
		}
	}
	return nil
}

// charge counts as work what is unconfirmed of so many entries of a page.
func (s *supposition) charge(ctx context.Context, entries int) error {
	if !s.known() {
		return nil
	}
	return admission.Work(ctx, entries/unitUnconfirmed)
}

// parseRequestState reads the field state of a request.
func parseRequestState(s string) (links.RequestState, error) {
	switch s {
	case "", "open":
		return links.OpenRequest, nil
	case "accepted":
		return links.AcceptedRequest, nil
	case "cut":
		return links.CutRequest, nil
	case "refused":
		return links.RefusedRequest, nil
	case "all":
		return links.AnyRequest, nil
	}
	return 0, fault.Field(codes.InvalidArgument, "state", "expected open, accepted, cut, refused or all, got %q", fault.Shortened(s))
}

func requestStateName(s links.RequestState) string {
	switch s {
	case links.OpenRequest:
		return "OPEN"
	case links.AcceptedRequest:
		return "ACCEPTED"
	case links.CutRequest:
		return "CUT"
	case links.RefusedRequest:
		return "REFUSED"
	}
	return fmt.Sprintf("STATE_%d", uint8(s))
}

func (r renderer) request(in *links.Request) *keytreev1.LinkRequest {
	action := r.action(in.ActionStatus, asOf{})
	return &keytreev1.LinkRequest{
		TxHash:        action.TxHash,
		ChildAddress:  action.ChildAddress,
		Message:       action.Message,
		MessageHex:    action.MessageHex,
		State:         requestStateName(in.Link),
		Reason:        action.Reason,
		Height:        action.Height,
		TxIndex:       action.TxIndex,
		DecidedHeight: in.Since,
		AcceptTxHash:  action.ByTxHash,
		RevokeTxHash:  hashOrNone(in.Revoke),
	}
}

func (r renderer) childLink(in links.Link) *keytreev1.ChildLink {
	return &keytreev1.ChildLink{ChildAddress: r.address(in.Child), AcceptTxHash: in.Accept.String(), LinkedHeight: in.Linked, State: stateName(links.StateInForce), HasLinks: in.Branch}
}

// parseKeyCursor reads a cursor that is a key.
func parseKeyCursor(b []byte) (*protocol.KeyHash, error) {
	if len(b) == 0 {
		return nil, nil
	}
	if len(b) != len(protocol.KeyHash{}) {
		return nil, errCursor()
	}
	key := protocol.KeyHash(b)
	return &key, nil
}
