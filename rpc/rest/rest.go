// Package rest is REST as all audiences have it: what requests and errors look like, and
// how answers of any length are sent. The calls are those of the .proto files.
//
// What never belongs here: what one call answers, and who may make it.
package rest

import (
	"context"
	"net/http"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/klauspost/compress/gzhttp"
	"github.com/klauspost/compress/gzip"
	"google.golang.org/protobuf/encoding/protojson"
)

var (
	// JSON is how answers look: field names as in the .proto files, and every field, so
	// that a reader sees "" and 0 too.
	JSON = protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}
	// errorJSON is how errors look.
	errorJSON = protojson.MarshalOptions{UseProtoNames: true}
)

const (
	// KeyserverPath begins the paths of calls of the keyserver.
	KeyserverPath = "/v1/keyserver"
	// StreamPath is where streams are, by GET and by POST.
	StreamPath = "/v1/stream"
)

// NewMux returns a handler without calls. A request passes through some middlewares, the
// first one first, before it is read strictly.
func NewMux(before ...runtime.Middleware) *runtime.ServeMux {
	return runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, &runtime.JSONPb{MarshalOptions: JSON}),
		runtime.WithMiddlewares(append(before, strictQuery(), strictBody)...),
		runtime.WithErrorHandler(callError),
		runtime.WithRoutingErrorHandler(routingError),
		runtime.WithDisablePathLengthFallback(),
		runtime.WithDisableHTTPMethodOverride(),
	)
}

// Headed answers HEAD as GET: net/http leaves the body out.
func Headed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			r = r.Clone(context.WithValue(r.Context(), headKey{}, true))
			r.Method = http.MethodGet
		}
		next.ServeHTTP(w, r)
	})
}

// headKey is the key of whether a request asks for a header alone.
type headKey struct{}

// IsHead reports whether a request that Headed has passed on asks for a header alone, for who
// would have no end of a body.
func IsHead(r *http.Request) bool { return r.Context().Value(headKey{}) != nil }

// minGzip is how many bytes an answer has at least that is compressed.
const minGzip = 1024

// Compressed compresses text for clients that accept it. Bundles are of hashes and
// signatures, which do not get shorter. What is compressed has an ETag of its own.
func Compressed(next http.Handler) (http.Handler, error) {
	wrap, err := gzhttp.NewWrapper(gzhttp.MinSize(minGzip), gzhttp.CompressionLevel(gzip.BestSpeed), gzhttp.SuffixETag(gzipped),
		gzhttp.ContentTypes([]string{"application/json", "application/x-ndjson", "text/html", "text/css", "text/javascript"}), gzhttp.EnableZstd(false)) // whose window would take megabytes
	if err != nil {
		return nil, err
	}
	return wrap(matched(next)), nil
}

// gzipped is at the end of the ETag of what is compressed.
const gzipped = "-gzip"

// matched has next compare the ETags of compressed answers, which it does not know, with its own.
func matched(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		const header, ending = "If-None-Match", gzipped + `"`
		if asked := strings.Join(r.Header.Values(header), ","); strings.Contains(asked, ending) && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			r = r.Clone(r.Context())
			r.Header.Set(header, strings.ReplaceAll(asked, ending, `"`))
			w = &matchedWriter{w}
		}
		next.ServeHTTP(w, r)
	})
}

// matchedWriter says of an answer that the client has which ETag it has.
type matchedWriter struct{ http.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w *matchedWriter) WriteHeader(code int) {
	if own, ok := strings.CutSuffix(w.Header().Get("Etag"), `"`); ok && code == http.StatusNotModified {
		w.Header().Set("Etag", own+gzipped+`"`)
	}
	w.ResponseWriter.WriteHeader(code)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *matchedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
