package rpc

import (
	"context"
	"log"
	"net/http"
	"runtime/debug"

	"github.com/rs/zerolog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var (
	errInternal = status.Error(codes.Internal, "internal error; the server's log has the cause")
	errStopping = status.Error(codes.Unavailable, "the server is shutting down; try again later")
)

// unary bounds the time of a call and keeps a panic from the client.
func (s *Server) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (answer any, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			s.logPanic(info.FullMethod, cause)
			answer, err = nil, errInternal
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, RequestTimeout)
	defer cancel()
	return handler(ctx, request)
}

// stream ends a stream when the server stops, and keeps a panic from the client.
func (s *Server) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			s.logPanic(info.FullMethod, cause)
			err = errInternal
		}
	}()
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	defer context.AfterFunc(s.stopping, cancel)()

	err = handler(srv, &stoppableStream{stream, ctx})
	if status.Code(err) == codes.Canceled && s.stopping.Err() != nil {
		return errStopping
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
			writeError(w, http.StatusServiceUnavailable, errStopping)
			return
		}
		defer s.gate.RUnlock()
		defer func() {
			if cause := recover(); cause != nil {
				s.logPanic(r.Method+" "+r.URL.Path, cause)
				writeError(w, http.StatusInternalServerError, errInternal)
			}
		}()
		ctx, cancel := context.WithTimeout(r.Context(), RequestTimeout)
		defer cancel()
		w.Header().Set("X-Content-Type-Options", "nosniff")
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

func (s *Server) logPanic(call string, cause any) {
	s.log.Error().Str("call", call).Any("panic", cause).Bytes("stack", debug.Stack()).Msg("a call panicked")
}

// newHTTPLog sends what net/http has to say about connections to the log.
func newHTTPLog(to zerolog.Logger) *log.Logger {
	return log.New(to.With().Str("server", "REST").Logger(), "", 0)
}
