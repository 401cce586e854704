package push

import (
	"cmp"
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/grpc-ecosystem/grpc-gateway/v2/utilities"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/fault"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rest"
)

const (
	// MostInQuery is how many addresses, and how many ids, a query may have. A body may have as many
	// as there may be.
	MostInQuery = 100
	// Comeback is in what time a browser comes back when a stream breaks off, if it is told no other.
	Comeback = 3 * time.Second
	// FarComeback is the same when it has to wait for the server: for its index, or for blocks.
	FarComeback = 10 * time.Second
	// ended is the id of a client that is not to come back: a browser that does is told by 204 to stay away.
	ended = "ended"
)

// Source makes the messages of streams.
type Source interface {
	// Follow returns what tells send what a request asks for, until ctx ends, send fails, or there is nothing more to
	// tell: it has to be called. Errors, of both, are gRPC statuses, or a *Fault.
	Follow(ctx context.Context, request *keytreev1.WatchRequest, send func(*keytreev1.WatchResponse) error) (tell func() error, err error)
}

// ErrStopping is the cause with which the context of a stream ends when the server stops.
var ErrStopping = status.Error(codes.Unavailable, "the server is shutting down; try again later")

// Handler answers GET and POST of rest.StreamPath by server-sent events. The calls' context has to have
// no deadline.
type Handler struct{ source Source }

// NewHandler returns a handler that tells what a source does.
func NewHandler(s Source) *Handler { return &Handler{s} }

// Register adds the handler to REST.
func (h *Handler) Register(mux *runtime.ServeMux) error {
	return errors.Join(
		mux.HandlePath(http.MethodGet, rest.StreamPath, h.serve),
		mux.HandlePath(http.MethodPost, rest.StreamPath, h.serve),
	)
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request, _ map[string]string) {
	if r.Header.Get("Last-Event-Id") == ended {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	request, err := readRequest(r)
	if err != nil {
		rest.WriteError(w, http.StatusBadRequest, err)
		return
	}
	s := &stream{w: w, control: http.NewResponseController(w)}
	if rest.IsHead(r) {
		s.begin()
		return
	}
	admission.EndTurn(r.Context())
	s.control.SetReadDeadline(time.Time{}) // the request is there; without, nothing waits
	ctx := r.Context()
	tell, err := h.source.Follow(ctx, request, s.send)
	if err != nil {
		s.end(ctx, err)
		return
	}
	admission.Later(ctx, func() { s.end(ctx, tell()) })
}

// readRequest reads what is asked for: of a query, of a body, or both, and of the header that a
// browser sends when it comes back.
func readRequest(r *http.Request) (*keytreev1.WatchRequest, error) {
	request := new(keytreev1.WatchRequest)
	fields := map[string]protoreflect.Kind{
		"from_height": protoreflect.Uint32Kind, "known_hash": protoreflect.StringKind, "unconfirmed": protoreflect.BoolKind, "last_id": protoreflect.StringKind,
	}
	lists := []string{"addresses", "ids"}
	if r.Method == http.MethodPost {
		if err := rest.ReadRequest(r, request); err != nil {
			return nil, err
		}
		r.Body = http.NoBody // or it is held as long as the stream is
	} else {
		for _, list := range lists {
			fields[list] = protoreflect.StringKind
		}
	}
	if err := rest.CheckQuery(r.URL.RawQuery, fields); err != nil {
		return nil, err
	}
	query := r.URL.Query()
	for _, list := range lists {
		if err := splitList(query, list); err != nil {
			return nil, err
		}
	}
	if err := runtime.PopulateQueryParameters(request, query, utilities.NewDoubleArray(nil)); err != nil {
		return nil, fault.Field(codes.InvalidArgument, "query", "%v", err)
	}
	if id := r.Header.Get("Last-Event-Id"); id != "" {
		request.LastId = id
	}
	return request, nil
}

// splitList makes the values of a list of its one value in a query.
func splitList(query url.Values, name string) error {
	text := query.Get(name)
	if text == "" {
		query.Del(name)
		return nil
	}
	list := strings.Split(text, ",")
	if len(list) > MostInQuery {
		return fault.Field(codes.InvalidArgument, name, "expected at most %d, separated by commas, got %d: POST takes more", MostInQuery, len(list))
	}
	query[name] = list
	return nil
}

// stream is an answer by server-sent events.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	begun   bool
}

