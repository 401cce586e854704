package rpc_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/rpc"
	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// TestOrigins asks as a browser does for pages of other origins.
func TestOrigins(t *testing.T) {
	const page = "https://page.example"
	_, blocks := rpctest.Family()
	for name, test := range map[string]struct {
		origins []string
		want    string // Access-Control-Allow-Origin
	}{
		"any":     {[]string{"*"}, "*"},
		"this":    {[]string{"https://other.example", page}, page},
		"another": {[]string{"https://other.example"}, ""},
		"none":    {nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := rpctest.NewOf(t, rpc.Config{Origins: test.origins}, blocks...)
			get, body := r.Send(t, "GET", "/v1/status", "", "Origin: "+page)
			if got := get.Header.Get("Access-Control-Allow-Origin"); got != test.want || get.StatusCode != 200 || body == "" {
				t.Errorf("GET: %s, allowed for %q, want %q", get.Status, got, test.want)
			}
			if get.Header.Get("Access-Control-Allow-Credentials") != "" {
				t.Error("credentials are allowed")
			}
			ask, _ := r.Send(t, "OPTIONS", "/v1/addresses:batchResolve", "", "Origin: "+page,
				"Access-Control-Request-Method: POST", "Access-Control-Request-Headers: content-type,keytree-min-height")
			allowed := ask.Header.Get("Access-Control-Allow-Origin") == test.want && ask.Header.Get("Access-Control-Allow-Headers") == "content-type,keytree-min-height" &&
				ask.Header.Get("Access-Control-Allow-Methods") == "POST"
			if allowed != (test.want != "") || ask.StatusCode != http.StatusNoContent {
				t.Errorf("preflight: %s, %v", ask.Status, ask.Header)
			}
			again, _ := r.Send(t, "OPTIONS", "/v1/stream", "", "Origin: "+page, "Access-Control-Request-Method: GET", "Access-Control-Request-Headers: last-event-id")
			allowed = again.Header.Get("Access-Control-Allow-Origin") == test.want && again.Header.Get("Access-Control-Allow-Headers") == "last-event-id"
			if allowed != (test.want != "") || again.StatusCode != http.StatusNoContent {
				t.Errorf("preflight of a stream that goes on: %s, %v", again.Status, again.Header)
			}
			for _, call := range []string{"challenge", "verify"} {
				ask, _ := r.Send(t, "OPTIONS", "/v1/signin:"+call, "", "Origin: "+page,
					"Access-Control-Request-Method: POST", "Access-Control-Request-Headers: content-type")
				answer, _ := r.Send(t, "POST", "/v1/signin:"+call, "{}", "Origin: "+page, "Content-Type: application/json")
				for _, response := range []*http.Response{ask, answer} {
					if got := response.Header.Get("Access-Control-Allow-Origin"); got != test.want {
						t.Errorf("signing in, %s: %s, allowed for %q, want %q", call, response.Status, got, test.want)
					}
				}
			}
			for _, method := range []string{"GET", "OPTIONS"} {
				response, _ := r.Send(t, method, "/v1/keyserver", "", "Origin: "+page, "Access-Control-Request-Method: GET")
				if got := response.Header.Get("Access-Control-Allow-Origin"); got != "" {
					t.Errorf("%s of the keyserver is allowed for %q", method, got)
				}
			}
		})
	}
}

// TestHost asks under the names that a browser can be made to use for this machine.
func TestHost(t *testing.T) {
	r := rpctest.NewOf(t, rpc.Config{Hosts: []string{"keys.example.org"}}, (&rpctest.Chain{}).Block())
	for host, want := range map[string]int{"localhost": 200, "127.0.0.1:8435": 200, "keys.example.org": 200, "evil.example:8435": 421} {
		response, answer := r.Send(t, "GET", "/v1/status", "", "Host: "+host)
		if response.StatusCode != want || want == 421 && !strings.Contains(answer, "evil.example") {
			t.Errorf("%s: %s %s, want %d", host, response.Status, answer, want)
		}
	}
}

