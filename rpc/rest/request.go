package rest

import (
	"bytes"
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
	"sync"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/grpc-ecosystem/grpc-gateway/v2/utilities"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/fault"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// strictQuery refuses what the gateway would overlook or report without naming
// the field: a misspelt at_height must not be answered as of the tip.
func strictQuery() runtime.Middleware {
	byPath := queryFields()
	return func(next runtime.HandlerFunc) runtime.HandlerFunc {
		var call Call
		return func(w http.ResponseWriter, r *http.Request, path map[string]string) {
			if fields, ok := byPath[call.Pattern(r)]; ok {
				if err := CheckQuery(r.URL.RawQuery, fields); err != nil {
					WriteError(w, http.StatusBadRequest, err)
					return
				}
			}
			next(w, r, path)
		}
	}
}

// Call is the call that a handler behind a middleware of NewMux serves, which is always the
// same one. It is safe for concurrent use.
type Call struct {
	once sync.Once
	text string // once
}

// Pattern returns the method and the path of the call, as runtime.Pattern spells it, as one
// of its requests has them: GET /v1/addresses/{address=*}.
func (c *Call) Pattern(r *http.Request) string {
	c.once.Do(func() {
		pattern, _ := runtime.HTTPPattern(r.Context())
		c.text = r.Method + " " + pattern.String()
	})
	return c.text
}

// queryFields maps the method and path of every REST call to the fields that its
// query may set: those of the request message that neither path nor body sets.
func queryFields() map[string]map[string]protoreflect.Kind {
	byPath := make(map[string]map[string]protoreflect.Kind)
	for method, rule := range calls() {
		verb, path := http.MethodGet, rule.GetGet()
		if rule.GetPost() != "" {
			verb, path = http.MethodPost, rule.GetPost()
		}
		fields := make(map[string]protoreflect.Kind)
		byPath[verb+" "+strings.ReplaceAll(path, "}", "=*}")] = fields // as runtime.Pattern spells it
		for j := range method.Input().Fields().Len() {
			field := method.Input().Fields().Get(j)
			if rule.GetBody() == "" && !strings.Contains(path, "{"+field.TextName()+"}") {
				fields[field.TextName()] = field.Kind()
			}
		}
	}
	return byPath
}

// calls yields the calls of all services that can be made over REST.
func calls() iter.Seq2[protoreflect.MethodDescriptor, *annotations.HttpRule] {
	return func(yield func(protoreflect.MethodDescriptor, *annotations.HttpRule) bool) {
		for _, file := range []protoreflect.FileDescriptor{
			keytreev1.File_keytree_v1_identity_proto, keytreev1.File_keytree_v1_anchor_proto, keytreev1.File_keytree_v1_keyserver_proto,
			keytreev1.File_keytree_v1_links_proto, keytreev1.File_keytree_v1_signin_proto,
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

// CheckQuery returns what is wrong with a query whose fields have these kinds, as a gRPC
// status: the gateway would overlook it, or not name the field.
func CheckQuery(query string, fields map[string]protoreflect.Kind) error {
	if query == "" {
		return nil
	}
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

// longBody is from how many bytes on reading a request is long work.
const longBody = 16 << 10

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
			WriteError(w, http.StatusUnsupportedMediaType, fault.Field(codes.InvalidArgument, "Content-Type",
				"expected application/json, got %q", fault.Shortened(r.Header.Get("Content-Type"))))
			return
		}
		text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, admission.MaxRequest))
		var syntax *json.SyntaxError
		var refusal *admission.Refusal
		switch {
		case errors.As(err, &refusal):
			Refuse(w, r, refusal)
			return
		case errors.As(err, new(*http.MaxBytesError)):
			WriteError(w, http.StatusRequestEntityTooLarge,
				fault.Field(codes.ResourceExhausted, "body", "expected at most %d bytes, got more", admission.MaxRequest))
			return
		case err != nil:
			WriteError(w, http.StatusBadRequest, fault.Field(codes.InvalidArgument, "body", "cannot be read to its end"))
			return
		}
		if len(text) > longBody {
			if err := admission.Turn(r.Context()); err != nil {
				WriteError(w, runtime.HTTPStatusFromCode(status.Code(err)), err)
				return
			}
		}
		body := newBody(text)
		switch {
		case len(bytes.TrimSpace(text)) == 0:
			WriteError(w, http.StatusBadRequest,
				fault.Field(codes.InvalidArgument, "body", "expected a JSON object with the fields of the request, got nothing"))
			return
		case errors.As(body.syntax(), &syntax):
			WriteError(w, http.StatusBadRequest,
				fault.Field(codes.InvalidArgument, "body", "expected a JSON object, got what is no JSON from byte %d on: %v", syntax.Offset, syntax))
			return
		}
		r.Body = body
		next(w, r, path)
	}
}

// ReadRequest reads what a body and a query say that the middlewares have found well formed.
// What the path says is in the message.
func ReadRequest(r *http.Request, into proto.Message) error {
	if r.Method == http.MethodPost {
		if err := r.Body.(*body).read(into); err != nil {
			return bodyError(err.Error())
		}
		return nil
	}
	if r.URL.RawQuery == "" {
		return nil
	}
	if err := runtime.PopulateQueryParameters(into, r.URL.Query(), utilities.NewDoubleArray(nil)); err != nil {
		return fault.Field(codes.InvalidArgument, "query", "%v", err)
	}
	return nil
}

// bodyError is what is wrong with a body that is JSON, but not the request's.
func bodyError(message string) error {
	// protojson puts a no-break space into its messages to keep them from being relied on.
	return fault.Field(codes.InvalidArgument, "body", "%s", strings.ReplaceAll(message, "\u00a0", " "))
}