// begin sends the header.
func (s *stream) begin() {
	s.begun = true
	header := s.w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("Cache-Control", "no-store")
	header.Set("X-Accel-Buffering", "no") // nginx would collect some before it passed them on
	s.w.WriteHeader(http.StatusOK)
}

// send sends a message. It waits for the client, and holds no more than that.
func (s *stream) send(m *keytreev1.WatchResponse) error {
	var text []byte // it is not kept for the next: that may be long in coming
	if !s.begun {
		s.begin()
		text = appendRetry(text, Comeback)
	}
	if m.Id != "" {
		text = append(append(append(text, "id: "...), m.Id...), '\n')
	}
	if name := eventName(m); name != "" {
		text = appendEvent(text, name, m)
	}
	return s.flush(text)
}

// eventName is the name of the event that a message is; "" for an id alone.
func eventName(m *keytreev1.WatchResponse) string {
	switch {
	case m.Block != nil:
		return strings.ToLower(m.Block.Type)
	case m.Pending != nil, m.PendingEvent != nil, m.PendingChanges != nil, m.AllPending:
		return "pending"
	case m.Dropped != "":
		return "drop"
	}
	return ""
}

func appendEvent(b []byte, name string, data proto.Message) []byte {
	b = append(append(append(b, "event: "...), name...), "\ndata: "...)
	b, _ = rest.JSON.MarshalAppend(b, data) // what is made of valid UTF-8 always marshals
	return append(b, '\n')
}

// flush sends one event, or more, of which it ends the last.
func (s *stream) flush(text []byte) error {
	if _, err := s.w.Write(append(text, '\n')); err != nil {
		return err
	}
	return s.control.Flush()
}

func appendRetry(b []byte, after time.Duration) []byte {
	b = strconv.AppendInt(append(b, "retry: "...), after.Milliseconds(), 10)
	return append(b, '\n')
}

// end tells the client why the stream ends. One that has not begun is refused, but for what
// passes: a browser comes back only to a stream.
func (s *stream) end(ctx context.Context, err error) {
	if ctx.Err() != nil && context.Cause(ctx) == ErrStopping {
		err = ErrStopping
	}
	reason := reasonOf(err)
	switch {
	case reason == "" && s.begun: // the client has gone
	case reason == "":
		rest.WriteError(s.w, runtime.HTTPStatusFromCode(status.Code(err)), err)
	default:
		s.fault(reason, err)
	}
}

// reasonOf returns the reason of a fault; "" for what is no fault of a stream.
func reasonOf(err error) string {
	var f *Fault
	var refusal *admission.Refusal
	switch {
	case errors.As(err, &f):
		return f.Reason
	case errors.As(err, &refusal):
		return Busy
	case errors.Is(err, ErrStopping):
		return Stopping
	}
	switch status.Code(err) {
	case codes.Unavailable:
		return Unavailable
	case codes.Internal, codes.Unknown, codes.Aborted:
		return Internal
	}
	return ""
}

// fault sends the last event.
func (s *stream) fault(reason string, err error) {
	after := FarComeback
	var refusal *admission.Refusal
	switch {
	case errors.As(err, &refusal):
		after = refusal.After
	case reason == Stopping:
		after = Comeback
	}
	after += rand.N(after) // else all come back at once
	f := &keytreev1.StreamFault{Reason: reason, Message: status.Convert(err).Message(), RetryAfter: uint32(math.Ceil(after.Seconds()))}
	var text []byte
	if reason == OutdatedCursor {
		f.RetryAfter = 0
		text = append(text, "id: "+ended+"\n"...)
	}
	if !s.begun {
		s.w.Header().Set("Retry-After", strconv.Itoa(int(max(1, f.RetryAfter))))
		s.begin()
	}
	s.flush(appendEvent(appendRetry(text, after), "fault", f)) // a client that has gone is no fault to report
}

// Refuse answers a request for a stream that nobody answers: a browser would never come back to
// an error.
func Refuse(w http.ResponseWriter, err error) {
	s := &stream{w: w, control: http.NewResponseController(w)}
	s.fault(cmp.Or(reasonOf(err), Internal), err)
}

// IsStream reports whether a request is for a stream.
func IsStream(r *http.Request) bool {
	return r.URL.Path == rest.StreamPath && slices.Contains([]string{http.MethodGet, http.MethodPost}, r.Method)
}
