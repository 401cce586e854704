// Package rpc listens. A [Server] has the gRPC services of package keytree.v1, with health
// and reflection, and REST made from the same .proto files; a [KeyserverServer] has a
// keyserver's own wire, JSON-RPC; an [OperatorServer] is for the keyserver's operator. They
// can be run side by side, on one keyserver. A [MetricsServer] is for the operator's
// Prometheus.
//
// It lets clients in through package admission, over TLS, tells browsers what their pages may
// do, says how healthy the parts are, keeps panics inside, and drains. There is a package for
// the answers to each audience: identity, keyserver, operator. Packages rest and jsonrpc say
// how answers look on a wire, package fault how errors are worded. What never belongs here:
// an answer of a graph or a keyserver.
//
// Nothing that a client sends is trusted. Anonymous clients may ask everything,
// so every request is bounded in size, work and time, and none holds up another.
package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/rs/zerolog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/keyserver"
	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/connect"
	"github.com/keytree-bch/keytree/rpc/explorer"
	"github.com/keytree-bch/keytree/rpc/identity"
	keyserverrpc "github.com/keytree-bch/keytree/rpc/keyserver"
	"github.com/keytree-bch/keytree/rpc/links"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/push"
	"github.com/keytree-bch/keytree/rpc/rest"
	"github.com/keytree-bch/keytree/rpc/signin"
	"github.com/keytree-bch/keytree/rpc/statelog"
)

// ShutdownGrace is how long Serve lets calls finish once it is told to stop. Watch
// streams end at once.
const ShutdownGrace = 5 * time.Second

// Config is what a Server works with: a graph with its indexer and network, a
// keyserver, or both. What it has stays the caller's and may be closed when Serve has
// returned.
type Config struct {
	Graph   *graph.Graph // nil for none; then Indexer and Net are unused
	Indexer identity.Indexer
	Net     *chaincfg.Params // the graph's network
	// IndexPart tells that the index has failed: then its graph may be nil, which could
	// not be opened. KeyserverPart tells so of the keyserver. nil means that neither fails
	// by itself.
	IndexPart, KeyserverPart *Part

	// DialLinks connects to whom LinkService makes and sends transactions through; nil: it
	// answers that there is nobody.
	DialLinks func(ctx context.Context) (*links.Access, error)

	// SignInKey is the secret of SignInService, of signin.NonceKeySize bytes, for servers that are
	// to know each other's challenges; nil: one of the server's own.
	SignInKey []byte

	// StateLog publishes the graph's states; nil: none is published. Blocks are read again for proofs that have transactions; nil: nobody has any.
	StateLog identity.StateLog
	Blocks   identity.Blocks
	// State answers, over HTTP, what is below statelog.Path; nil: nothing is there.
	State http.Handler
	// StatePolicy is explorer.Config's: by what the explorer's pages check state proofs.
	StatePolicy func() string
	// WalletConnect lets the pages on which link requests are answered ask wallets over a relay; nil: they do not.
	WalletConnect *connect.WalletConnect
	WizardConnect *connect.WizardConnect // the same over a relay of WizardConnect

	Keyserver *keyserver.Service // nil for none
	// Allowances are what each client may ask of KeyserverService, as KeyserverConfig.Allowances.
	Allowances *keyserverrpc.Allowances
	// Admission lets clients in. It can be shared with a KeyserverServer. Nil is one of
	// its own with admission.DefaultLimits, which do not hold for the machine itself.
	Admission *admission.Gate

	// Origins are those of whose pages a browser lets the graph's answers be read, as
	// https://example.org; "*" for any. None: of none but the server's own.
	Origins []string
	// Hosts are names, in lower case, under which clients ask over the loopback
	// interface, as through a proxy on this machine, beside localhost and addresses.
	Hosts []string
	// TLS, of a Certificate or of NewACME, has all clients speak TLS; nil is plain text.
	TLS *tls.Config
	// Version is the server's: a cache asks again after it has changed.
	Version string
	// Observe, if not nil, hears of each call with one answer: its method, how it ended, and
	// how long it took. It is called concurrently and must not block. Both words are out of sets that no client
	// adds to: keytree.v1.IdentityService/GetStatus and OK, or GET /v1/status and 200.
	Observe func(method, code string, took time.Duration)

	Log zerolog.Logger
}

