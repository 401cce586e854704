package identity

import (
	"context"
	"encoding/hex"
	"errors"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/push"
	"github.com/keytree-bch/keytree/rpc/rest"
)

// identityService implements keytree.v1.IdentityService; the .proto file
// documents its calls. It keeps nothing between calls, but for streams what is pending.
type identityService struct {
	keytreev1.UnimplementedIdentityServiceServer
	graphReader
	pool      *push.Mempool
	answers   rest.Answers
	readers   chan struct{} // holds a value for each proof that reads blocks
	heartbeat time.Duration // how often a follower is told what it has
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
			Most: uint64(memory.Most), KeysLeft: uint64(memory.Left()), Pending: uint64(memory.Pending),
			Followed: uint64(memory.Followed),
		},
	}
	if peers := uint32(state.NodePeers); state.NodePeers >= 0 {
		answer.NodePeers = &peers
	}
	if !state.NodeAnswered.IsZero() {
		ago := uint32(max(0, time.Since(state.NodeAnswered)/time.Second))
		answer.NodeAnsweredAgo = &ago
	}
	answer.Mempool = s.followed(s.mempool())
	if tip, ok := s.graph.Tip(); ok {
		answer.TipHeight = tip.Height
		answer.TipHash = tip.Hash.String()
		answer.StateHash = hex.EncodeToString(tip.StateHash[:])
		answer.StateRoot = stateRoot(tip.StateRoot)
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
	supposed, err := s.suppose(view, request.GetUnconfirmed(), request.AtHeight)
	if err != nil {
		return nil, err
	}
	defer supposed.close()
	resolution, err := view.Resolve(ctx, key)
	if err != nil {
		return nil, s.fault(err)
	}
	answer := s.render().resolution(resolution, asOfView(view), false, s.render().address)
	if answer.Unconfirmed, err = supposed.resolution(ctx, resolution, false); err != nil {
		return nil, s.fault(err)
	}
	return answer, nil
}

// GetIdentity implements IdentityService.
func (s *identityService) GetIdentity(ctx context.Context, request *keytreev1.GetIdentityRequest) (*keytreev1.Identity, error) {
	id, view, err := s.viewOf("id_tx_hash", request.GetIdTxHash(), request.AtHeight)
	if err != nil {
		return nil, err
	}
	defer view.Close()
	supposed, err := s.suppose(view, request.GetUnconfirmed(), request.AtHeight)
	if err != nil {
		return nil, err
	}
	defer supposed.close()
	answer, err := s.identityAnd(ctx, id, view, supposed)
	if err != nil {
		return nil, s.notFoundOr(err, "id_tx_hash", "identity", id, view)
	}
	return answer, nil
}

// identityAnd describes an identity, and what would differ from it. graph.ErrNotFound if there is none,
// and would be none.
func (s *identityService) identityAnd(ctx context.Context, id chainhash.Hash, view *graph.View, supposed *supposition) (*keytreev1.Identity, error) {
	at := asOfView(view)
	identity, err := view.Identity(id)
	if errors.Is(err, graph.ErrNotFound) && supposed.known() {
		answer := &keytreev1.Identity{IdTxHash: id.String(), State: unconfirmedState, NamedBy: new(keytreev1.NamedBy), AsOfHeight: at.height, AsOfHash: at.hash}
		answer.Unconfirmed, err = supposed.identity(ctx, id, nil)
		return answer, err
	}
	if err != nil {
		return nil, err
	}
	answer := s.render().identity(identity, at)
	answer.Unconfirmed, err = supposed.identity(ctx, id, &identity)
	return answer, err
}

// GetAction implements IdentityService.
func (s *identityService) GetAction(_ context.Context, request *keytreev1.GetActionRequest) (*keytreev1.Action, error) {
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
	answer, err := s.actionAnd(txid, view, supposed)
	if err != nil {
		return nil, s.notFoundOr(err, "tx_hash", "action", txid, view)
	}
	return answer, nil
}

// actionAnd describes an action, and what would differ from it. graph.ErrNotFound if it is neither
// confirmed nor pending.
func (s *identityService) actionAnd(txid chainhash.Hash, view *graph.View, supposed *supposition) (*keytreev1.Action, error) {
	at := asOfView(view)
	action, err := view.Action(txid)
	if errors.Is(err, graph.ErrNotFound) && supposed.known() {
		answer := &keytreev1.Action{TxHash: txid.String(), State: unconfirmedState, AsOfHeight: at.height, AsOfHash: at.hash}
		answer.Unconfirmed, err = supposed.action(txid, nil)
		return answer, err
	}
	if err != nil {
		return nil, err
	}
	answer := s.render().action(action, at)
	answer.Unconfirmed, err = supposed.action(txid, &action)
	return answer, err
}
