package links

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"

	"github.com/keytree-bch/keytree/indexer/coins"
	"github.com/keytree-bch/keytree/protocol/signing"
	"github.com/keytree-bch/keytree/rpc/client/linkcheck"
	"github.com/keytree-bch/keytree/rpc/fault"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// SubmitLink implements LinkService.
func (s *Service) SubmitLink(ctx context.Context, request *keytreev1.SubmitLinkRequest) (*keytreev1.SubmitLinkResponse, error) {
	tx, err := signing.ParseSigned([]byte(request.GetSignedTransaction()))
	if err != nil {
		return nil, fault.Field(codes.InvalidArgument, "signed_transaction", "%v", err)
	}
	access, leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	// A node may have forgotten a transaction of the chain, all of whose outputs are spent.
	if mined, err := s.c.Server.Action(ctx, tx.TxID().String()); err == nil {
		return &keytreev1.SubmitLinkResponse{TxHash: mined.TxHash, Kind: mined.Kind, Known: true}, nil
	}
	var expected linkcheck.Expected
	sent, err := coins.Send(ctx, access, tx, func(signed coins.Signed) (err error) {
		expected, err = s.expect(ctx, access, linkcheck.ActionOf(signed.Action, signed.Author))
		if request.GetForce() && (errors.As(err, new(*linkcheck.Refusal)) || errors.Is(err, linkcheck.ErrNoAction)) {
			return nil
		}
		return err
	})
	if errors.Is(err, coins.ErrCoin) {
		return nil, fault.Field(codes.InvalidArgument, "signed_transaction", "%v", err)
	}
	if err != nil {
		return nil, s.fault(err)
	}
	return &keytreev1.SubmitLinkResponse{
		TxHash: sent.TxID.String(), Kind: sent.Action.Kind.String(), Known: sent.Known, Expected: expected.State,
	}, nil
}