// Server serves a graph, a keyserver or both over gRPC and REST.
type Server struct {
	log       zerolog.Logger
	health    *healthService
	grpc      *grpc.Server
	kinds     map[string]admission.Kind // of gRPC calls, by their full names
	http      *http.Server
	rates     *admission.Rates // of KeyserverService
	admission *admission.Gate
	links     *links.Service
	signIn    *signin.Service
	explorer  *explorer.Explorer
	connect   *connect.Pages
	observe   func(method, code string, took time.Duration)

	// stopping is done as soon as Serve begins to stop.
	stopping context.Context
	stop     context.CancelFunc
	// gate is read-locked by every HTTP handler and locked for good at the end of
	// Serve, when no handler may touch the graph any more.
	gate sync.RWMutex
}

// NewServer prepares a server. Nothing is running before Serve.
func NewServer(c Config) (*Server, error) {
	if c.Graph != nil && c.Graph.Params().Network != c.Net.Name {
		return nil, fmt.Errorf("rpc: the graph is of network %s, the server was configured for %s", c.Graph.Params().Network, c.Net.Name)
	}
	allowances := allowancesOr(c.Allowances)
	s := &Server{log: c.Log, health: newHealthService(c), rates: allowances.Calls(), admission: gateOr(c.Admission)}
	if s.observe = c.Observe; s.observe == nil {
		s.observe = func(string, string, time.Duration) {}
	}
	s.stopping, s.stop = context.WithCancel(context.Background())

	wire := insecure.NewCredentials()
	if c.TLS != nil {
		wire = credentials.NewTLS(s.admission.Handshakes(c.TLS))
	}
	services := identity.New(identity.Config{
		Graph: c.Graph, Indexer: c.Indexer, Net: c.Net, StateLog: c.StateLog, Blocks: c.Blocks, Log: c.Log,
	})
	least := awaited{services}
	s.grpc = grpc.NewServer(append(s.admission.ServerOptions(wire, s.kind),
		grpc.MaxRecvMsgSize(admission.MaxRequest),
		grpc.WaitForHandlers(true),
		grpc.ChainUnaryInterceptor(s.unary, s.health.unary, least.unary),
		grpc.ChainStreamInterceptor(s.stream, s.health.stream, least.stream),
	)...)
	calls := keyserverrpc.NewService(c.Keyserver, allowances, c.Log)
	s.links = links.New(links.Config{Net: c.Net, Server: services.Answers(), Dial: c.DialLinks, Log: c.Log})
	var err error
	if s.signIn, err = signin.New(signin.Config{Net: c.Net, Index: services.Answers(), Key: c.SignInKey}); err != nil {
		return nil, fmt.Errorf("rpc: %w", err)
	}
	if s.explorer, err = explorer.New(explorer.Config{Identities: services.Identities(), Anchors: services.Anchors(), Version: c.Version, StatePolicy: c.StatePolicy}); err != nil {
		return nil, fmt.Errorf("rpc: %w", err)
	}
	if s.connect, err = connect.New(connect.Config{Identities: services.Identities(), Version: c.Version, WalletConnect: c.WalletConnect, WizardConnect: c.WizardConnect}); err != nil {
		return nil, fmt.Errorf("rpc: %w", err)
	}
	if s.health.indexed {
		services.Register(s.grpc)
		s.links.Register(s.grpc)
		s.signIn.Register(s.grpc)
	}
	if s.health.kept {
		keytreev1.RegisterKeyserverServiceServer(s.grpc, calls)
	}
	mux, err := s.newREST(services, calls)
	if err != nil {
		return nil, fmt.Errorf("rpc: %w", err)
	}
	answers := s.admission.Answers(rest.Headed(least.rest(services.Cached(c.Version, mux))), refuseHTTP)
	compressed, err := rest.Compressed(answers)
	if err != nil {
		return nil, fmt.Errorf("rpc: %w", err)
	}
	var state http.Handler
	if c.State != nil {
		state = s.admission.Answers(c.State, refuseHTTP)
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if state != nil && strings.HasPrefix(r.URL.Path, statelog.Path) {
			state.ServeHTTP(w, r)
			return
		}
		if push.IsStream(r) { // which nothing holds back
			answers.ServeHTTP(w, r)
			return
		}
		compressed.ServeHTTP(w, r)
	})
	healthpb.RegisterHealthServer(s.grpc, s.health)
	reflection.Register(s.grpc)
	s.kinds = kindsOf(s.grpc)
	s.http = &http.Server{
		Handler:   s.guarded(s.admission.Handler(named(c.Hosts, shared(c.Origins, handler)), kindOf, refusedTo(c.Origins))),
		ErrorLog:  newHTTPLog(c.Log, "REST"),
		TLSConfig: s.admission.Handshakes(c.TLS),
	}
	s.admission.Limit(s.http)
	return s, nil
}

