// Package explorer is the graph as pages for people: who is behind an address, what an identity
// was and is made of, what became of an action, what a block changed, what is pending.
//
// A page is made of the answers of the same calls that REST has, and names them at its foot. It works
// without a script; explorer.js opens branches in place, moves through time, and follows what
// happens. Pages load nothing of another origin, have no inline script or style, and cannot be framed.
// What strangers wrote (messages, domains) is escaped, bounded, and marked as theirs.
//
// What never belongs here: a question that the calls do not answer; anything that is changed.
package explorer

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/fault"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rest"
)

//go:embed pages
var pages embed.FS

// policy lets a page load nothing but its own files, ask nobody but this server, and be in no frame.
const policy = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; " +
	"base-uri 'none'; form-action 'self'; frame-ancestors 'none'"

// Config is what the pages are made of. Answers are asked for with the context of the page's request, so
// that admission counts their work.
type Config struct {
	Identities keytreev1.IdentityServiceServer
	Anchors    keytreev1.AnchorServiceServer
	Version    string // of the server
	// StatePolicy returns by what policy the server's state proofs can be checked (C2SP's tlog-policy): its log and the
	// witnesses that its operator believes. Nil, or "", if it has no state log. It may be called concurrently.
	StatePolicy func() string
}

// Explorer serves the pages. It may be used concurrently, and keeps nothing between requests.
type Explorer struct {
	Config
	templates map[string]*template.Template // by the names of their files
	files     map[string]rest.File
}

// New reads the pages that are built in.
func New(c Config) (*Explorer, error) {
	e := &Explorer{Config: c, templates: make(map[string]*template.Template), files: make(map[string]rest.File)}
	names, err := pages.ReadDir("pages")
	if err != nil {
		return nil, fmt.Errorf("explorer: %w", err)
	}
	base, err := template.New("base.html").Funcs(functions()).ParseFS(pages, "pages/base.html")
	if err != nil {
		return nil, fmt.Errorf("explorer: %w", err)
	}
	for _, entry := range names {
		name := entry.Name()
		switch kind := kinds()[name]; {
		case kind != "":
			text, err := pages.ReadFile("pages/" + name)
			if err != nil {
				return nil, fmt.Errorf("explorer: %w", err)
			}
			e.files[name] = rest.NewFile(kind, text)
		case name != "base.html":
			page, err := base.Clone()
			if err == nil {
				page, err = page.ParseFS(pages, "pages/"+name)
			}
			if err != nil {
				return nil, fmt.Errorf("explorer: %w", err)
			}
			e.templates[name] = page
		}
	}
	return e, nil
}

// kinds are the types of the files that are no pages.
func kinds() map[string]string {
	return map[string]string{"explorer.css": "text/css; charset=utf-8", "explorer.js": "text/javascript; charset=utf-8", "proof.js": "text/javascript; charset=utf-8", "icon.svg": "image/svg+xml"}
}

// Paths are those under which there are pages, as a runtime.ServeMux has them.
func Paths() []string {
	return []string{"/", "/search", "/key/{address}", "/identity/{id}", "/action/{txid}", "/blocks", "/block/{height}",
		"/mempool", "/keyservers", "/keyserver/{domain}", "/chain/{txid}", "/anchor/{txid}", "/status", filePath}
}

const filePath = "/explorer/{file}"

// statePolicyFile is where pages find Config.StatePolicy.
const statePolicyFile = "state-policy"

// Register adds the pages to a server's.
func (e *Explorer) Register(mux *runtime.ServeMux) error {
	make := map[string]func(*request) error{
		"/": e.home, "/search": e.search, "/key/{address}": e.key, "/identity/{id}": e.identity, "/action/{txid}": e.action,
		"/blocks": e.blocks, "/block/{height}": e.block, "/mempool": e.mempool, "/keyservers": e.keyservers,
		"/keyserver/{domain}": e.keyserver, "/chain/{txid}": e.chain, "/anchor/{txid}": e.anchor, "/status": e.status,
	}
	errs := []error{mux.HandlePath(http.MethodGet, filePath, e.file)}
	for path, fill := range make {
		errs = append(errs, mux.HandlePath(http.MethodGet, path, e.page(fill)))
	}
	return errors.Join(errs...)
}

// file answers with a style, script or picture.
func (e *Explorer) file(w http.ResponseWriter, r *http.Request, path map[string]string) {
	f, ok := e.files[path["file"]]
	if policy := e.statePolicy(); path["file"] == statePolicyFile && policy != "" {
		f, ok = rest.NewFile("text/plain; charset=utf-8", []byte(policy)), true
	}
	if !ok {
		rest.WriteError(w, http.StatusNotFound, status.Errorf(codes.NotFound, "no such file: %q", fault.Shortened(path["file"])))
		return
	}
	guard(w.Header())
	f.Answer(w, r)
}

// statePolicy is Config.StatePolicy.
func (e *Explorer) statePolicy() string {
	if e.StatePolicy == nil {
		return ""
	}
	return e.StatePolicy()
}

// guard tells browsers what a page may do.
func guard(h http.Header) {
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
}

