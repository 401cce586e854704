package bchd_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/gcash/bchd/bchrpc/pb"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchutil"
	"github.com/rs/zerolog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/bchd"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
)

// proxy stands in front of a node.
type proxy struct {
	node *grpc.Server

	mu      sync.Mutex
	instead func(http.ResponseWriter) // mu; answers in the node's place, if not nil
}

func (p *proxy) set(instead func(http.ResponseWriter)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.instead = instead
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	instead := p.instead
	p.mu.Unlock()
	if instead != nil {
		instead(w)
		return
	}
	p.node.ServeHTTP(w, r)
}

// serveBehindProxy runs the liar behind a proxy until the test ends.
func serveBehindProxy(t *testing.T, l *liar) (*proxy, bchd.Config) {
	t.Helper()
	cert, key, err := bchutil.NewTLSCertPair("proxy", time.Now().AddDate(1, 0, 0), nil)
	check(t, err)
	file := filepath.Join(t.TempDir(), "cert.pem")
	check(t, os.WriteFile(file, cert, 0o600))
	p := &proxy{node: grpc.NewServer()}
	pb.RegisterBchrpcServer(p.node, l)
	server := httptest.NewUnstartedServer(p)
	server.EnableHTTP2 = true
	server.TLS = &tls.Config{Certificates: []tls.Certificate{must[tls.Certificate](t)(tls.X509KeyPair(cert, key))}}
	server.StartTLS()
	t.Cleanup(server.Close)
	return p, bchd.Config{Address: server.Listener.Addr().String(), CertFile: file, Network: regtest.Params, RetryFor: time.Millisecond}
}

// proxyAnswer is what something in front of the node answers in its place, for
// example while the node or it starts anew.
type proxyAnswer struct {
	want  error
	write func(http.ResponseWriter)
}

const page = "<!DOCTYPE html>\n<html><body><h1>It works</h1></body></html>\n"

func proxyAnswers() map[string]proxyAnswer {
	body := func(want error, kind, text string) proxyAnswer {
		return proxyAnswer{want, func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", kind)
			_, _ = w.Write([]byte(text))
		}}
	}
	status := func(want error, code codes.Code, message string) proxyAnswer {
		return proxyAnswer{want, func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/grpc")
			w.Header().Set("Grpc-Status", fmt.Sprint(int(code)))
			w.Header().Set("Grpc-Message", message)
		}}
	}
	answers := map[string]proxyAnswer{
		"web page":                body(node.ErrUnavailable, "text/html", page),
		"web page for gRPC":       body(node.ErrUnsuitable, "application/grpc", page),
		"JSON":                    body(node.ErrUnavailable, "application/json", `{"message":"no Route matched with those values"}`),
		"nothing":                 {node.ErrUnavailable, func(http.ResponseWriter) {}},
		"nothing of gRPC's":       body(node.ErrUnavailable, "application/grpc", ""),
		"half a message":          body(node.ErrUnavailable, "application/grpc", "\x00\x00\x00\x00\x20half"),
		"a message of nonsense":   body(node.ErrUnavailable, "application/grpc", "\x00\x00\x00\x00\x04\xff\xff\xff\xff"),
		"an empty message, alone": body(node.ErrUnavailable, "application/grpc", "\x00\x00\x00\x00\x00"),
		"hung up":                 {node.ErrUnavailable, func(http.ResponseWriter) { panic(http.ErrAbortHandler) }},
		"busy":                    status(node.ErrUnavailable, codes.ResourceExhausted, "rate limited"),
		"wrong question":          status(node.ErrUnsuitable, codes.InvalidArgument, "no such host"),
		"not logged in":           status(node.ErrUnsuitable, codes.Unauthenticated, ""),
		"not allowed":             status(node.ErrUnsuitable, codes.PermissionDenied, ""),
		"not there":               status(node.ErrUnsuitable, codes.Unimplemented, ""),
	}
	for _, code := range []codes.Code{codes.Canceled, codes.Unknown, codes.DeadlineExceeded, codes.FailedPrecondition, codes.Aborted,
		codes.OutOfRange, codes.Internal, codes.Unavailable, codes.DataLoss, 77} {
		answers[code.String()] = status(node.ErrUnavailable, code, "upstream connect error")
	}
	for _, code := range []int{204, 301, 302, 307, 308, 400, 401, 403, 404, 405, 408, 413, 426, 429, 500, 501, 502, 503, 504} {
		want := node.ErrUnavailable
		if code == 401 || code == 403 || code == 404 {
			want = node.ErrUnsuitable
		}
		answers[http.StatusText(code)] = proxyAnswer{want, func(w http.ResponseWriter) {
			w.Header().Set("Location", "https://login.example/")
			w.WriteHeader(code)
			_, _ = w.Write([]byte(page))
		}}
	}
	return answers
}

// TestProxyWhileRunning asks each kind of question while a proxy answers in the
// node's place: that is never taken for the node's lie, and once it is over the
// question is answered.
func TestProxyWhileRunning(t *testing.T) {
	l := honest()
	l.block = honest().genesis
	l.block.Height = 1
	l.raw = serialized(t, regtest.Params.GenesisBlock)
	p, cfg := serveBehindProxy(t, l)
	c := dial(t, cfg)
	txid := chainhash.DoubleHashH(l.raw) // a transaction of any bytes will do
	for name, ask := range map[string]func(context.Context) error{
		"tip":         func(ctx context.Context) error { _, err := c.Tip(ctx); return err },
		"hash":        func(ctx context.Context) error { _, err := c.BlockHash(ctx, 1); return err },
		"header":      func(ctx context.Context) error { _, err := c.Header(ctx, 1); return err },
		"block":       func(ctx context.Context) error { _, err := c.Block(ctx, *regtest.Params.GenesisHash); return err },
		"transaction": func(ctx context.Context) error { _, err := c.Transaction(ctx, txid); return err },
	} {
		t.Run(name, func(t *testing.T) {
			for name, answer := range proxyAnswers() {
				p.set(answer.write)
				err := ask(t.Context())
				if !errors.Is(err, answer.want) || errors.Is(err, node.ErrInvalid) || errors.Is(err, node.ErrRejected) {
					t.Errorf("%s: got %v, want %v", name, err, answer.want)
				}
				p.set(nil)
				if err := ask(t.Context()); err != nil {
					t.Errorf("after %s: %v", name, err)
				}
			}
		})
	}
}

// TestProxyAtStart dials while a proxy answers in the node's place. It is refused
// or waited for.
func TestProxyAtStart(t *testing.T) {
	p, cfg := serveBehindProxy(t, honest())
	for name, answer := range proxyAnswers() {
		p.set(answer.write)
		ctx, cancel := context.WithCancel(t.Context())
		log := make(lines, 1)
		cfg.Log = zerolog.New(log)
		go func() {
			select {
			case <-log: // it is waited for
				cancel()
			case <-ctx.Done():
			}
		}()
		_, err := bchd.Dial(ctx, cfg)
		cancel()
		if !errors.Is(err, answer.want) || errors.Is(err, node.ErrInvalid) {
			t.Errorf("%s: got %v, want %v", name, err, answer.want)
		}
	}
	p.set(nil)
	dial(t, cfg)
}
