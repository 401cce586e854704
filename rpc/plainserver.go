package rpc

import (
	"context"
	"crypto/tls"
	"log"
	"net"
	"net/http"
	"sync"

	"github.com/keytree-bch/keytree/rpc/admission"
)

// plainServer is a server of HTTP/1 alone, with admission.
type plainServer struct {
	name      string // in errors
	http      *http.Server
	admission *admission.Gate
	refuse    admission.Refuse
	down      func(http.ResponseWriter) // answers while the server ends
	gate      sync.RWMutex              // read-locked by every handler, locked for good when Serve has ended
}

// answer prepares the server. next has admitted in it.
func (s *plainServer) answer(next http.Handler, certificates *tls.Config, errors *log.Logger) {
	s.http = &http.Server{
		Handler:   s.guarded(next),
		ErrorLog:  errors,
		Protocols: new(http.Protocols),
		TLSConfig: s.admission.Handshakes(certificates),
	}
	s.admission.Limit(s.http)
	// HTTP/2 would put many requests behind one connection, and past its limits.
	s.http.Protocols.SetHTTP1(true)
}

// Serve answers on the listener, which it closes, until ctx is done or it fails;
// then it lets calls finish for at most ShutdownGrace. Once it has returned, nothing
// of the server runs any more. It returns nil if ctx ended it. A server serves once.
func (s *plainServer) Serve(ctx context.Context, listener net.Listener) error {
	served := make(chan error, 1)
	go func() { served <- serveHTTP(s.http, s.admission, listener) }()
	return endHTTP(ctx, s.http, &s.gate, served, s.name+" on "+listener.Addr().String())
}

// admitted lets clients in.
func (s *plainServer) admitted(next http.Handler) http.Handler {
	return s.admission.Handler(s.admission.Answers(elsewhere(next), s.refuse), admission.Requests, s.refuse)
}

// elsewhere has calls keep nobody from computing: a keyserver's wait for a disk to have written.
func elsewhere(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		admission.Elsewhere(r.Context())
		next.ServeHTTP(w, r)
	})
}

// guarded keeps handlers from running on when Serve has ended.
func (s *plainServer) guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.gate.TryRLock() {
			s.down(w)
			return
		}
		defer s.gate.RUnlock()
		next.ServeHTTP(w, r)
	})
}
