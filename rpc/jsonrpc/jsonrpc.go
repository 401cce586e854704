// Package jsonrpc answers JSON-RPC 2.0 over HTTP: what is around calls, and how their
// parameters are read. Nothing that is sent is trusted: a body, a batch, an id and a
// parameter have bounds, and each parameter the form that it must have.
//
// What never belongs here: a method, and an error of one.
package jsonrpc

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"unicode/utf8"

	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/fault"
)

// The limits on JSON-RPC.
const (
	// MaxBatch is how many calls a batch may have.
	MaxBatch = 100
	// maxID is how many bytes the id of a request may have.
	maxID = 256
	// maxMembers is how many members a request or its params may have.
	maxMembers = 16
)

// The codes that JSON-RPC 2.0 names. Those of a method are its audience's.
const (
	CodeParse          = -32700 // not JSON
	CodeInvalidRequest = -32600 // not a JSON-RPC 2.0 request, or too large
	CodeUnknownMethod  = -32601
	CodeInvalidParams  = -32602 // a parameter or message is not what it must be
	CodeInternal       = -32603
)

// Method answers one call. It is called concurrently. What it returns is written as JSON,
// or, if it is a stream, writes itself.
type Method func(ctx context.Context, p *Params) (result any, err error)

// Stream writes a result of any length as JSON. If it fails, the connection is
// broken off: the client must not take what it got for the whole.
type Stream func(w io.Writer) error

// Handler answers JSON-RPC 2.0 by HTTP POST to "/": single calls, notifications
// and batches. Every answer to a call has the status 200; what cannot be taken
// for calls at all is refused by the status that HTTP has for it, with a JSON-RPC
// error for a body.
type Handler struct {
	methods map[string]Method
	rates   *admission.Rates // of calls
	fault   func(error) *Error
	log     zerolog.Logger
}

// NewHandler returns a handler of some methods, by their names, of which each client may
// call so many. To log go panics. fault is called concurrently: it is what becomes of the
// error of a method, which may be ErrParams, and of an *admission.Refusal.
func NewHandler(methods map[string]Method, rates *admission.Rates, fault func(error) *Error, log zerolog.Logger) *Handler {
	return &Handler{methods: methods, rates: rates, fault: fault, log: log}
}

// Error is the error of a call as JSON-RPC has it.
type Error struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

func Errorf(code int, format string, args ...any) *Error {
	return &Error{code, fmt.Sprintf(format, args...)}
}

// ServeHTTP implements http.Handler.
func (j *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case r.URL.Path != "/":
		Refuse(w, http.StatusNotFound, Errorf(CodeInvalidRequest, "no such path: %q; JSON-RPC is at /", fault.Shortened(r.URL.Path)))
		return
	case r.Method != http.MethodPost:
		w.Header().Set("Allow", http.MethodPost)
		Refuse(w, http.StatusMethodNotAllowed, Errorf(CodeInvalidRequest, "expected POST, got %s", fault.Shortened(r.Method)))
		return
	case err != nil || media != "application/json":
		Refuse(w, http.StatusUnsupportedMediaType, Errorf(CodeInvalidRequest, "expected the Content-Type application/json, got %q",
			fault.Shortened(r.Header.Get("Content-Type"))))
		return
	}
	body, status, problem := j.readBody(w, r)
	if problem != nil {
		Refuse(w, status, problem)
		return
	}

	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	out := bufio.NewWriter(w)
	answered, err := j.answerAll(r, out, body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if !answered { // notifications alone
		w.WriteHeader(http.StatusNoContent)
		return
	}
	out.Flush() // a client that went away is no fault to report
}

