package rpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// OperatorServer does for an operator what cannot be done from outside while a server has the
// database open. It asks nobody who he is: whoever reaches
// its listener is the operator, so that must be a socket that only he can open.
type OperatorServer struct {
	http *http.Server
	gate sync.RWMutex // read-locked by every handler, locked for good when Serve has ended
}

// NewOperatorServer prepares a server of requests of package operator. Nothing is running before
// Serve.
func NewOperatorServer(requests http.Handler, log zerolog.Logger) *OperatorServer {
	s := new(OperatorServer)
	s.http = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !s.gate.TryRLock() {
				http.Error(w, "the server is shutting down", http.StatusServiceUnavailable)
				return
			}
			defer s.gate.RUnlock()
			requests.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: 5 * time.Second,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          newHTTPLog(log, "operator"),
	}
	return s
}

// Serve answers on the listener, which it closes, until ctx is done, which is no
// error, or it fails. What goes on then has ShutdownGrace to end.
func (s *OperatorServer) Serve(ctx context.Context, listener net.Listener) error {
	served := make(chan error, 1)
	go func() { served <- s.http.Serve(listener) }()
	return endHTTP(ctx, s.http, &s.gate, served, "the operator on "+listener.Addr().String())
}

// endHTTP waits until ctx is done or a server has failed, ends the server, by force
// after ShutdownGrace, and waits for its handlers, which hold the gate.
func endHTTP(ctx context.Context, server *http.Server, gate *sync.RWMutex, served <-chan error, what string) error {
	var failure error
	select {
	case <-ctx.Done():
	case failure = <-served:
	}
	grace, cancel := context.WithTimeout(context.Background(), ShutdownGrace)
	defer cancel()
	if server.Shutdown(grace) != nil {
		server.Close() // nothing is left to do about an error of a dying connection
	}
	gate.Lock()
	if failure != nil {
		return fmt.Errorf("rpc: serving %s: %w", what, failure)
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("rpc: serving %s: %w", what, err)
	}
	return nil
}
