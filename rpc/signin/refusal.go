package signin

import (
	"errors"

	"google.golang.org/grpc/codes"

	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/signin"
	"github.com/keytree-bch/keytree/rpc/fault"
)

// refusal is the status of an error of a signin.Verifier. The field is that of the request
// which has the text.
func refusal(err error, field string) error {
	code, reason := codes.InvalidArgument, "MALFORMED"
	switch {
	case errors.Is(err, signin.ErrTooLong):
		reason = "TOO_LONG"
	case errors.Is(err, signin.ErrNoNonce): // this and the next three are of a text that is not of the form
		reason = "NO_NONCE"
	case errors.Is(err, signin.ErrDomain):
		reason = "OTHER_DOMAIN"
	case errors.Is(err, signin.ErrChain):
		reason = "OTHER_CHAIN"
	case errors.Is(err, protocol.ErrAddress):
		reason = "BAD_ADDRESS"
	case errors.Is(err, signin.ErrNonce):
		reason = "FOREIGN_NONCE"
	case errors.Is(err, signin.ErrExpired):
		code, reason = codes.FailedPrecondition, "EXPIRED"
	case errors.Is(err, signin.ErrFuture):
		code, reason = codes.FailedPrecondition, "FROM_THE_FUTURE"
	case errors.Is(err, protocol.ErrSignature):
		reason, field = "BAD_SIGNATURE", "signature"
	}
	return fault.Reason(code, reason, field, "%v", err)
}
