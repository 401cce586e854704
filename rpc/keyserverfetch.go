package rpc

import (
	"context"
	"crypto/sha512"
	"net"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/peer"

	"github.com/keytree-bch/keytree/keyserver"
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
	limits  *callLimits
}

func newFetches(service *keyserver.Service, c ClientLimits) *fetches {
	limits := newCallLimits(c)
	if limits.every != rate.Inf {
		limits.every, limits.burst = rate.Every(fetchEvery), fetchBurst
	}
	return &fetches{service, limits}
}

// fetch hands out a KeyInit to the client that ctx, of withRemote or gRPC, names.
// payment is a token, if one is wanted.
func (f *fetches) fetch(ctx context.Context, hash [sha512.Size]byte, payment string) ([]byte, error) {
	if !f.service.PaidFetch() && !f.allowed(ctx) {
		return f.service.FetchFallback(ctx, hash)
	}
	return f.service.FetchKeyInit(ctx, hash, payment)
}

// allowed takes one fetch out of the client's allowance.
func (f *fetches) allowed(ctx context.Context) bool {
	remote := ""
	if p, ok := peer.FromContext(ctx); ok {
		remote = p.Addr.String()
	}
	return f.limits.allow(remote)
}

// withRemote has fetch know the remote address, HOST:PORT, of a call by HTTP, as gRPC
// tells it of its own.
func withRemote(ctx context.Context, remote string) context.Context {
	return peer.NewContext(ctx, &peer.Peer{Addr: remoteAddr(remote)})
}

// remoteAddr is the net.Addr of HOST:PORT.
type remoteAddr string

var _ net.Addr = remoteAddr("")

func (remoteAddr) Network() string  { return "tcp" }
func (a remoteAddr) String() string { return string(a) }
