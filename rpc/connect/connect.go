// Package connect is the page on which a person answers a link request that a service has made, and the one on which
// an answer is taken back: the sign-up flow of MIP-0003 in a browser.
//
// A service sends a person to /connect?request=TXID&redirect_uri=https://…&state=…. The page says who asks, in whose
// name that would speak, what it means, how to undo it, and where its button leads. What is signed is signed in a
// wallet, which is copied into or asked over a relay (wc.js, wiz.js); the page takes the answer, compares it with what was asked, and has the server send it. What the page shows is made of
// the chain and the mempool alone, so that it is right when it is read again, after a reorganisation too. When the
// link is there it offers to go back, with state, request_tx_hash, accept_tx_hash and id_tx_hash, or with error=access_denied: nothing of that is
// secret or proves anything, and the service resolves the key itself. /connect/revoke?accept=TXID does the same for a
// revoke, with revoke_tx_hash.
//
// Nobody is sent anywhere without a click. A page loads nothing of another origin, connects to nobody but a relay that the
// operator has named, when it is told to, and cannot be framed.
// What strangers wrote is shown as signing.CallsItself has it.
//
// What never belongs here: keys, a session, and what a link means to an identity.
package connect

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"path"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/explorer"
	"github.com/keytree-bch/keytree/rpc/fault"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rest"
)

//go:embed pages
var pages embed.FS

// policy lets a page load nothing but this server's files, ask nobody but this server and the relays, if there are some, send
// no form, and be in no frame.
func (c Config) policy() string {
	connect := "'self'"
	if c.WalletConnect != nil {
		connect += " " + originOf(c.WalletConnect.Relay)
	}
	if c.WizardConnect != nil {
		connect += " " + originOf(c.WizardConnect.Relay)
	}
	return "default-src 'none'; style-src 'self'; script-src 'self'; connect-src " + connect + "; img-src 'self' data:; " +
		"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}

// Config is what the pages are made of. Answers are asked for with the context of the page's request, so
// that admission counts their work.
type Config struct {
	Identities keytreev1.IdentityServiceServer
	Version    string // of the server
	// WalletConnect lets wallets be asked over a relay; nil: they are not.
	WalletConnect *WalletConnect
	// WizardConnect is the same over a relay of WizardConnect.
	WizardConnect *WizardConnect
}

// Pages serves the pages. It may be used concurrently, and keeps nothing between requests.
type Pages struct {
	Config
	template *template.Template
	files    map[string]rest.File
	policy   string
}

// New reads the pages that are built in.
func New(c Config) (*Pages, error) {
	p := &Pages{Config: c, files: make(map[string]rest.File), policy: c.policy()}
	var err error
	p.template, err = template.New("page.html").Funcs(template.FuncMap{"picture": explorer.Picture}).ParseFS(pages, "pages/page.html")
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	const script = "text/javascript; charset=utf-8"
	kinds := map[string]string{"connect.css": "text/css; charset=utf-8", "connect.js": script}
	if c.WalletConnect != nil || c.WizardConnect != nil {
		kinds["aead.js"], kinds["vendor/uqr.mjs"] = script, script
	}
	if c.WalletConnect != nil {
		kinds["wc.js"] = script
	}
	if c.WizardConnect != nil {
		kinds["wiz.js"], kinds["ripemd160.js"], kinds["vendor/secp256k1.js"] = script, script, script
	}
	for name, kind := range kinds {
		text, err := pages.ReadFile("pages/" + name)
		if err != nil {
			return nil, fmt.Errorf("connect: %w", err)
		}
		p.files[path.Base(name)] = rest.NewFile(kind, text)
	}
	return p, nil
}

const (
	acceptPath = "/connect"
	revokePath = "/connect/revoke"
	filePath   = "/connect/files/{file}"
)

// Paths are those under which there are pages, as a runtime.ServeMux has them.
func Paths() []string { return []string{acceptPath, revokePath, filePath} }

// Register adds the pages to a server's.
func (p *Pages) Register(mux *runtime.ServeMux) error {
	return errors.Join(
		mux.HandlePath(http.MethodGet, filePath, p.file),
		mux.HandlePath(http.MethodGet, acceptPath, p.page("request", (*visit).accept)),
		mux.HandlePath(http.MethodGet, revokePath, p.page("accept", (*visit).revoke)),
	)
}

// file answers with a style or script.
func (p *Pages) file(w http.ResponseWriter, r *http.Request, parts map[string]string) {
	f, ok := p.files[parts["file"]]
	if !ok {
		rest.WriteError(w, http.StatusNotFound, status.Errorf(codes.NotFound, "no such file: %q", fault.Shortened(parts["file"])))
		return
	}
	p.guard(w.Header())
	f.Answer(w, r)
}

// guard tells browsers what a page may do.
func (p *Pages) guard(h http.Header) {
	h.Set("Content-Security-Policy", p.policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
}

// visit is a request for a page, and the page.
type visit struct {
	*http.Request
	pages *Pages
	to    target
	page  page
}

// page returns a handler that answers with what fill makes of the transaction that a parameter names.
func (p *Pages) page(name string, fill func(v *visit, txid string) error) runtime.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request, _ map[string]string) {
		v := &visit{Request: r, pages: p, page: page{Version: p.Version, WalletConnect: p.WalletConnect, WizardConnect: p.WizardConnect}}
		p.guard(w.Header())
		txid, err := v.begin(name)
		if err == nil {
			err = fill(v, txid)
		}
		code := http.StatusOK
		if err != nil {
			code = v.fail(w.Header(), err)
		}
		v.write(w, code)
	}
}

