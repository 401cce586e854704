package rpc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"maps"
	"math"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/rs/zerolog"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/fault"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// How answers and errors look over REST: field names as in the .proto files, and
// in an answer every field, so that a reader sees "" and 0 too.
var (
	answerJSON = protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}
	errorJSON  = protojson.MarshalOptions{UseProtoNames: true}
)

// newREST returns the handler of all of REST. The services are yet to be registered
// with it.
func newREST(health *healthService, rates *admission.Rates, log zerolog.Logger) (*runtime.ServeMux, error) {
	mux := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, &runtime.JSONPb{MarshalOptions: answerJSON}),
		runtime.WithMiddlewares(contained(log), limited(rates), health.rest, strictQuery(), strictBody),
		runtime.WithErrorHandler(restError),
		runtime.WithRoutingErrorHandler(routingError),
		runtime.WithDisablePathLengthFallback(),
		runtime.WithDisableHTTPMethodOverride(),
	)
	alive := func(w http.ResponseWriter, _ *http.Request, _ map[string]string) {
		writeJSON(w, http.StatusOK, []byte(`{"status":"ok"}`))
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
		writeError(w, http.StatusNotFound, status.Errorf(codes.NotFound, "this server runs no such part: %q, expected one of %s",
			fault.Shortened(path["part"]), strings.Join(slices.Sorted(maps.Keys(parts)), ", ")))
	}
	return mux, errors.Join(
		mux.HandlePath(http.MethodGet, "/healthz", alive),
		mux.HandlePath(http.MethodGet, "/readyz", ready),
		mux.HandlePath(http.MethodGet, "/readyz/{part}", partReady),
	)
}

// writeReadiness writes an answer that tells of a readiness.
func writeReadiness(w http.ResponseWriter, of readiness, answer any) {
	code := http.StatusServiceUnavailable
	if of.Ready {
		code = http.StatusOK
	}
	body, _ := json.Marshal(answer) // booleans and strings always marshal
	writeJSON(w, code, body)
}

// strictQuery refuses what the gateway would overlook or report without naming
// the field: a misspelt at_height must not be answered as of the tip.
func strictQuery() runtime.Middleware {
	calls := queryFields()
	return func(next runtime.HandlerFunc) runtime.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request, path map[string]string) {
			pattern, _ := runtime.HTTPPattern(r.Context())
			if fields, ok := calls[r.Method+" "+pattern.String()]; ok {
				if err := checkQuery(r.URL.RawQuery, fields); err != nil {
					writeError(w, http.StatusBadRequest, err)
					return
				}
			}
			next(w, r, path)
		}
	}
}

// queryFields maps the method and path of every REST call to the fields that its
// query may set: those of the request message that neither path nor body sets.
func queryFields() map[string]map[string]protoreflect.Kind {
	calls := make(map[string]map[string]protoreflect.Kind)
	for method, rule := range restCalls() {
		verb, path := http.MethodGet, rule.GetGet()
		if rule.GetPost() != "" {
			verb, path = http.MethodPost, rule.GetPost()
		}
		fields := make(map[string]protoreflect.Kind)
		calls[verb+" "+strings.ReplaceAll(path, "}", "=*}")] = fields // as runtime.Pattern spells it
		for j := range method.Input().Fields().Len() {
			field := method.Input().Fields().Get(j)
			if rule.GetBody() == "" && !strings.Contains(path, "{"+field.TextName()+"}") {
				fields[field.TextName()] = field.Kind()
			}
		}
	}
	return calls
}

// restCalls yields the calls of all services that can be made over REST.
func restCalls() iter.Seq2[protoreflect.MethodDescriptor, *annotations.HttpRule] {
	return func(yield func(protoreflect.MethodDescriptor, *annotations.HttpRule) bool) {
		for _, file := range []protoreflect.FileDescriptor{
			keytreev1.File_keytree_v1_identity_proto, keytreev1.File_keytree_v1_anchor_proto, keytreev1.File_keytree_v1_keyserver_proto,
		} {
			methods := file.Services().Get(0).Methods()
			for i := range methods.Len() {
				rule, _ := proto.GetExtension(methods.Get(i).Options(), annotations.E_Http).(*annotations.HttpRule)
				if rule != nil && !yield(methods.Get(i), rule) {
					return
				}
			}
		}
	}
}

// limited refuses what a client asks of the keyserver above its allowance.
func limited(rates *admission.Rates) runtime.Middleware {
	return func(next runtime.HandlerFunc) runtime.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request, path map[string]string) {
			if strings.HasPrefix(r.URL.Path, keyserverPath) {
				if err := rates.Take(admission.ClientOf(r.Context()), 1); err != nil {
					writeError(w, http.StatusTooManyRequests, err)
					return
				}
			}
			next(w, r, path)
		}
	}
}

