package client

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/protocol"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

const (
	// MaxBatch is how many addresses one call resolves; BatchResolve makes several calls
	// for more.
	MaxBatch = 10_000
	// atOnce is how many of those calls are made at once.
	atOnce = 4
	// pageSize is how many elements of a list one call asks for.
	pageSize = 1000
)

// ErrReorganised says that the block that an answer was as of left the chain while the answer
// was put together, or was the tip and is not any more where what is unconfirmed was asked for: ask again.
var ErrReorganised = errors.New("the block that the answer is as of was reorganised away meanwhile")

// ErrMempool says that the server does not know what is pending after the tip, and why. Try again
// later, or ask a server that watches a mempool.
var ErrMempool = errors.New("the mempool is not known")

// errAnswer says that an answer is not one to what was asked.
var errAnswer = errors.New("the server's answer does not belong to the question")

// View asks as of one block: the tip at the time of each call, or the block of Client.At.
// OUT_OF_RANGE if there is no such block. That of Client.Unconfirmed asks as well what would differ if what
// is pending were the next block. It is safe for concurrent use.
type View struct {
	identities keytreev1.IdentityServiceClient
	anchors    keytreev1.AnchorServiceClient
	at         *uint32 // nil: the tip

	unconfirmed bool // ask as well what would differ
}

// Resolve tells which identity is behind an address. A key that was never in a link is its
// own.
func (v View) Resolve(ctx context.Context, address string) (*Resolution, error) {
	return v.identities.ResolveAddress(ctx, &keytreev1.ResolveAddressRequest{Address: address, AtHeight: v.at, Unconfirmed: v.unconfirmed})
}

