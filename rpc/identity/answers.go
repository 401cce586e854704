package identity

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// Answers are those of IdentityService, for another service of the same server: with its
// errors, and without a connection.
type Answers struct{ identities *identityService }

// Answers returns what IdentityService answers.
func (s *Services) Answers() Answers { return Answers{s.identities} }

// Status is GetStatus.
func (a Answers) Status(ctx context.Context) (*keytreev1.GetStatusResponse, error) {
	return a.identities.GetStatus(ctx, &keytreev1.GetStatusRequest{})
}

// Resolve is ResolveAddress, as of the tip.
func (a Answers) Resolve(ctx context.Context, address string) (*keytreev1.Resolution, error) {
	return a.identities.ResolveAddress(ctx, &keytreev1.ResolveAddressRequest{Address: address})
}

// ResolveUnconfirmed is ResolveAddress, as of the tip, with what is unconfirmed.
func (a Answers) ResolveUnconfirmed(ctx context.Context, address string) (*keytreev1.Resolution, error) {
	return a.identities.ResolveAddress(ctx, &keytreev1.ResolveAddressRequest{Address: address, Unconfirmed: true})
}

// Action is GetAction, as of the tip.
func (a Answers) Action(ctx context.Context, txid string) (*keytreev1.Action, error) {
	return a.identities.GetAction(ctx, &keytreev1.GetActionRequest{TxHash: txid})
}

// Pending is what GetAction says would become of an action that is not confirmed yet, if what is
// pending were the next block. NOT_FOUND if none is known in such a transaction.
func (a Answers) Pending(ctx context.Context, txid string) (*keytreev1.Action, error) {
	answer, err := a.identities.GetAction(ctx, &keytreev1.GetActionRequest{TxHash: txid, Unconfirmed: true})
	if err != nil {
		return nil, err
	}
	pending := answer.GetUnconfirmed().GetActions()
	if answer.State != unconfirmedState || len(pending) == 0 {
		return nil, status.Error(codes.NotFound, "no such action is pending")
	}
	return pending[0], nil
}
