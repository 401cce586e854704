package rest

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strconv"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/fault"
)

// callError writes the error of a call. Only the gateway's own complaint about a
// body that is JSON, but not the request's, comes without naming the field.
func callError(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, err error) {
	st := status.Convert(err)
	if st.Code() == codes.InvalidArgument && len(st.Details()) == 0 && r.Method == http.MethodPost {
		err = bodyError(st.Message())
	}
	WriteError(w, runtime.HTTPStatusFromCode(st.Code()), err)
}

// routingError answers a path or method that no call has.
func routingError(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, code int) {
	switch code {
	case http.StatusMethodNotAllowed:
		allowed := "GET, HEAD, OPTIONS"
		if r.URL.Path == StreamPath {
			allowed = "GET, HEAD, POST, OPTIONS"
		}
		for _, rule := range calls() {
			if rule.GetPost() == r.URL.Path {
				allowed = "POST, OPTIONS"
			}
		}
		w.Header().Set("Allow", allowed)
		if r.Method == http.MethodOptions {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		WriteError(w, code, status.Errorf(codes.Unimplemented, "%s is not a method of this path, expected %s", fault.Shortened(r.Method), allowed))
	case http.StatusNotFound:
		WriteError(w, code, status.Errorf(codes.NotFound, "no such path: %q; expected one of those in /docs and /openapi.json", fault.Shortened(r.URL.Path)))
	default:
		WriteError(w, http.StatusBadRequest, status.Errorf(codes.InvalidArgument, "not a path: %q", fault.Shortened(r.URL.Path)))
	}
}

// Refuse answers what was not let in.
func Refuse(w http.ResponseWriter, _ *http.Request, why *admission.Refusal) {
	WriteError(w, why.HTTPStatus(), why)
}

// WriteError writes err, a gRPC status, as google.rpc.Status. If that says when to come back, the header does, too. The code
// of a refusal is its own.
func WriteError(w http.ResponseWriter, code int, err error) {
	var refusal *admission.Refusal
	if errors.As(err, &refusal) {
		code = refusal.HTTPStatus()
	}
	if after, said := fault.RetryAfter(err); said {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(after.Seconds()))))
	}
	body, marshalErr := errorJSON.Marshal(status.Convert(err).Proto())
	if marshalErr != nil {
		body = []byte(`{"code":13,"message":"internal error"}`)
	}
	WriteJSON(w, code, body)
}

// WriteJSON writes an answer, or an error, of one piece.
func WriteJSON(w http.ResponseWriter, code int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	w.Write(body) // a client that went away is no fault to report
}
