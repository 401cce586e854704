package rpc

import (
	"context"
	"log"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/rs/zerolog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/fault"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/push"
	"github.com/keytree-bch/keytree/rpc/rest"
)

// unary bounds the time of a call and keeps a panic from the client.
func (s *Server) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (answer any, err error) {
	began := time.Now()
	defer func() {
		s.observe(strings.TrimPrefix(info.FullMethod, "/"), status.Code(err).String(), time.Since(began))
	}()
	defer func() {
		if cause := recover(); cause != nil {
			fault.LogPanic(s.log, info.FullMethod, cause)
			answer, err = nil, fault.ErrInternal
		}
	}()
	if err := s.admit(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, admission.RequestTimeout)
	defer cancel()
	return handler(ctx, request)
}

// admit refuses what a client asks of the keyserver above its allowance.
func (s *Server) admit(ctx context.Context, method string) error {
	if !strings.HasPrefix(method, "/"+keytreev1.KeyserverService_ServiceDesc.ServiceName+"/") {
		return nil
	}
	admission.Elsewhere(ctx)
	return s.rates.Take(admission.ClientOf(ctx), 1)
}

// stream ends a stream when the server stops, and keeps a panic from the client.
func (s *Server) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			fault.LogPanic(s.log, info.FullMethod, cause)
			err = fault.ErrInternal
		}
	}()
	if err := s.admit(stream.Context(), info.FullMethod); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	defer context.AfterFunc(s.stopping, cancel)()

	err = handler(srv, &stoppableStream{stream, ctx})
	if status.Code(err) == codes.Canceled && s.stopping.Err() != nil {
		return push.ErrStopping
	}
	return err
}

// stoppableStream is a stream whose context also ends with the server.
type stoppableStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *stoppableStream) Context() context.Context { return s.ctx }

// guarded does for REST, which calls the services without passing gRPC's
// interceptors, what unary does for gRPC.
func (s *Server) guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.gate.TryRLock() {
			refuse(w, r, http.StatusServiceUnavailable, push.ErrStopping)
			return
		}
		defer s.gate.RUnlock()
		defer contain(w, s.log, "REST")
		ctx, cancel := s.timed(r)
		defer cancel()
		ctx, tail := admission.WithTail(ctx)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		next.ServeHTTP(w, r.WithContext(ctx))
		tail.Run()
	})
}

// timed returns a context for a request, which ends when its time is up: a stream's, when the
// server stops.
func (s *Server) timed(r *http.Request) (context.Context, context.CancelFunc) {
	if !push.IsStream(r) {
		return context.WithTimeout(r.Context(), admission.RequestTimeout)
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	ignored := context.AfterFunc(s.stopping, func() { cancel(push.ErrStopping) })
	return ctx, func() {
		ignored()
		cancel(nil)
	}
}

// kindOf says of which kind a request over HTTP is.
func kindOf(r *http.Request) admission.Kind {
	if push.IsStream(r) {
		return admission.Stream
	}
	return admission.Request
}

// refuseHTTP answers a request that was not let in.
func refuseHTTP(w http.ResponseWriter, r *http.Request, why *admission.Refusal) {
	refuse(w, r, why.HTTPStatus(), why)
}

// refusedTo is refuseHTTP for pages of some origins, which may read it.
func refusedTo(origins []string) admission.Refuse {
	type key struct{}
	refusing := shared(origins, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		why, _ := r.Context().Value(key{}).(*admission.Refusal)
		refuseHTTP(w, r, why)
	}))
	return func(w http.ResponseWriter, r *http.Request, why *admission.Refusal) {
		refusing.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), key{}, why)))
	}
}

// refuse answers a request that nobody answers. A stream is refused as a stream.
func refuse(w http.ResponseWriter, r *http.Request, code int, err error) {
	if push.IsStream(r) {
		push.Refuse(w, err)
		return
	}
	rest.WriteError(w, code, err)
}

// observed tells of each REST call that has an end of its own, by its pattern, and how it ended.
func (s *Server) observed(next runtime.HandlerFunc) runtime.HandlerFunc {
	var call rest.Call
	return func(w http.ResponseWriter, r *http.Request, path map[string]string) {
		if push.IsStream(r) {
			next(w, r, path)
			return
		}
		began, answer := time.Now(), &codedWriter{ResponseWriter: w, code: http.StatusOK}
		defer func() {
			s.observe(strings.ReplaceAll(call.Pattern(r), "=*}", "}"), strconv.Itoa(answer.code), time.Since(began))
		}()
		next(answer, r, path)
	}
}

// codedWriter remembers the status of an answer.
type codedWriter struct {
	http.ResponseWriter
	code int
}

// WriteHeader implements http.ResponseWriter.
func (w *codedWriter) WriteHeader(code int) {
	w.code = code
	w.ResponseWriter.WriteHeader(code)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *codedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// contained keeps a panic in a REST call from the client, and names the call in the log
// by its pattern: the path has the address that was asked for.
func contained(log zerolog.Logger) runtime.Middleware {
	return func(next runtime.HandlerFunc) runtime.HandlerFunc {
		var call rest.Call
		return func(w http.ResponseWriter, r *http.Request, path map[string]string) {
			defer contain(w, log, call.Pattern(r))
			next(w, r, path)
		}
	}
}

// contain, deferred, answers and logs a panic. One that breaks the connection off goes on
// to net/http, which does that.
func contain(w http.ResponseWriter, log zerolog.Logger, call string) {
	cause := recover()
	switch cause {
	case nil:
	case http.ErrAbortHandler:
		panic(cause)
	default:
		fault.LogPanic(log, call, cause)
		rest.WriteError(w, http.StatusInternalServerError, fault.ErrInternal)
	}
}

// newHTTPLog sends what net/http has to say about connections to the log: the first lines of a second,
// since strangers cause some, such as those about TLS handshakes, as often as they like and at no cost.
func newHTTPLog(to zerolog.Logger, server string) *log.Logger {
	return log.New(to.With().Str("server", server).Logger().Sample(&zerolog.BurstSampler{Burst: 10, Period: time.Second}), "", 0)
}