// request is a request for a page, and the page.
type request struct {
	*http.Request
	path map[string]string
	w    http.ResponseWriter

	explorer *Explorer
	status   *keytreev1.GetStatusResponse // as of when the request came
	page     page
	sent     bool // whether something else than the page was answered
}

// page is what all pages have.
type page struct {
	Title   string
	Network string
	Version string
	Query   string // what was searched for
	Tip     uint32
	Synced  bool
	Why     string   // not synced, in words
	At      *uint32  // the block that the page is as of, if it was asked for
	AsOf    uint32   // the block that it is as of
	Calls   []string // of REST that it is made of: GET
	Live    live
	Data    any
}

// live is what a page follows: nothing if it is as of a block that was asked for.
type live struct {
	Addresses, IDs []string
	All            bool // everything that happens
}

// page returns a handler that answers with a page, or with one that says what is wrong.
func (e *Explorer) page(fill func(*request) error) runtime.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request, path map[string]string) {
		q := &request{Request: r, path: path, w: w, explorer: e}
		q.page.Version = e.Version
		guard(w.Header())
		err := q.begin()
		if err == nil {
			err = fill(q)
		}
		switch {
		case err != nil:
			q.fail(err)
		case !q.sent:
			q.write(http.StatusOK)
		}
	}
}

// begin reads what any page may be asked.
func (q *request) begin() error {
	answer, err := q.explorer.Identities.GetStatus(q.Context(), &keytreev1.GetStatusRequest{})
	if err != nil {
		return err
	}
	q.status = answer
	q.page.Network, q.page.Tip, q.page.Synced, q.page.Why = answer.Network, answer.TipHeight, answer.Synced, answer.Unsynced
	q.page.AsOf = answer.TipHeight
	at := q.URL.Query().Get("at")
	if at == "" {
		return nil
	}
	height, err := parseHeight(at)
	if err != nil {
		return err
	}
	q.page.At, q.page.AsOf = &height, height
	return nil
}

// parseHeight reads a block's height.
func parseHeight(s string) (uint32, error) {
	height, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, fault.Field(codes.InvalidArgument, "at", "expected the height of a block, got %q", fault.Shortened(s))
	}
	return uint32(height), nil
}

// reach is what a call can be as of.
type reach int

const (
	fixed  reach = iota // what its query says
	asOf                // the page's block
	orNext              // that, and beside it what is pending if that is the tip
)

// called notes a call that the page was made of.
func (q *request) called(path string, query url.Values, of reach) {
	if query == nil {
		query = url.Values{}
	}
	switch {
	case of == fixed:
	case q.page.At != nil:
		query.Set("at_height", strconv.FormatUint(uint64(*q.page.At), 10))
	case of == orNext:
		query.Set("unconfirmed", "true")
	}
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	q.page.Calls = append(q.page.Calls, path)
}

// show makes a file of pages the page, with what it shows.
func (q *request) show(title string, data any) { q.page.Title, q.page.Data = title, data }

// follow says what the page is about, to be told when that changes. A page as of a block that was
// asked for stays what it is.
func (q *request) follow(l live) {
	if q.page.At == nil {
		q.page.Live = l
	}
}

// redirect sends the reader to another page.
func (q *request) redirect(to string) {
	q.sent = true
	http.Redirect(q.w, q.Request, to, http.StatusSeeOther)
}

// failure is a page that says what is wrong.
type failure struct {
	Code    int
	Problem string
}

// fail answers with a page that says what is wrong.
func (q *request) fail(err error) {
	st := status.Convert(err)
	code := runtime.HTTPStatusFromCode(st.Code())
	var refusal *admission.Refusal
	if errors.As(err, &refusal) {
		code = refusal.HTTPStatus()
		q.w.Header().Set("Retry-After", strconv.Itoa(refusal.Seconds()))
	}
	title := http.StatusText(code)
	switch st.Code() {
	case codes.NotFound:
		title = "Nothing found"
	case codes.InvalidArgument, codes.OutOfRange:
		title = "That cannot be asked"
	case codes.Unavailable:
		title = "Not just now"
	}
	q.page.Live, q.page.Calls = live{}, nil
	if q.page.AsOf > q.page.Tip { // which nobody can look at
		q.page.At, q.page.AsOf = nil, q.page.Tip
	}
	q.show(title, failure{code, upper(strings.TrimPrefix(st.Message(), "at_height: "))})
	q.write(code)
}

// write sends the page. It is made as a whole first: pages are short.
func (q *request) write(code int) {
	var out bytes.Buffer
	name := templateOf(q.page.Data)
	if err := q.explorer.templates[name].ExecuteTemplate(&out, "base.html", &q.page); err != nil {
		panic(fmt.Errorf("explorer: %w", err)) // a fault of the templates, which the server contains and logs
	}
	h := q.w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-cache")
	q.w.WriteHeader(code)
	q.w.Write(out.Bytes()) // a client that went away is no fault to report
}

// notFound tells whether an answer is that there is no such thing.
func notFound(err error) bool { return status.Code(err) == codes.NotFound }

// asOf is the block that a call is asked about: the page's, or the tip.
func (q *request) asOf() *uint32 { return q.page.At }

// now tells whether the page is as of the tip, so that what is pending concerns it.
func (q *request) now() bool { return q.page.At == nil }