// begin reads what was asked, each parameter once, and how the server stands.
func (v *visit) begin(name string) (txid string, err error) {
	query, err := url.ParseQuery(v.URL.RawQuery)
	if err != nil {
		return "", status.Error(codes.InvalidArgument, "expected parameters of names and values")
	}
	for given, values := range query {
		if given != name && given != "redirect_uri" && given != "state" {
			return "", status.Errorf(codes.InvalidArgument, "expected the parameters %s, redirect_uri and state, got %q", name, fault.Shortened(given))
		}
		if len(values) > 1 {
			return "", status.Errorf(codes.InvalidArgument, "%s: expected it once, got it %d times", given, len(values))
		}
	}
	to, err := parseTarget(query)
	if err != nil {
		return "", status.Error(codes.InvalidArgument, err.Error())
	}
	v.to, v.page.To = to, leading(to)
	answer, err := v.pages.Identities.GetStatus(v.Context(), &keytreev1.GetStatusRequest{})
	if err != nil {
		return "", err
	}
	v.page.Network, v.page.Synced, v.page.Why, v.page.Tip = answer.Network, answer.Synced, answer.Unsynced, answer.TipHeight
	return query.Get(name), nil
}

// fail makes the page one that says what is wrong.
func (v *visit) fail(h http.Header, err error) (code int) {
	st := status.Convert(err)
	code = runtime.HTTPStatusFromCode(st.Code())
	var refusal *admission.Refusal
	if errors.As(err, &refusal) {
		code = refusal.HTTPStatus()
		h.Set("Retry-After", fmt.Sprint(refusal.Seconds()))
	}
	v.page.State, v.page.Live, v.page.Consent, v.page.Problem = "failed", nil, nil, st.Message()
	switch st.Code() {
	case codes.NotFound:
		v.page.State, v.page.Title = "unknown", "This is not known yet"
	case codes.InvalidArgument:
		v.page.Title = "This link is wrong"
	default:
		v.page.State, v.page.Title, v.page.Problem = "unknown", "Not just now", upper(st.Message())
	}
	return code
}

// write sends the page. It is made as a whole first: pages are short.
func (v *visit) write(w http.ResponseWriter, code int) {
	var out bytes.Buffer
	if err := v.pages.template.Execute(&out, &v.page); err != nil {
		panic(fmt.Errorf("connect: %w", err)) // a fault of the template, which the server contains and logs
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store") // what is so now
	w.WriteHeader(code)
	w.Write(out.Bytes()) // a client that went away is no fault to report
}
