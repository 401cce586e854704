package explorer

import (
	"net/url"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/rpc/fault"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// hashLength is how many hex characters a txid has.
const hashLength = 64

// search leads from what somebody knows to its page: an address in any form, a txid, the id of an identity, a
// block's height, a keyserver's domain.
func (e *Explorer) search(q *request) error {
	text := strings.TrimSpace(q.URL.Query().Get("q"))
	q.page.Query = theirs(text)
	if text == "" {
		q.redirect("/")
		return nil
	}
	keep := q.speak().query
	if height, err := parseHeight(text); err == nil {
		if height > q.page.Tip {
			return q.notThere(height)
		}
		q.redirect("/block/" + text)
		return nil
	}
	if len(text) == hashLength && strings.Trim(strings.ToLower(text), "0123456789abcdef") == "" {
		path, err := q.searchHash(strings.ToLower(text))
		if err == nil {
			q.redirect(path + keep)
		}
		return err
	}
	r, err := e.Identities.ResolveAddress(q.Context(), &keytreev1.ResolveAddressRequest{Address: text})
	if err == nil {
		q.redirect("/key/" + url.PathEscape(r.Address) + keep)
		return nil
	}
	if status.Code(err) != codes.InvalidArgument {
		return err
	}
	if domain := strings.ToLower(text); strings.Contains(domain, ".") && !strings.ContainsAny(domain, " /:") {
		q.redirect("/keyserver/" + url.PathEscape(domain) + keep)
		return nil
	}
	return status.Errorf(codes.NotFound, "Expected an address of this network, a transaction id or the id of an identity (64 hex characters), the height of a block, or the domain of a keyserver, got %q. As an address it is wrong: %s.",
		fault.Shortened(text), strings.TrimPrefix(status.Convert(err).Message(), "address: "))
}

// searchHash finds the page of what a hash names.
func (q *request) searchHash(hash string) (path string, err error) {
	e := q.explorer
	for _, try := range []struct {
		path string
		ask  func() error
	}{
		{"/identity/", func() error {
			_, err := e.Identities.GetIdentity(q.Context(), &keytreev1.GetIdentityRequest{IdTxHash: hash, AtHeight: q.asOf(), Unconfirmed: q.now()})
			return err
		}},
		{"/action/", func() error {
			_, err := e.Identities.GetAction(q.Context(), &keytreev1.GetActionRequest{TxHash: hash, AtHeight: q.asOf(), Unconfirmed: q.now()})
			return err
		}},
		{"/chain/", func() error {
			_, err := e.Anchors.GetAnchorChain(q.Context(), &keytreev1.GetAnchorChainRequest{ChainTxHash: hash, AtHeight: q.asOf()})
			return err
		}},
		{"/anchor/", func() error {
			_, err := e.Anchors.GetAnchor(q.Context(), &keytreev1.GetAnchorRequest{TxHash: hash, AtHeight: q.asOf(), Unconfirmed: q.now()})
			return err
		}},
	} {
		if err := try.ask(); err == nil {
			return try.path + hash, nil
		} else if !notFound(err) {
			return "", err
		}
	}
	return "", status.Errorf(codes.NotFound, "As of block %d, nothing is known by %s: no identity, no request, accept or revoke, no anchor. Blocks are found by their heights.", q.page.AsOf, ends(hash, 8, 6))
}