// readBody reads a body of at most admission.MaxRequest bytes.
func (j *Handler) readBody(w http.ResponseWriter, r *http.Request) (body []byte, status int, problem *Error) {
	tooLarge := Errorf(CodeInvalidRequest, "expected a body of at most %d bytes, got more", admission.MaxRequest)
	if r.ContentLength > admission.MaxRequest {
		return nil, http.StatusRequestEntityTooLarge, tooLarge
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, admission.MaxRequest))
	var why *admission.Refusal
	switch {
	case errors.As(err, &why):
		w.Header().Set("Retry-After", strconv.Itoa(why.Seconds()))
		return nil, why.HTTPStatus(), j.fault(why)
	case errors.As(err, new(*http.MaxBytesError)):
		return nil, http.StatusRequestEntityTooLarge, tooLarge
	case err != nil:
		return nil, http.StatusBadRequest, Errorf(CodeParse, "the body cannot be read to its end")
	case !utf8.Valid(body):
		return nil, http.StatusOK, Errorf(CodeParse, "expected JSON, got what is not UTF-8") // as for all that is not JSON
	}
	return body, 0, nil
}

// Refuse answers a request that holds no calls.
func Refuse(w http.ResponseWriter, status int, problem *Error) {
	body, _ := json.Marshal(failed{"2.0", problem, nullID()}) // always marshals
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(body) // a client that went away is no fault to report
}

// failed and succeeded are the two forms of an answer; that of a stream is written
// piece by piece.
type (
	failed struct {
		Version string          `json:"jsonrpc"`
		Error   *Error          `json:"error"`
		ID      json.RawMessage `json:"id"`
	}
	succeeded struct {
		Version string          `json:"jsonrpc"`
		Result  any             `json:"result"`
		ID      json.RawMessage `json:"id"`
	}
)

func nullID() json.RawMessage { return json.RawMessage("null") }

// answerAll answers the call or the calls of a body, and tells whether there was
// anything to answer. An error means that the answer cannot be completed.
func (j *Handler) answerAll(r *http.Request, out *bufio.Writer, body []byte) (answered bool, err error) {
	if first := bytes.TrimLeft(body, " \t\r\n"); len(first) == 0 || first[0] != '[' {
		return j.answer(r, out, "", body)
	}
	calls, problem := splitBatch(body)
	if problem == nil {
		if err := admission.Work(r.Context(), len(calls)-1); err != nil { // the request has counted as one
			problem = j.fault(err)
		}
	}
	if problem != nil {
		return true, write(out, failed{"2.0", problem, nullID()})
	}
	before := "["
	for _, call := range calls {
		this, err := j.answer(r, out, before, call)
		if err != nil {
			return true, err
		}
		if this {
			answered, before = true, ","
		}
	}
	if answered {
		out.WriteByte(']') // errors stay in out
	}
	return answered, nil
}

// checkJSON says where a text is not JSON.
func checkJSON(text []byte) *Error {
	var wrong *json.SyntaxError
	if err := json.Unmarshal(text, new(json.RawMessage)); errors.As(err, &wrong) {
		return Errorf(CodeParse, "expected JSON: %v, at byte %d", wrong, wrong.Offset)
	}
	return nil
}

