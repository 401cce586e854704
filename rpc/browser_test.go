package rpc_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/rpc"
)

// send makes a REST request, with headers as NAME: VALUE, and returns what came back. The
// transport asks for no compression, and undoes none.
func (r *rig) send(t *testing.T, method, path, body string, headers ...string) (*http.Response, string) {
	t.Helper()
	request, err := http.NewRequest(method, r.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		if request.Header.Set(name, value); name == "Host" {
			request.Host = value
		}
	}
	transport := &http.Transport{DisableCompression: true}
	defer transport.CloseIdleConnections()
	response, err := transport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(text)
}

func TestHead(t *testing.T) {
	_, blocks := family()
	r := newRig(t, blocks...)
	for _, path := range []string{
		"/healthz", "/readyz", "/v1/status", "/v1/addresses/" + address("child"), "/v1/events", "/v1/identities/" + hashOf("mlr1").String(),
		"/v1/identities/" + hashOf("nothing").String(), "/v1/nothing",
	} {
		get, body := r.send(t, "GET", path, "")
		head, nothing := r.send(t, "HEAD", path, "")
		if head.StatusCode != get.StatusCode || nothing != "" || body == "" {
			t.Errorf("HEAD %s: %s with %d bytes, GET: %s with %d", path, head.Status, len(nothing), get.Status, len(body))
		}
		for _, name := range []string{"Content-Type", "Content-Length", "Etag", "Cache-Control", "Vary"} {
			if head.Header.Get(name) != get.Header.Get(name) {
				t.Errorf("HEAD %s: %s is %q, with GET %q", path, name, head.Header.Get(name), get.Header.Get(name))
			}
		}
	}
}

func TestOptions(t *testing.T) {
	r := newRig(t, (&chain{}).block())
	for path, want := range map[string]string{
		"/v1/status":                 "GET, HEAD, OPTIONS",
		"/healthz":                   "GET, HEAD, OPTIONS",
		"/v1/addresses:batchResolve": "POST, OPTIONS",
	} {
		response, body := r.send(t, "OPTIONS", path, "")
		if got := response.Header.Get("Allow"); response.StatusCode != http.StatusNoContent || got != want || body != "" {
			t.Errorf("OPTIONS %s: %s, Allow %q, %q; want 204 and %q", path, response.Status, got, body, want)
		}
	}
	if response, _ := r.send(t, "OPTIONS", "/v1/nothing", ""); response.StatusCode != http.StatusNotFound {
		t.Errorf("OPTIONS /v1/nothing: %s, want 404", response.Status)
	}
}

// TestBodiesAreCalledJSON sends one body under the types under which a page of another
// origin can have a browser send it unasked, and under others.
func TestBodiesAreCalledJSON(t *testing.T) {
	r := newRig(t, (&chain{}).block())
	body := `{"addresses": ["` + address("child") + `"]}`
	for contentType, want := range map[string]int{
		"application/json":                  200,
		"application/json; charset=utf-8":   200,
		"Application/JSON":                  200,
		"":                                  415,
		"text/plain":                        415,
		"application/x-www-form-urlencoded": 415,
		"multipart/form-data; boundary=x":   415,
		"application/json, text/plain":      415,
		"text/plain; application/json":      415,
	} {
		response, answer := r.send(t, "POST", "/v1/addresses:batchResolve", body, "Content-Type: "+contentType)
		if response.StatusCode != want || want != 200 && !strings.Contains(answer, "expected application/json") {
			t.Errorf("%q: %s %s, want %d", contentType, response.Status, answer, want)
		}
	}
}

// TestOrigins asks as a browser does for pages of other origins.
func TestOrigins(t *testing.T) {
	const page = "https://page.example"
	_, blocks := family()
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
			r := newRigOf(t, rpc.Config{Origins: test.origins}, blocks...)
			get, body := r.send(t, "GET", "/v1/status", "", "Origin: "+page)
			if got := get.Header.Get("Access-Control-Allow-Origin"); got != test.want || get.StatusCode != 200 || body == "" {
				t.Errorf("GET: %s, allowed for %q, want %q", get.Status, got, test.want)
			}
			if get.Header.Get("Access-Control-Allow-Credentials") != "" {
				t.Error("credentials are allowed")
			}
			ask, _ := r.send(t, "OPTIONS", "/v1/addresses:batchResolve", "", "Origin: "+page,
				"Access-Control-Request-Method: POST", "Access-Control-Request-Headers: content-type")
			allowed := ask.Header.Get("Access-Control-Allow-Origin") == test.want && ask.Header.Get("Access-Control-Allow-Headers") == "content-type" &&
				ask.Header.Get("Access-Control-Allow-Methods") == "POST"
			if allowed != (test.want != "") || ask.StatusCode != http.StatusNoContent {
				t.Errorf("preflight: %s, %v", ask.Status, ask.Header)
			}
			for _, method := range []string{"GET", "OPTIONS"} {
				response, _ := r.send(t, method, "/v1/keyserver", "", "Origin: "+page, "Access-Control-Request-Method: GET")
				if got := response.Header.Get("Access-Control-Allow-Origin"); got != "" {
					t.Errorf("%s of the keyserver is allowed for %q", method, got)
				}
			}
		})
	}
}

// TestHost asks under the names that a browser can be made to use for this machine.
func TestHost(t *testing.T) {
	r := newRigOf(t, rpc.Config{Hosts: []string{"keys.example.org"}}, (&chain{}).block())
	for host, want := range map[string]int{"localhost": 200, "127.0.0.1:8435": 200, "keys.example.org": 200, "evil.example:8435": 421} {
		response, answer := r.send(t, "GET", "/v1/status", "", "Host: "+host)
		if response.StatusCode != want || want == 421 && !strings.Contains(answer, "evil.example") {
			t.Errorf("%s: %s %s, want %d", host, response.Status, answer, want)
		}
	}
}

// TestKeyserverFromPages calls the keyserver as browsers do for pages, on both of its
// wires that browsers can reach.
func TestKeyserverFromPages(t *testing.T) {
	r := newKeyserverRig(t, rigOptions{hosts: []string{"keys.example.org"}})
	wire := &rig{url: strings.TrimSuffix(r.url, "/")}
	rest := &rig{url: r.rest}
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
		response, answer := wire.send(t, "POST", "/", capabilities, headers...)
		if response.StatusCode != test.want || response.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("JSON-RPC: %s: %s %s, want %d", test.name, response.Status, answer, test.want)
		}
		if test.want == 200 {
			test.want = 400 // what is sent is no request for it
		}
		response, answer = rest.send(t, "POST", "/v1/keyserver:fetchKeyInit", "{}", headers...)
		if response.StatusCode != test.want || response.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("REST: %s: %s %s, want %d", test.name, response.Status, answer, test.want)
		}
	}
	preflight, _ := wire.send(t, "OPTIONS", "/", "", "Origin: https://page.example",
		"Access-Control-Request-Method: POST", "Access-Control-Request-Headers: content-type")
	if preflight.StatusCode != http.StatusMethodNotAllowed || preflight.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("preflight: %s, %v", preflight.Status, preflight.Header)
	}
}
