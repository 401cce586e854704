// Package links publishes link transactions for those who have a wallet: it prepares what a
// wallet is to sign, and sends what one has signed. It has keytree.v1.LinkService over gRPC,
// and the same over REST.
//
// It holds no keys, and does nothing that is not signed. A client never has the node look
// through its outputs: whoever has no index of addresses is not asked for coins. What never
// belongs here: an identity rule, which are asked for (linkcheck); how a node is reached.
package links

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/rs/zerolog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/indexer/coins"
	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/signing"
	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/client/linkcheck"
	"github.com/keytree-bch/keytree/rpc/fault"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// What each client may ask, and all of them at a time: each call costs the node some
// questions, and a transaction that is sent goes to the whole network.
const (
	// callEvery is how often a client may call in the long run, callBurst how often at once.
	callEvery = 5 * time.Second
	callBurst = 20
	// atOnce is how many calls ask the node at a time. Others wait.
	atOnce = 4
	// maxCoins is how many coins a client may name.
	maxCoins = 100
	// maxRead is how many bytes the transactions have together that are read for a call: whoever has paid for them decides how
	// long each is.
	maxRead = 16 << 20
)

// Wallet is where coins come from, and where transactions go to.
type Wallet interface {
	coins.Source
	coins.Sender
}

// Access is a Wallet, as far as strangers may use it.
type Access struct {
	Wallet
	// Indexed says that to ask for the coins of an address costs no scan of all outputs.
	Indexed bool
	// Close ends the connections that it has.
	Close func() error
}

// Config is what the service works with. All of it stays the caller's.
type Config struct {
	Net *chaincfg.Params
	// Server tells what would become of an action.
	Server linkcheck.Server
	// Dial connects to whom transactions are made and sent through, when the first call asks
	// for it; nil: there is nobody.
	Dial func(ctx context.Context) (*Access, error)
	Log  zerolog.Logger
}

// Service is keytree.v1.LinkService. It may be used concurrently, and keeps nothing between
// calls but its connection.
type Service struct {
	keytreev1.UnimplementedLinkServiceServer
	c     Config
	rates *admission.Rates
	turns chan struct{} // holds a value for each call that asks the node

	mu     sync.Mutex // held while somebody connects
	access *Access    // mu; nil: nobody has connected yet
}

// New returns the service. It connects to nobody before it is called.
func New(c Config) *Service {
	return &Service{c: c, rates: admission.NewRates("links", callEvery, callBurst), turns: make(chan struct{}, atOnce)}
}

// Close ends the connection. No call may go on, or follow.
func (s *Service) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.access == nil {
		return nil
	}
	return s.access.Close()
}

// Register adds the service to a gRPC server.
func (s *Service) Register(server *grpc.Server) { keytreev1.RegisterLinkServiceServer(server, s) }

// RegisterREST adds the service to REST.
func (s *Service) RegisterREST(mux *runtime.ServeMux) error {
	return keytreev1.RegisterLinkServiceHandlerServer(context.Background(), mux, s)
}

var errNobody = status.Error(codes.Unavailable, "this server is not connected to a node that takes transactions; try again later")

// reading is an Access for one call, which reads no more than maxRead.
type reading struct {
	*Access
	read int // bytes so far
}

// Transaction implements coins.Source.
func (r *reading) Transaction(ctx context.Context, txid chainhash.Hash) ([]byte, error) {
	if r.read > maxRead {
		return nil, status.Errorf(codes.FailedPrecondition, "the transactions that have the coins are more than %d bytes together: take fewer coins, or those of shorter transactions", maxRead)
	}
	raw, err := r.Access.Transaction(ctx, txid)
	r.read += len(raw)
	return raw, err
}

// enter lets a call ask the node, until leave is called.
func (s *Service) enter(ctx context.Context) (r *reading, leave func(), err error) {
	if err := s.rates.Take(admission.ClientOf(ctx), 1); err != nil {
		return nil, nil, err
	}
	admission.Elsewhere(ctx)
	select {
	case s.turns <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, status.FromContextError(ctx.Err()).Err()
	}
	leave = func() { <-s.turns }
	a, err := s.connected(ctx)
	if err != nil {
		leave()
		return nil, nil, s.fault(err)
	}
	return &reading{Access: a}, leave, nil
}

// dialTimeout is how long a call waits for a connection.
const dialTimeout = 5 * time.Second

// connected returns the connection, which it makes if there is none.
func (s *Service) connected(ctx context.Context) (*Access, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.access != nil {
		return s.access, nil
	}
	if s.c.Dial == nil {
		return nil, errNobody
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	a, err := s.c.Dial(ctx)
	if err != nil {
		s.c.Log.Warn().Err(err).Msg("links: nobody could be connected to for coins and transactions")
		return nil, errNobody
	}
	s.access = a
	return a, nil
}

// expect asks what would become of an action. The error is a *linkcheck.Refusal, or
// linkcheck.ErrNoAction, or has a status.
func (s *Service) expect(ctx context.Context, a *reading, act linkcheck.Action) (linkcheck.Expected, error) {
	checker := &linkcheck.Checker{
		Server: s.c.Server, Name: "this one", Network: s.c.Net, Note: func(string) {},
		Unconfirmed: func(ctx context.Context, txid chainhash.Hash) (raw []byte, known bool, err error) {
			raw, err = a.Transaction(ctx, txid)
			if errors.Is(err, node.ErrNotFound) {
				return nil, false, nil
			}
			return raw, err == nil, err
		},
	}
	return checker.Expect(ctx, act)
}

// fault is the status of an error.
func (s *Service) fault(err error) error {
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	case errors.Is(err, coins.ErrCoin):
		return fault.Field(codes.InvalidArgument, "coins", "%v", err)
	case errors.Is(err, signing.ErrRefused):
		return fault.Field(codes.InvalidArgument, "signed_transaction", "%v", err)
	case errors.Is(err, protocol.ErrInsufficientFunds), errors.As(err, new(*linkcheck.Refusal)):
		return status.Errorf(codes.FailedPrecondition, "%v", err)
	case errors.Is(err, node.ErrRejected):
		// Before that stands which node it was, and addresses of the operator's machines are not for strangers.
		_, why, _ := strings.Cut(err.Error(), node.ErrRejected.Error())
		return status.Errorf(codes.FailedPrecondition, "%v%s", node.ErrRejected, why)
	case errors.Is(err, linkcheck.ErrNoAction):
		return fault.Field(codes.NotFound, "ref_tx_hash", "%v", err)
	case errors.Is(err, node.ErrUnavailable), errors.Is(err, node.ErrUnsuitable), errors.Is(err, node.ErrInvalid), errors.Is(err, node.ErrNotFound):
		// Addresses of the operator's machines are not for strangers.
		s.c.Log.Warn().Err(err).Msg("links: the node, or who is asked for coins, could not be asked")
		return errNobody
	}
	if code := status.Code(err); code != codes.Unknown {
		return err
	}
	s.c.Log.Error().Err(err).Msg("links: a call could not be answered")
	return fault.ErrInternal
}
