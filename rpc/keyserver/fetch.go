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

// Allowances are how many calls each client may make of a keyserver, and how many KeyInits it may
// fetch, on all of its wires together. All methods may be called concurrently.
type Allowances struct {
	calls, keyInits *admission.Rates
}

// NewAllowances allows each client so many calls per second, and ten seconds' worth at once; 0
// allows any number, of KeyInits as well.
func NewAllowances(callRate int) *Allowances {
	if callRate == 0 {
		return &Allowances{admission.Unlimited(), admission.Unlimited()}
	}
	return &Allowances{
		calls:    admission.NewRates("calls of the keyserver", time.Second/time.Duration(callRate), 10*callRate),
		keyInits: admission.NewRates("KeyInits", fetchEvery, fetchBurst),
	}
}

// Calls are those of calls.
func (a *Allowances) Calls() *admission.Rates { return a.calls }

// Refused returns how often a client was refused a call, and how often a KeyInit, because it had
// used up its allowance.
func (a *Allowances) Refused() (calls, keyInits uint64) {
	return a.calls.Refused(), a.keyInits.Refused()
}

// fetch hands out a KeyInit to the client that asks, whom admission has put into ctx.
// payment is a token, if one is wanted. A client that has fetched too many still gets those for
// fallback, which fetching does not use up. So the limit is on who fetches: nobody can
// lock somebody's KeyInits for all others. Who pays for each is not limited.
func (a *Allowances) fetch(ctx context.Context, from *keyserver.Service, hash [sha512.Size]byte, payment string) ([]byte, error) {
	if !from.PaidFetch() && a.keyInits.Take(admission.ClientOf(ctx), 1) != nil {
		return from.FetchFallback(ctx, hash)
	}
	return from.FetchKeyInit(ctx, hash, payment)
}

// admitKeyInits lets a client add so many KeyInits at once: each has its signatures, as a
// call has.
func admitKeyInits(ctx context.Context, n int) error { return admission.Work(ctx, n-1) }
