package identity

import (
	"context"
	"encoding/hex"
	"time"

	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// identityService implements keytree.v1.IdentityService; the .proto file
// documents its calls. It keeps nothing between calls.
type identityService struct {
	keytreev1.UnimplementedIdentityServiceServer
	graphReader
}

// GetStatus implements IdentityService.
func (s *identityService) GetStatus(context.Context, *keytreev1.GetStatusRequest) (*keytreev1.GetStatusResponse, error) {
	params := s.graph.Params()
	state := s.indexer.Status()
	memory := s.graph.Memory()
	answer := &keytreev1.GetStatusResponse{
		Network:     params.Network,
		StartHeight: params.StartHeight,
		NodeHeight:  state.NodeHeight,
		NodeHeaders: max(state.NodeHeight, state.NodeHeaders),
		Synced:      state.Synced,
		Unsynced:    state.Reason,
		NodeVersion: state.NodeVersion,
		Counts:      &keytreev1.Counts{},
		Memory: &keytreev1.Memory{
			Links: uint64(memory.Links), Waiting: uint64(memory.Waiting), Fixed: uint64(memory.Fixed),
			Most: uint64(memory.Most), KeysLeft: uint64(memory.Left()),
		},
	}
	if peers := uint32(state.NodePeers); state.NodePeers >= 0 {
		answer.NodePeers = &peers
	}
	if !state.NodeAnswered.IsZero() {
		ago := uint32(max(0, time.Since(state.NodeAnswered)/time.Second))
		answer.NodeAnsweredAgo = &ago
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
	return s.render().resolution(resolution, asOfView(view), false, s.render().address), nil
}

// GetIdentity implements IdentityService.
func (s *identityService) GetIdentity(_ context.Context, request *keytreev1.GetIdentityRequest) (*keytreev1.Identity, error) {
	id, view, err := s.viewOf("id_tx_hash", request.GetIdTxHash(), request.AtHeight)
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
	txid, view, err := s.viewOf("tx_hash", request.GetTxHash(), request.AtHeight)
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