// BatchResolve resolves any number of addresses as of one block, in their order, each with
// its path only if paths are wanted. More than MaxBatch are asked for in pieces, some at
// once: ErrReorganised if the block leaves the chain between two of them, or, with what is
// unconfirmed, is not the tip any more. One bad address
// fails all; the error names it as addresses[i], in its piece.
func (v View) BatchResolve(ctx context.Context, addresses []string, paths bool) ([]*Resolution, error) {
	if len(addresses) == 0 {
		return nil, nil
	}
	first, height, hash, err := v.batch(ctx, addresses[:min(MaxBatch, len(addresses))], paths)
	if err != nil || len(addresses) <= MaxBatch {
		return first, err
	}
	all := make([]*Resolution, len(addresses))
	copy(all, first)
	if !v.unconfirmed { // which goes with the tip alone: it is looked at whether that stays
		v.at = &height
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for from := MaxBatch; from < len(addresses); from += MaxBatch {
		group.Go(func() error {
			piece, _, as, err := v.batch(ctx, addresses[from:min(from+MaxBatch, len(addresses))], paths)
			switch code := status.Code(err); {
			case err == nil && as != hash && v.unconfirmed:
				return fmt.Errorf("%w, or another one came", ErrReorganised)
			case err == nil && as != hash, code == codes.Aborted, code == codes.OutOfRange: // there was such a height
				return ErrReorganised
			case err != nil:
				return fmt.Errorf("from address %d on: %w", from, err)
			}
			copy(all[from:], piece)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return all, nil
}

// batch resolves what fits into one call, and tells as of which block.
func (v View) batch(ctx context.Context, addresses []string, paths bool) (all []*Resolution, height uint32, hash string, err error) {
	answer, err := v.identities.BatchResolve(ctx, &keytreev1.BatchResolveRequest{Addresses: addresses, AtHeight: v.at, Unconfirmed: v.unconfirmed, OmitPath: !paths})
	if err != nil {
		return nil, 0, "", err
	}
	if len(answer.Resolutions) != len(addresses) {
		return nil, 0, "", fmt.Errorf("%w: expected %d resolutions, got %d", errAnswer, len(addresses), len(answer.Resolutions))
	}
	return answer.Resolutions, answer.AsOfHeight, answer.AsOfHash, nil
}

// Identity describes the identity with an id, also one that was merged into another.
// NOT_FOUND if there is none.
func (v View) Identity(ctx context.Context, id string) (*Identity, error) {
	return v.identities.GetIdentity(ctx, &keytreev1.GetIdentityRequest{IdTxHash: id, AtHeight: v.at, Unconfirmed: v.unconfirmed})
}

// Action tells what has become of the action in a transaction. NOT_FOUND if there is none.
func (v View) Action(ctx context.Context, txid string) (*Action, error) {
	return v.identities.GetAction(ctx, &keytreev1.GetActionRequest{TxHash: txid, AtHeight: v.at, Unconfirmed: v.unconfirmed})
}

// Keys lists the keys of the identity with an id, depth first from its root. All lists here
// are as of one block from beginning to end, and end with the first error, which is ABORTED
// if that block leaves the chain meanwhile: begin again.
func (v View) Keys(ctx context.Context, id string) iter.Seq2[*Key, error] {
	return list(func(token string) ([]*Key, string, error) {
		page, err := v.identities.ListIdentityKeys(ctx, &keytreev1.ListIdentityKeysRequest{IdTxHash: id, AtHeight: v.at, Unconfirmed: v.unconfirmed, PageSize: pageSize, PageToken: token})
		return page.GetKeys(), page.GetNextPageToken(), err
	})
}

// Actions lists the actions by and about a key in the order of their positions.
func (v View) Actions(ctx context.Context, address string) iter.Seq2[*Action, error] {
	return list(func(token string) ([]*Action, string, error) {
		page, err := v.identities.ListAddressActions(ctx, &keytreev1.ListAddressActionsRequest{Address: address, AtHeight: v.at, Unconfirmed: v.unconfirmed, PageSize: pageSize, PageToken: token})
		return page.GetActions(), page.GetNextPageToken(), err
	})
}

// UnconfirmedActions lists the actions by and about a key that would be otherwise, or be there as
// well, if what is pending were the next block, as they would be then: of those that are pending about the first
// 1,000, Client.Mempool has all. ErrMempool if the server does not know what is
// pending, or the tip moves meanwhile.
func (v View) UnconfirmedActions(ctx context.Context, address string) iter.Seq2[*Action, error] {
	return list(func(token string) ([]*Action, string, error) {
		page, err := v.identities.ListAddressActions(ctx, &keytreev1.ListAddressActionsRequest{Address: address, AtHeight: v.at, Unconfirmed: true, PageSize: pageSize, PageToken: token})
		return page.GetUnconfirmed().GetActions(), page.GetNextPageToken(), known(page.GetUnconfirmed(), err)
	})
}

// Requests lists the link requests that name a key as the parent, the newest first: those in a state, which is open,
// accepted, cut or refused, or all of them, whatever their state, with all; "" means open. Anybody can send them: what
// their messages say is not verified.
func (v View) Requests(ctx context.Context, address, state string) iter.Seq2[*LinkRequest, error] {
	return list(func(token string) ([]*LinkRequest, string, error) {
		page, err := v.requests(ctx, address, state, token)
		return page.GetRequests(), page.GetNextPageToken(), err
	})
}

// UnconfirmedRequests lists up to 1,000 of the link requests that name a key as the parent and are pending, or
// would come into the state or leave it if what is pending were the next block, as they would be then: first the pending ones, whose
// field Pending is set. ErrMempool if the server does not know what is pending.
func (v View) UnconfirmedRequests(ctx context.Context, address, state string) iter.Seq2[*LinkRequest, error] {
	v.unconfirmed = true
	return list(func(string) ([]*LinkRequest, string, error) {
		page, err := v.requests(ctx, address, state, "")
		return page.GetUnconfirmed().GetRequests(), "", known(page.GetUnconfirmed(), err)
	})
}

func (v View) requests(ctx context.Context, address, state, token string) (*keytreev1.ListAddressRequestsResponse, error) {
	return v.identities.ListAddressRequests(ctx, &keytreev1.ListAddressRequestsRequest{Address: address, State: state, AtHeight: v.at, Unconfirmed: v.unconfirmed, PageSize: pageSize, PageToken: token})
}

// Links lists the links in force directly below a key, in the order in which they came.
func (v View) Links(ctx context.Context, address string) iter.Seq2[*ChildLink, error] {
	return list(func(token string) ([]*ChildLink, string, error) {
		page, err := v.links(ctx, address, token)
		return page.GetLinks(), page.GetNextPageToken(), err
	})
}

// UnconfirmedLinks lists up to 1,000 of the links directly below a key that would come, or be cut, if what is
// pending were the next block. ErrMempool if the server does not know what is pending.
func (v View) UnconfirmedLinks(ctx context.Context, address string) iter.Seq2[*ChildLink, error] {
	v.unconfirmed = true
	return list(func(string) ([]*ChildLink, string, error) {
		page, err := v.links(ctx, address, "")
		return page.GetUnconfirmed().GetLinks(), "", known(page.GetUnconfirmed(), err)
	})
}

func (v View) links(ctx context.Context, address, token string) (*keytreev1.ListAddressLinksResponse, error) {
	return v.identities.ListAddressLinks(ctx, &keytreev1.ListAddressLinksRequest{Address: address, AtHeight: v.at, Unconfirmed: v.unconfirmed, PageSize: pageSize, PageToken: token})
}

// known returns ErrMempool if an answer without an error does not know what is pending.
func known(u *Unconfirmed, err error) error {
	if err == nil && !u.GetAvailable() {
		err = fmt.Errorf("%w: %s", ErrMempool, u.GetReason())
	}
	return err
}

// AnchorChains lists the chains of anchors for a domain. Anybody can begin one for any
// domain: a keyserver's own is told by its genesis anchor, not by the domain.
func (v View) AnchorChains(ctx context.Context, domain string) iter.Seq2[*AnchorChain, error] {
	return list(func(token string) ([]*AnchorChain, string, error) {
		page, err := v.anchors.ListAnchorChains(ctx, &keytreev1.ListAnchorChainsRequest{Domain: domain, AtHeight: v.at, Unconfirmed: v.unconfirmed, PageSize: pageSize, PageToken: token})
		return page.GetChains(), page.GetNextPageToken(), err
	})
}

// AnchorChain describes the chain of anchors that begins with a transaction. NOT_FOUND if
// none does.
func (v View) AnchorChain(ctx context.Context, genesis string) (*AnchorChain, error) {
	return v.anchors.GetAnchorChain(ctx, &keytreev1.GetAnchorChainRequest{ChainTxHash: genesis, AtHeight: v.at, Unconfirmed: v.unconfirmed})
}

// Anchors lists the anchors of the chain that begins with a transaction, in its order.
func (v View) Anchors(ctx context.Context, genesis string) iter.Seq2[*Anchor, error] {
	return list(func(token string) ([]*Anchor, string, error) {
		page, err := v.anchors.ListAnchors(ctx, &keytreev1.ListAnchorsRequest{ChainTxHash: genesis, AtHeight: v.at, Unconfirmed: v.unconfirmed, PageSize: pageSize, PageToken: token})
		return page.GetAnchors(), page.GetNextPageToken(), err
	})
}

// list yields the elements of all pages that ask returns, each with the token of the next
// one, "" at the end.
func list[E any](ask func(token string) (page []E, next string, err error)) iter.Seq2[E, error] {
	return func(yield func(E, error) bool) {
		var none E
		for token := ""; ; {
			page, next, err := ask(token)
			if err == nil && next != "" && next == token {
				err = fmt.Errorf("%w: the next page is the same as this one", errAnswer)
			}
			if err != nil {
				yield(none, err)
				return
			}
			for _, element := range page {
				if !yield(element, nil) {
					return
				}
			}
			if token = next; token == "" {
				return
			}
		}
	}
}

// IsAnchor reports whether a transaction of the chain, named by its txid, carries the record
// of an anchor: its output 0 is the baton of a chain of anchors. The server's transaction is
// looked at, not its word.
func (v View) IsAnchor(ctx context.Context, txid string) (bool, error) {
	answer, err := v.anchors.GetAnchor(ctx, &keytreev1.GetAnchorRequest{TxHash: txid, AtHeight: v.at})
	if status.Code(err) == codes.NotFound {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	tx, err := protocol.ParseTx(answer.RawTx)
	if err != nil {
		return false, err
	}
	_, is := tx.Anchor()
	return is, nil
}
