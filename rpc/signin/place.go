package signin

import (
	"fmt"

	"google.golang.org/grpc/codes"

	"github.com/keytree-bch/keytree/rpc/fault"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// checkPlace refuses a key that is, or would be if what is pending were confirmed, deeper
// below its root than a request lets it be.
func checkPlace(r *keytreev1.Resolution, request *keytreev1.VerifySignInRequest) error {
	depth, when := r.GetDepth(), "it is"
	if would := r.GetUnconfirmed().GetResolution(); would.GetDepth() > depth {
		depth, when = would.GetDepth(), "it would be if what is pending were confirmed,"
	}
	found := fmt.Sprintf("%s %d links below the root of its identity", when, depth)
	switch {
	case request.GetRootOnly() && depth > 0:
		return fault.Reason(codes.FailedPrecondition, "NOT_THE_ROOT", "root_only", "expected a key that is the root of its identity: of %s, %s", r.GetAddress(), found)
	case request.MaxDepth != nil && depth > request.GetMaxDepth():
		return fault.Reason(codes.FailedPrecondition, "TOO_DEEP", "max_depth", "expected a key up to %d links below the root of its identity: of %s, %s",
			request.GetMaxDepth(), r.GetAddress(), found)
	}
	return nil
}

// answer tells who has signed in.
func answer(r *keytreev1.Resolution) *keytreev1.VerifySignInResponse {
	return &keytreev1.VerifySignInResponse{
		Address: r.Address, IdTxHash: r.IdTxHash, MainAddress: r.MainAddress, Path: r.Path, PathTruncated: r.PathTruncated, Depth: r.Depth,
		AsOfHeight: r.AsOfHeight, AsOfHash: r.AsOfHash, Pending: pending(r),
	}
}

// pending compares the ways from a key to its root: what is, and what would be.
func pending(r *keytreev1.Resolution) *keytreev1.SignInPending {
	would := r.GetUnconfirmed().GetResolution()
	out := &keytreev1.SignInPending{Available: r.GetUnconfirmed().GetAvailable(), Reason: r.GetUnconfirmed().GetReason()}
	if would == nil { // nothing would differ
		return out
	}
	was, is := r.GetPath(), would.GetPath()
	same := 0
	for same < len(was) && same < len(is) && was[same] == is[same] {
		same++
	}
	switch {
	case same < len(was):
		out.Cut, out.Link = true, same < len(is)
	case r.GetPathTruncated() && (would.GetMainAddress() != r.GetMainAddress() || would.GetDepth() != r.GetDepth()):
		// Above what a path shows it may be either.
		out.Cut, out.Link = true, true
	default:
		out.Link = same < len(is)
	}
	return out
}
