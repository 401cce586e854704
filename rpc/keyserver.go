package rpc

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/keyserver"
	"github.com/keytree-bch/keytree/keyserver/tlog"
	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/fault"
	"github.com/keytree-bch/keytree/rpc/jsonrpc"
	keyserverrpc "github.com/keytree-bch/keytree/rpc/keyserver"
)

// DefaultCallRate is a rate of calls (keyserver.NewAllowances) that no user of a keyserver reaches.
const DefaultCallRate = 100

// KeyserverConfig is what a KeyserverServer works with.
type KeyserverConfig struct {
	Service *keyserver.Service // stays the caller's; may be closed when Serve has returned
	TLog    *tlog.Log          // of Service, as Service; nil: none is served
	TLS     *tls.Config        // as Config.TLS
	Hosts   []string           // as Config.Hosts
	// Allowances are what each client may ask. A batch counts as many calls as it has. They can be
	// shared with a Server, so that a client has them once. Nil allows everything.
	Allowances *keyserverrpc.Allowances
	Admission  *admission.Gate // as Config.Admission
	// Observe is as Config.Observe, of KeyRepository.CreateUID and OK, or an error's number.
	Observe func(method, code string, took time.Duration)
	Log     zerolog.Logger
}

// KeyserverServer serves a keyserver over its own wire: JSON-RPC 2.0 by HTTP POST,
// the wire that deployed clients speak (keyserver/WIRE.md); and, below /keytree/, its hashchain
// as a transparency log (keyserver/TLOG.md).
type KeyserverServer struct {
	http      *http.Server
	admission *admission.Gate
	gate      sync.RWMutex // read-locked by every handler, locked for good when Serve has ended
}

// allowancesOr returns allowances, or those for everything if they are nil.
func allowancesOr(a *keyserverrpc.Allowances) *keyserverrpc.Allowances {
	if a == nil {
		return keyserverrpc.NewAllowances(0)
	}
	return a
}

// NewKeyserverServer prepares a server. Nothing is running before Serve.
func NewKeyserverServer(c KeyserverConfig) *KeyserverServer {
	s := &KeyserverServer{admission: gateOr(c.Admission)}
	answers := keyserverrpc.NewWire(c.Service, allowancesOr(c.Allowances), c.Observe, c.Log)
	if c.TLog != nil {
		answers = keyserverrpc.WithLog(c.TLog, answers, c.Log)
	}
	s.http = &http.Server{
		Handler:   s.guarded(fromNoPage(c.Hosts, s.admitted(answers))),
		ErrorLog:  newHTTPLog(c.Log, "keyserver"),
		Protocols: new(http.Protocols),
		TLSConfig: c.TLS.Clone(),
	}
	s.admission.Limit(s.http)
	// HTTP/2 would put many requests behind one connection, and past its limits.
	s.http.Protocols.SetHTTP1(true)
	return s
}

// Serve answers on the listener, which it closes, until ctx is done or it fails;
// then it lets calls finish for at most ShutdownGrace. Once it has returned, nothing
// of the server runs any more. It returns nil if ctx ended it. A KeyserverServer
// serves once.
func (s *KeyserverServer) Serve(ctx context.Context, listener net.Listener) error {
	served := make(chan error, 1)
	go func() { served <- serveHTTP(s.http, s.admission, listener) }()
	return endHTTP(ctx, s.http, &s.gate, served, "the keyserver on "+listener.Addr().String())
}

// admitted lets clients in.
func (s *KeyserverServer) admitted(next http.Handler) http.Handler {
	return s.admission.Handler(s.admission.Answers(next, keyserverrpc.Refuse), admission.Requests, keyserverrpc.Refuse)
}

// guarded keeps handlers from running on when Serve has ended.
func (s *KeyserverServer) guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.gate.TryRLock() {
			jsonrpc.Refuse(w, http.StatusServiceUnavailable, jsonrpc.Errorf(keyserverrpc.CodeDown, "the server is shutting down; try again later"))
			return
		}
		defer s.gate.RUnlock()
		next.ServeHTTP(w, r)
	})
}

// fromNoPage refuses what a page in a browser may have asked for. A browser asks before it
// sends JSON to another origin, and is not told that it may; what it says of the page's origin
// is looked at all the same. A page whose name was made to mean this machine has the right
// origin, but the wrong host.
func fromNoPage(hosts []string, next http.Handler) http.Handler {
	origins := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case misdirected(r, hosts):
			jsonrpc.Refuse(w, http.StatusMisdirectedRequest, jsonrpc.Errorf(jsonrpc.CodeInvalidRequest, "Host: "+wrongHost, fault.Shortened(r.Host)))
		case origins.Check(r) != nil:
			jsonrpc.Refuse(w, http.StatusForbidden, jsonrpc.Errorf(jsonrpc.CodeInvalidRequest, otherOrigin))
		default:
			next.ServeHTTP(w, r)
		}
	})
}
