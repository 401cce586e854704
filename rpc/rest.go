package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/fault"
	"github.com/keytree-bch/keytree/rpc/identity"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rest"
	"github.com/keytree-bch/keytree/rpc/web"
)

// newREST returns the handler of all of REST.
func (s *Server) newREST(services *identity.Services, calls keytreev1.KeyserverServiceServer) (*runtime.ServeMux, error) {
	health := s.health
	mux := rest.NewMux(s.observed, contained(s.log), limited(s.rates), health.rest)
	alive := func(w http.ResponseWriter, _ *http.Request, _ map[string]string) {
		rest.WriteJSON(w, http.StatusOK, []byte(`{"status":"ok"}`))
	}
	ready := func(w http.ResponseWriter, _ *http.Request, _ map[string]string) {
		all, parts := health.readiness()
		writeReadiness(w, all, struct {
			readiness
			Parts map[string]readiness `json:"parts"`
		}{all, parts})
	}
	partReady := func(w http.ResponseWriter, r *http.Request, path map[string]string) {
		_, parts := health.readiness()
		if part, ok := parts[path["part"]]; ok {
			writeReadiness(w, part, part)
			return
		}
		rest.WriteError(w, http.StatusNotFound, status.Errorf(codes.NotFound, "this server runs no such part: %q, expected one of %s",
			fault.Shortened(path["part"]), strings.Join(slices.Sorted(maps.Keys(parts)), ", ")))
	}
	// The mux tries the newest first: what is asked most comes last.
	err := web.Register(mux)
	if health.kept {
		err = errors.Join(err, keytreev1.RegisterKeyserverServiceHandlerServer(context.Background(), mux, calls))
	}
	if health.indexed {
		err = errors.Join(err, s.links.RegisterREST(mux), s.signIn.RegisterREST(mux), s.explorer.Register(mux), s.connect.Register(mux), services.RegisterREST(mux))
	}
	err = errors.Join(err,
		mux.HandlePath(http.MethodGet, "/readyz/{part}", partReady),
		mux.HandlePath(http.MethodGet, "/readyz", ready),
		mux.HandlePath(http.MethodGet, "/healthz", alive),
	)
	return mux, err
}

// writeReadiness writes an answer that tells of a readiness.
func writeReadiness(w http.ResponseWriter, of readiness, answer any) {
	code := http.StatusServiceUnavailable
	if of.Ready {
		code = http.StatusOK
	}
	body, _ := json.Marshal(answer) // booleans and strings always marshal
	rest.WriteJSON(w, code, body)
}

// limited refuses what a client asks of the keyserver above its allowance.
func limited(rates *admission.Rates) runtime.Middleware {
	return func(next runtime.HandlerFunc) runtime.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request, path map[string]string) {
			if strings.HasPrefix(r.URL.Path, rest.KeyserverPath) {
				admission.Elsewhere(r.Context())
				if err := rates.Take(admission.ClientOf(r.Context()), 1); err != nil {
					rest.WriteError(w, http.StatusTooManyRequests, err)
					return
				}
			}
			next(w, r, path)
		}
	}
}
