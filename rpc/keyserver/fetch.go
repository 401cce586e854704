package keyserver

import (
	"context"
	"crypto/sha512"
	"time"

	"github.com/keytree-bch/keytree/keyserver"
	"github.com/keytree-bch/keytree/rpc/admission"
)

// How many KeyInits a client may fetch at once, and how often another one then, where
// clients are told apart. KeyInits are somebody's supply: without a limit one client could
// use up that of everybody.
const (
	fetchBurst = 500
	fetchEvery = 10 * time.Second
)

// fetches hands out KeyInits. A client that has fetched too many still gets those for
// fallback, which fetching does not use up. So the limit is on who fetches: nobody can
// lock somebody's KeyInits for all others. Who pays for each is not limited.
type fetches struct {
	service *keyserver.Service
	rates   *admission.Rates
}

// newFetches returns a fetches that tells clients apart unless callRate is 0.
func newFetches(service *keyserver.Service, callRate int) *fetches {
	if callRate == 0 {
		return &fetches{service, admission.Unlimited()}
	}
	return &fetches{service, admission.NewRates("KeyInits", fetchEvery, fetchBurst)}
}

// fetch hands out a KeyInit to the client that asks, whom admission has put into ctx.
// payment is a token, if one is wanted.
func (f *fetches) fetch(ctx context.Context, hash [sha512.Size]byte, payment string) ([]byte, error) {
	if !f.service.PaidFetch() && !f.allowed(ctx) {
		return f.service.FetchFallback(ctx, hash)
	}
	return f.service.FetchKeyInit(ctx, hash, payment)
}

// allowed takes one fetch out of the client's allowance.
func (f *fetches) allowed(ctx context.Context) bool {
	return f.rates.Take(admission.ClientOf(ctx), 1) == nil
}

// CallRates allows each client so many calls of the keyserver per second, and ten seconds'
// worth at once; 0 allows everything.
func CallRates(callRate int) *admission.Rates {
	if callRate == 0 {
		return admission.Unlimited()
	}
	return admission.NewRates("calls of the keyserver", time.Second/time.Duration(callRate), 10*callRate)
}

// admitKeyInits lets a client add so many KeyInits at once: each has its signatures, as a
// call has.
func admitKeyInits(ctx context.Context, n int) error { return admission.Work(ctx, n-1) }