// checkQuery tells whether the gateway will understand every parameter.
func checkQuery(query string, fields map[string]protoreflect.Kind) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return fault.Field(codes.InvalidArgument, "query", "expected name=value pairs joined by &: %v", err)
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		kind, known := fields[name]
		switch {
		case !known && len(fields) == 0:
			return fault.Field(codes.InvalidArgument, fault.Shortened(name), "this call takes no query parameters")
		case !known:
			return fault.Field(codes.InvalidArgument, fault.Shortened(name), "unknown query parameter, expected one of %s",
				strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
		case len(values[name]) > 1:
			return fault.Field(codes.InvalidArgument, name, "given %d times, expected once", len(values[name]))
		case kind == protoreflect.Uint32Kind || kind == protoreflect.Uint64Kind:
			most := uint64(math.MaxUint32)
			if kind == protoreflect.Uint64Kind {
				most = math.MaxUint64
			}
			if n, err := strconv.ParseUint(values.Get(name), 10, 64); err != nil || n > most {
				return fault.Field(codes.InvalidArgument, name, "expected a whole number from 0 to %d, got %q", most, fault.Shortened(values.Get(name)))
			}
		}
	}
	return nil
}

// strictBody reads the body of a POST and refuses what the gateway would take for
// an empty request, or overlook behind the first JSON value. It has to be called JSON:
// a page of another origin can have a browser send any other type unasked.
func strictBody(next runtime.HandlerFunc) runtime.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request, path map[string]string) {
		if r.Method != http.MethodPost {
			next(w, r, path)
			return
		}
		if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
			writeError(w, http.StatusUnsupportedMediaType, fault.Field(codes.InvalidArgument, "Content-Type",
				"expected application/json, got %q", fault.Shortened(r.Header.Get("Content-Type"))))
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, admission.MaxRequest))
		var syntax *json.SyntaxError
		var refusal *admission.Refusal
		switch {
		case errors.As(err, &refusal):
			refuseREST(w, refusal)
			return
		case errors.As(err, new(*http.MaxBytesError)):
			writeError(w, http.StatusRequestEntityTooLarge,
				fault.Field(codes.ResourceExhausted, "body", "expected at most %d bytes, got more", admission.MaxRequest))
			return
		case err != nil:
			writeError(w, http.StatusBadRequest, fault.Field(codes.InvalidArgument, "body", "cannot be read to its end"))
			return
		case len(bytes.TrimSpace(body)) == 0:
			writeError(w, http.StatusBadRequest,
				fault.Field(codes.InvalidArgument, "body", "expected a JSON object with the fields of the request, got nothing"))
			return
		case errors.As(json.Unmarshal(body, new(json.RawMessage)), &syntax):
			writeError(w, http.StatusBadRequest,
				fault.Field(codes.InvalidArgument, "body", "expected a JSON object, got what is no JSON from byte %d on: %v", syntax.Offset, syntax))
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		next(w, r, path)
	}
}

// restError writes the error of a call. Only the gateway's own complaint about a
// body that is JSON, but not the request's, comes without naming the field.
func restError(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, err error) {
	st := status.Convert(err)
	if st.Code() == codes.InvalidArgument && len(st.Details()) == 0 && r.Method == http.MethodPost {
		err = bodyError(st.Message())
	}
	writeError(w, runtime.HTTPStatusFromCode(st.Code()), err)
}

// routingError answers a path or method that no call has.
func routingError(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, code int) {
	switch code {
	case http.StatusMethodNotAllowed:
		allowed := "GET, HEAD, OPTIONS"
		for _, rule := range restCalls() {
			if rule.GetPost() == r.URL.Path {
				allowed = "POST, OPTIONS"
			}
		}
		w.Header().Set("Allow", allowed)
		if r.Method == http.MethodOptions {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		writeError(w, code, status.Errorf(codes.Unimplemented, "%s is not a method of this path, expected %s", fault.Shortened(r.Method), allowed))
	case http.StatusNotFound:
		writeError(w, code, status.Errorf(codes.NotFound, "no such path: %q; the paths begin with /v1/, and /healthz and /readyz", fault.Shortened(r.URL.Path)))
	default:
		writeError(w, http.StatusBadRequest, status.Errorf(codes.InvalidArgument, "not a path: %q", fault.Shortened(r.URL.Path)))
	}
}

// headed answers HEAD as GET: net/http leaves the body out.
func headed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			r = r.Clone(r.Context())
			r.Method = http.MethodGet
		}
		next.ServeHTTP(w, r)
	})
}

// refuseREST answers what was not let in.
func refuseREST(w http.ResponseWriter, why *admission.Refusal) { writeError(w, why.HTTPStatus(), why) }

// writeError writes err, a gRPC status, as google.rpc.Status. If it is a refusal, the header
// says, too, when to come back, and the code is its own.
func writeError(w http.ResponseWriter, code int, err error) {
	var refusal *admission.Refusal
	if errors.As(err, &refusal) {
		code = refusal.HTTPStatus()
		w.Header().Set("Retry-After", strconv.Itoa(refusal.Seconds()))
	}
	body, marshalErr := errorJSON.Marshal(status.Convert(err).Proto())
	if marshalErr != nil {
		body = []byte(`{"code":13,"message":"internal error"}`)
	}
	writeJSON(w, code, body)
}

func writeJSON(w http.ResponseWriter, code int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	w.Write(body) // a client that went away is no fault to report
}
