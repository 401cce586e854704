package rpc

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/net/netutil"
)

// metricsConnections is how many connections to a MetricsServer are open. Its operator needs one
// or two, and clients' budgets do not hold for it: he wants to look when they are full.
const metricsConnections = 16

// MetricsConfig is what a MetricsServer works with.
type MetricsConfig struct {
	Handler http.Handler // as metrics.Metrics.Handler
	TLS     *tls.Config  // as Config.TLS
	Hosts   []string     // as Config.Hosts
	Log     zerolog.Logger
}

// MetricsServer is for an operator's Prometheus. It asks nobody who he is.
type MetricsServer struct {
	http *http.Server
	gate sync.RWMutex // read-locked by every handler, locked for good when Serve has ended
}

// NewMetricsServer prepares a server. Nothing is running before Serve.
func NewMetricsServer(c MetricsConfig) *MetricsServer {
	s := new(MetricsServer)
	own := http.NewCrossOriginProtection()
	s.http = &http.Server{
		Handler: named(c.Hosts, own.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !s.gate.TryRLock() {
				http.Error(w, "the server is shutting down", http.StatusServiceUnavailable)
				return
			}
			defer s.gate.RUnlock()
			c.Handler.ServeHTTP(w, r)
		}))),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      2 * time.Minute, // of a profile over so many seconds
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		TLSConfig:         c.TLS.Clone(),
		ErrorLog:          newHTTPLog(c.Log, "metrics"),
	}
	return s
}

// Serve answers on the listener, which it closes, until ctx is done, which is no error, or it
// fails. What goes on then has ShutdownGrace to end. A MetricsServer serves once.
func (s *MetricsServer) Serve(ctx context.Context, listener net.Listener) error {
	limited := netutil.LimitListener(listener, metricsConnections)
	served := make(chan error, 1)
	go func() {
		if s.http.TLSConfig != nil {
			served <- s.http.ServeTLS(limited, "", "")
			return
		}
		served <- s.http.Serve(limited)
	}()
	return endHTTP(ctx, s.http, &s.gate, served, "metrics on "+listener.Addr().String())
}