// splitBatch reads a list of calls. It reads no further than MaxBatch: what is
// there must not become a multiple of its size.
func splitBatch(body []byte) (calls []json.RawMessage, problem *Error) {
	if problem := checkJSON(body); problem != nil {
		return nil, problem
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.Token() // the bracket
	for d.More() {
		if len(calls) == MaxBatch {
			return nil, Errorf(CodeInvalidRequest, "expected a batch of at most %d calls, got more; none was made", MaxBatch)
		}
		var call json.RawMessage
		if err := d.Decode(&call); err != nil {
			return nil, Errorf(CodeParse, "expected JSON: %v", err)
		}
		calls = append(calls, call)
	}
	if len(calls) == 0 {
		return nil, Errorf(CodeInvalidRequest, "expected a batch of 1 to %d calls, got none", MaxBatch)
	}
	return calls, nil
}

// answer makes one call and writes its answer, with a text before it, unless it is
// a notification.
func (j *Handler) answer(r *http.Request, out *bufio.Writer, before string, text []byte) (answered bool, err error) {
	c, problem := readCall(text)
	var result any
	if problem == nil {
		result, problem = j.make(r, c)
	}
	if c.notification && (problem == nil || problem.Code != CodeInvalidRequest) {
		return false, nil
	}
	out.WriteString(before) // errors stay in out
	if problem != nil {
		return true, write(out, failed{"2.0", problem, c.id})
	}
	if s, ok := result.(Stream); ok {
		out.WriteString(`{"jsonrpc":"2.0","result":`)
		if err := s(out); err != nil {
			return true, err
		}
		out.WriteString(`,"id":`)
		out.Write(c.id)
		return true, out.WriteByte('}')
	}
	return true, write(out, succeeded{"2.0", result, c.id})
}

func write(out *bufio.Writer, answer any) error {
	b, err := json.Marshal(answer)
	if err == nil {
		_, err = out.Write(b)
	}
	return err
}

// call is one request as JSON-RPC has it.
type call struct {
	method       string
	params       json.RawMessage // nil if absent
	id           json.RawMessage // as it came; null if it cannot be read
	notification bool            // there is no id
}

func readCall(text []byte) (call, *Error) {
	c := call{id: nullID()}
	if problem := checkJSON(text); problem != nil {
		return c, problem
	}
	members, err := readObject(text)
	if err != nil {
		return c, Errorf(CodeInvalidRequest, "request: %v", err)
	}
	if id, ok := members["id"]; !ok {
		c.notification = true
	} else if len(id) > maxID || id[0] == '{' || id[0] == '[' || id[0] == 't' || id[0] == 'f' {
		return c, Errorf(CodeInvalidRequest, "id: expected a string, a number or null, of at most %d bytes", maxID)
	} else {
		c.id = id
	}
	if version := string(members["jsonrpc"]); version != `"2.0"` {
		return c, Errorf(CodeInvalidRequest, `jsonrpc: expected "2.0", got %s`, got(members["jsonrpc"]))
	}
	if method := members["method"]; len(method) == 0 || method[0] != '"' || json.Unmarshal(method, &c.method) != nil {
		return c, Errorf(CodeInvalidRequest, "method: expected a string, got %s", got(method))
	}
	c.params = members["params"]
	return c, nil
}

// make makes a call.
func (j *Handler) make(r *http.Request, c call) (result any, problem *Error) {
	defer func() {
		if cause := recover(); cause != nil {
			fault.LogPanic(j.log, c.method, cause)
			result, problem = nil, Errorf(CodeInternal, fault.Internal)
		}
	}()
	if err := j.rates.Take(admission.ClientOf(r.Context()), 1); err != nil {
		return nil, j.fault(err)
	}
	m, ok := j.methods[c.method]
	if !ok {
		return nil, Errorf(CodeUnknownMethod, "no such method: %q; Capabilities lists those there are", fault.Shortened(c.method))
	}
	p, err := readParams(c.params)
	if err == nil {
		ctx, cancel := context.WithTimeout(r.Context(), admission.RequestTimeout)
		defer cancel()
		result, err = m(ctx, p)
	}
	if err != nil {
		return nil, j.fault(err)
	}
	return result, nil
}

// readObject reads the members of a JSON object, each once, in their exact case.
func readObject(text []byte) (map[string]json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	if start, err := d.Token(); err != nil || start != json.Delim('{') {
		return nil, fmt.Errorf("%w: expected an object, got %s", ErrParams, got(text))
	}
	members := make(map[string]json.RawMessage)
	for d.More() {
		token, err := d.Token()
		name, ok := token.(string)
		if err != nil || !ok {
			return nil, fmt.Errorf("%w: expected a name, got none", ErrParams)
		}
		if _, twice := members[name]; twice {
			return nil, fmt.Errorf("%w: %s: appears twice", ErrParams, fault.Shortened(name))
		}
		if len(members) == maxMembers {
			return nil, fmt.Errorf("%w: expected at most %d members, got more", ErrParams, maxMembers)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrParams, fault.Shortened(name), err)
		}
		members[name] = value
	}
	return members, nil
}

// got describes a JSON value that is not what it should be.
func got(value []byte) string {
	if len(bytes.TrimSpace(value)) == 0 {
		return "nothing"
	}
	return fault.Shortened(string(value))
}