// Serve answers on both listeners, which it closes, until ctx is done or one of
// them fails; then it lets calls finish for at most ShutdownGrace. Once it has
// returned, nothing of the server runs any more. It returns nil if ctx ended it.
// A Server serves once.
func (s *Server) Serve(ctx context.Context, grpcListener, httpListener net.Listener) error {
	serving, fail := context.WithCancelCause(ctx)
	defer fail(nil)

	var running sync.WaitGroup
	running.Go(func() {
		if err := s.grpc.Serve(s.admission.Listen(grpcListener, nil)); err != nil {
			fail(fmt.Errorf("rpc: serving gRPC on %s: %w", grpcListener.Addr(), err))
		}
	})
	running.Go(func() {
		if err := serveHTTP(s.http, s.admission, httpListener); !errors.Is(err, http.ErrServerClosed) {
			fail(fmt.Errorf("rpc: serving REST on %s: %w", httpListener.Addr(), err))
		}
	})
	running.Go(func() { s.health.follow(serving) })

	<-serving.Done()
	s.stop()
	s.health.Shutdown()
	s.drain()
	running.Wait()
	if err := s.links.Close(); err != nil {
		s.log.Warn().Err(err).Msg("closing the connection for link transactions")
	}
	if ctx.Err() != nil {
		return nil
	}
	return context.Cause(serving)
}

// serveHTTP serves those whom a gate lets in until the server is ended, over TLS if it has
// what that takes.
func serveHTTP(s *http.Server, gate *admission.Gate, listener net.Listener) error {
	switch {
	case s.TLSConfig != nil && s.Protocols == nil:
		return gate.ServeTLS(s, listener)
	case s.TLSConfig != nil:
		return s.ServeTLS(gate.Listen(listener, nil), "", "")
	}
	return s.Serve(gate.Listen(listener, admission.FarewellHTTP))
}

// gateOr returns a gate, or one with the default limits if it is nil.
func gateOr(g *admission.Gate) *admission.Gate {
	if g == nil {
		g = admission.New(admission.Config{Limits: admission.DefaultLimits(), Unlimited: admission.Loopback()})
	}
	return g
}

func (s *Server) kind(method string) admission.Kind { return s.kinds[method] }

// kindsOf tells the calls of a server that go on for as long as the client wants from those
// that end.
func kindsOf(server *grpc.Server) map[string]admission.Kind {
	kinds := make(map[string]admission.Kind)
	for service, info := range server.GetServiceInfo() {
		for _, m := range info.Methods {
			kinds["/"+service+"/"+m.Name] = admission.Request
			if m.IsClientStream || m.Name == "Watch" {
				kinds["/"+service+"/"+m.Name] = admission.Stream
			}
		}
	}
	return kinds
}

// drain ends both servers, and by force what goes on after ShutdownGrace.
func (s *Server) drain() {
	grace, cancel := context.WithTimeout(context.Background(), ShutdownGrace)
	defer cancel()

	var draining sync.WaitGroup
	draining.Go(func() {
		if s.http.Shutdown(grace) != nil {
			s.http.Close() // nothing is left to do about an error of a dying connection
		}
		s.gate.Lock()
	})
	draining.Go(func() {
		force := context.AfterFunc(grace, s.grpc.Stop)
		defer force()
		s.grpc.GracefulStop()
	})
	draining.Wait()
}
