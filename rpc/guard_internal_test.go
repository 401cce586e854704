package rpc

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	keyserverrpc "github.com/keytree-bch/keytree/rpc/keyserver"
)

// TestPanicsStayInside makes a handler of each kind panic. The log has the cause
// and the stack, the client neither.
func TestPanicsStayInside(t *testing.T) {
	for name, call := range map[string]func(*Server) string{
		"unary": func(s *Server) string {
			_, err := s.unary(t.Context(), nil, &grpc.UnaryServerInfo{}, func(context.Context, any) (any, error) { panic("a broken invariant") })
			if status.Code(err) != codes.Internal {
				t.Errorf("got %v, want Internal", err)
			}
			return err.Error()
		},
		"stream": func(s *Server) string {
			err := s.stream(nil, &stoppableStream{ctx: t.Context()}, &grpc.StreamServerInfo{}, func(any, grpc.ServerStream) error { panic("a broken invariant") })
			if status.Code(err) != codes.Internal {
				t.Errorf("got %v, want Internal", err)
			}
			return err.Error()
		},
		"REST": func(s *Server) string {
			recorder := httptest.NewRecorder()
			s.guarded(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("a broken invariant") })).
				ServeHTTP(recorder, httptest.NewRequest("GET", "/", nil))
			if recorder.Code != http.StatusInternalServerError {
				t.Errorf("got %d, want 500", recorder.Code)
			}
			return recorder.Body.String()
		},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			s := &Server{log: zerolog.New(&log), observe: func(string, string, time.Duration) {}}
			s.stopping, s.stop = context.WithCancel(t.Context())
			defer s.stop()
			if answer := call(s); strings.Contains(answer, "broken") || strings.Contains(answer, "goroutine") {
				t.Errorf("the client sees %s", answer)
			}
			if !strings.Contains(log.String(), "a broken invariant") || !strings.Contains(log.String(), "goroutine") {
				t.Errorf("the log has %s", log.String())
			}
		})
	}
}

// TestPanicsAreNamedByPattern makes a REST call panic. The log names the call, not what
// was asked for.
func TestPanicsAreNamedByPattern(t *testing.T) {
	var log bytes.Buffer
	s := &Server{
		log: zerolog.New(&log), health: &healthService{}, rates: keyserverrpc.NewAllowances(0).Calls(),
		observe: func(string, string, time.Duration) {},
	}
	mux, err := s.newREST(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = mux.HandlePath("GET", "/v1/addresses/{address}", func(http.ResponseWriter, *http.Request, map[string]string) { panic("a broken invariant") })
	if err != nil {
		t.Fatal(err)
	}
	recorder := httptest.NewRecorder()
	mux.ServeHTTP(recorder, httptest.NewRequest("GET", "/v1/addresses/asked-for", nil))
	if recorder.Code != http.StatusInternalServerError {
		t.Errorf("got %d, want 500", recorder.Code)
	}
	if text := log.String(); !strings.Contains(text, "GET /v1/addresses/{address") || strings.Contains(text, "asked-for") {
		t.Errorf("the log has %s", text)
	}
}
