package rpc

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/rs/zerolog"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/protocol"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// maxBatch is how many addresses a BatchResolve takes.
const maxBatch = 10_000

// identityService implements keytree.v1.IdentityService; the .proto file
// documents its calls. It keeps nothing between calls.
type identityService struct {
	keytreev1.UnimplementedIdentityServiceServer
	graph   *graph.Graph
	indexer Indexer
	net     *chaincfg.Params
	log     zerolog.Logger
}

func (s *identityService) render() renderer { return renderer{s.net} }

// GetStatus implements IdentityService.
func (s *identityService) GetStatus(context.Context, *keytreev1.GetStatusRequest) (*keytreev1.GetStatusResponse, error) {
	params := s.graph.Params()
	state := s.indexer.Status()
	answer := &keytreev1.GetStatusResponse{
		Network:     params.Network,
		StartHeight: params.StartHeight,
		NodeHeight:  state.NodeHeight,
		Synced:      state.Synced,
		Counts:      &keytreev1.Counts{},
	}
	if tip, ok := s.graph.Tip(); ok {
		answer.TipHeight = tip.Height
		answer.TipHash = tip.Hash.String()
		answer.StateHash = hex.EncodeToString(tip.StateHash[:])
		answer.Counts = &keytreev1.Counts{
			Links:      tip.Counts.Links,
			Identities: tip.Counts.Identities,
			Refused:    tip.Counts.Refused,
			Waiting:    tip.Counts.Waiting,
		}
	}
	return answer, nil
}

// ResolveAddress implements IdentityService.
func (s *identityService) ResolveAddress(ctx context.Context, request *keytreev1.ResolveAddressRequest) (*keytreev1.Resolution, error) {
	key, err := parseAddress("address", request.GetAddress(), s.net)
	if err != nil {
		return nil, err
	}
	view, err := s.viewAt(request.AtHeight)
	if err != nil {
		return nil, err
	}
	defer view.Close()
	resolution, err := view.Resolve(ctx, key)
	if err != nil {
		return nil, s.fault(err)
	}
	return s.render().resolution(resolution, asOfView(view), false), nil
}

// BatchResolve implements IdentityService.
func (s *identityService) BatchResolve(ctx context.Context, request *keytreev1.BatchResolveRequest) (*keytreev1.BatchResolveResponse, error) {
	addresses := request.GetAddresses()
	if len(addresses) == 0 || len(addresses) > maxBatch {
		return nil, fieldError(codes.InvalidArgument, "addresses", "expected 1 to %d addresses, got %d", maxBatch, len(addresses))
	}
	keys := make([]protocol.KeyHash, len(addresses))
	for i, address := range addresses {
		var err error
		if keys[i], err = parseAddress(fmt.Sprintf("addresses[%d]", i), address, s.net); err != nil {
			return nil, err
		}
	}
	view, err := s.viewAt(request.AtHeight)
	if err != nil {
		return nil, err
	}
	defer view.Close()

	at := asOfView(view)
	answer := &keytreev1.BatchResolveResponse{
		Resolutions: make([]*keytreev1.Resolution, len(keys)),
		AsOfHeight:  at.height,
		AsOfHash:    at.hash,
	}
	for i, key := range keys {
		if err := ctx.Err(); err != nil {
			return nil, s.fault(err)
		}
		resolution, err := view.Resolve(ctx, key)
		if err != nil {
			return nil, s.fault(err)
		}
		answer.Resolutions[i] = s.render().resolution(resolution, at, request.GetOmitPath())
	}
	return answer, nil
}

// GetIdentity implements IdentityService.
func (s *identityService) GetIdentity(_ context.Context, request *keytreev1.GetIdentityRequest) (*keytreev1.Identity, error) {
	id, err := parseHash("id_tx_hash", request.GetIdTxHash())
	if err != nil {
		return nil, err
	}
	view, err := s.viewAt(request.AtHeight)
	if err != nil {
		return nil, err
	}
	defer view.Close()
	identity, err := view.Identity(id)
	if err != nil {
		return nil, s.notFoundOr(err, "id_tx_hash", "identity", id, view)
	}
	return s.render().identity(identity, asOfView(view)), nil
}

// GetAction implements IdentityService.
func (s *identityService) GetAction(_ context.Context, request *keytreev1.GetActionRequest) (*keytreev1.Action, error) {
	txid, err := parseHash("tx_hash", request.GetTxHash())
	if err != nil {
		return nil, err
	}
	view, err := s.viewAt(request.AtHeight)
	if err != nil {
		return nil, err
	}
	defer view.Close()
	action, err := view.Action(txid)
	if err != nil {
		return nil, s.notFoundOr(err, "tx_hash", "action", txid, view)
	}
	return s.render().action(action, asOfView(view)), nil
}

var (
	errUnchecked = status.Error(codes.Unavailable, "the stored blocks have not been compared with the node's yet; try again later")
	errNoBlock   = status.Error(codes.Unavailable, "no block is indexed yet; try again later")
)

// unavailable is the error for every question to a graph that may hold what was
// true before a restart only, nil otherwise.
func (s *identityService) unavailable() error {
	if !s.indexer.Status().Checked {
		return errUnchecked
	}
	return nil
}

// viewAt opens the view that at_height asks for. The caller closes it.
func (s *identityService) viewAt(height *uint32) (*graph.View, error) {
	if err := s.unavailable(); err != nil {
		return nil, err
	}
	view, err := s.graph.At(height)
	switch {
	case err == nil:
		return view, nil
	case errors.Is(err, graph.ErrEmpty):
		return nil, errNoBlock
	case errors.Is(err, graph.ErrHeight):
		return nil, s.outOfRange("at_height", *height)
	}
	return nil, s.fault(err)
}

// outOfRange says between which bounds the height in a field has to be.
func (s *identityService) outOfRange(field string, height uint32) error {
	tip, ok := s.graph.Tip()
	if !ok {
		return errNoBlock
	}
	return fieldError(codes.OutOfRange, field, "expected a height from %d (start height) to %d (tip), got %d",
		s.graph.Params().StartHeight, tip.Height, height)
}

func (s *identityService) notFoundOr(err error, field, what string, hash chainhash.Hash, view *graph.View) error {
	if errors.Is(err, graph.ErrNotFound) {
		return fieldError(codes.NotFound, field, "no %s %s is known as of height %d", what, hash, view.Height())
	}
	return s.fault(err)
}

// offChain reports whether err says that there is no block at a height, or not
// any more.
func offChain(err error) bool {
	return errors.Is(err, graph.ErrHeight) || errors.Is(err, graph.ErrEmpty) || errors.Is(err, graph.ErrReorganised)
}

// fault is the error for a call that could not be answered: that its time is up
// or its client gone, or its block; or else what no client can do anything about, which is
// logged and hidden.
func (s *identityService) fault(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return status.FromContextError(err).Err()
	}
	if errors.Is(err, graph.ErrReorganised) {
		return status.Error(codes.Aborted, "the block that the answer is as of was reorganised away meanwhile; ask again")
	}
	s.log.Error().Err(err).Msg("the graph could not answer")
	return errInternal
}