// TestKeyserverFromPages calls the keyserver as browsers do for pages, on both of its
// wires that browsers can reach.
func TestKeyserverFromPages(t *testing.T) {
	r := rpctest.NewKeyserver(t, rpctest.KeyserverOptions{Hosts: []string{"keys.example.org"}})
	wire := &rpctest.Rig{URL: strings.TrimSuffix(r.URL, "/")}
	rest := &rpctest.Rig{URL: r.REST}
	const capabilities = `{"jsonrpc":"2.0","method":"KeyRepository.Capabilities","params":{},"id":1}`
	for _, test := range []struct {
		name    string
		headers []string
		want    int // status
	}{
		{"no page", nil, 200},
		{"a page of another site", []string{"Origin: https://page.example", "Sec-Fetch-Site: cross-site"}, 403},
		{"a page on another port", []string{"Origin: http://127.0.0.1:1", "Sec-Fetch-Site: same-site"}, 403},
		{"a page in an old browser", []string{"Origin: https://page.example"}, 403},
		{"a page without an origin", []string{"Origin: null"}, 403},
		{"an address bar", []string{"Sec-Fetch-Site: none"}, 200},
		{"another type", []string{"Content-Type: text/plain"}, 415},
		{"no type", []string{"Content-Type: "}, 415},
		{"a form", []string{"Content-Type: application/x-www-form-urlencoded"}, 415},
		{"a name that was made to mean this machine", []string{"Host: page.example"}, 421},
		{"a name that it has", []string{"Host: keys.example.org"}, 200},
		{"its own", []string{"Host: localhost:8436"}, 200},
	} {
		headers := append([]string{"Content-Type: application/json"}, test.headers...)
		response, answer := wire.Send(t, "POST", "/", capabilities, headers...)
		if response.StatusCode != test.want || response.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("JSON-RPC: %s: %s %s, want %d", test.name, response.Status, answer, test.want)
		}
		if test.want == 200 {
			test.want = 400 // what is sent is no request for it
		}
		response, answer = rest.Send(t, "POST", "/v1/keyserver:fetchKeyInit", "{}", headers...)
		if response.StatusCode != test.want || response.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("REST: %s: %s %s, want %d", test.name, response.Status, answer, test.want)
		}
	}
	preflight, _ := wire.Send(t, "OPTIONS", "/", "", "Origin: https://page.example",
		"Access-Control-Request-Method: POST", "Access-Control-Request-Headers: content-type,keytree-min-height")
	if preflight.StatusCode != http.StatusMethodNotAllowed || preflight.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("preflight: %s, %v", preflight.Status, preflight.Header)
	}
}

// TestBrowsersAreAdmitted has what is answered before any call, preflights and misdirected requests, count as calls; and pages read
// that they ask for too much.
func TestBrowsersAreAdmitted(t *testing.T) {
	const page = "Origin: https://page.example"
	for name, test := range map[string]struct {
		method  string
		headers []string
	}{
		"preflights":  {"OPTIONS", []string{page, "Access-Control-Request-Method: POST"}},
		"misdirected": {"GET", []string{"Host: attacker.example"}},
	} {
		t.Run(name, func(t *testing.T) {
			limits := admission.DefaultLimits()
			limits.Work = admission.Budget{All: 1000, One: 1} // ten at once, of which a connection is two
			r := rpctest.NewOf(t, rpc.Config{Admission: admission.New(admission.Config{Limits: limits}), Origins: []string{"*"}}, (&rpctest.Chain{}).Block())
			transport := new(http.Transport)
			defer transport.CloseIdleConnections()
			ask := func(method string, headers ...string) *http.Response {
				response, _ := r.SendOver(t, transport, method, "/v1/status", "", headers...)
				return response
			}
			for range 9 {
				ask(test.method, test.headers...)
			}
			refused := ask("GET", page)
			for tries := 1; refused.StatusCode == http.StatusOK; tries++ { // a second may have passed
				if tries == 5 { // GETs alone would have used it up after eight
					t.Fatal("they do not count as calls")
				}
				for range 9 {
					ask(test.method, test.headers...)
				}
				refused = ask("GET", page)
			}
			if refused.StatusCode != http.StatusTooManyRequests || refused.Header.Get("Retry-After") == "" || refused.Header.Get("Access-Control-Allow-Origin") != "*" {
				t.Errorf("%s %v", refused.Status, refused.Header)
			}
		})
	}
}
