package rest_test

import (
	"compress/gzip"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/rpc/rpctest"
)

func TestCompression(t *testing.T) {
	c := &rpctest.Chain{}
	blocks, genesis := rpctest.Long(t, c, 30)
	r := rpctest.New(t, append(blocks, rpctest.RequestsOf(c, 2000))...)
	bundle := "/v1/anchors/chains/" + rpctest.ID(genesis) + "/bundle"
	for path, compressed := range map[string]bool{"/v1/events?page_size=2000": true, "/v1/addresses/" + rpctest.Address("c1"): false, bundle: false} {
		plain, want := r.Send(t, "GET", path, "")
		response, body := r.Send(t, "GET", path, "", "Accept-Encoding: gzip, deflate, br, zstd")
		if plain.Header.Get("Content-Encoding") != "" || (response.Header.Get("Content-Encoding") == "gzip") != compressed {
			t.Errorf("%s: Content-Encoding %q unasked, %q asked", path, plain.Header.Get("Content-Encoding"), response.Header.Get("Content-Encoding"))
		}
		if compressed {
			if !strings.Contains(strings.Join(response.Header.Values("Vary"), ","), "Accept-Encoding") || len(body) > len(want)/2 {
				t.Errorf("%s: %d bytes of %d, Vary %q", path, len(body), len(want), response.Header.Values("Vary"))
			}
			unpacked, err := gzip.NewReader(strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(unpacked)
			if err != nil {
				t.Fatal(err)
			}
			body = string(text)
		}
		if body != want {
			t.Errorf("%s: %d bytes, without compression %d", path, len(body), len(want))
		}
	}
}

// TestEncodingsHaveETags asks for an answer, a page of the documents and a short answer, in both encodings, and whether what
// came is still it.
func TestEncodingsHaveETags(t *testing.T) {
	c := &rpctest.Chain{}
	r := rpctest.New(t, rpctest.RequestsOf(c, 100))
	long := "/v1/addresses/" + rpctest.Address("parent") + "/requests?page_size=100"
	for path, compressed := range map[string]bool{long: true, "/docs": true, "/v1/addresses/" + rpctest.Address("c1"): false} {
		plain, _ := r.Send(t, "GET", path, "")
		packed, _ := r.Send(t, "GET", path, "", "Accept-Encoding: gzip")
		own, other := plain.Header.Get("Etag"), packed.Header.Get("Etag")
		if own == "" || (own != other) != compressed {
			t.Errorf("%s: ETag %s, compressed %s", path, own, other)
		}
		for _, test := range []struct {
			asked, accepts string
			want           int
			etag           string
		}{
			{own, "", 304, own}, {own, "gzip", 304, own}, {other, "gzip", 304, other}, {`"x", ` + other, "br, gzip", 304, other},
			{strings.TrimSuffix(own, `"`) + `-gzip"`, "", 200, own},
			{strings.TrimSuffix(own, `"`) + `-br"`, "gzip", 200, other},
		} {
			response, body := r.Send(t, "GET", path, "", "If-None-Match: "+test.asked, "Accept-Encoding: "+test.accepts)
			if response.StatusCode != test.want || response.Header.Get("Etag") != test.etag || (body == "") != (test.want == 304) {
				t.Errorf("%s with %s, accepting %q: %s, ETag %s; want %d, %s", path, test.asked, test.accepts, response.Status, response.Header.Get("Etag"), test.want, test.etag)
			}
		}
	}
}

func TestHead(t *testing.T) {
	_, blocks := rpctest.Family()
	r := rpctest.New(t, blocks...)
	for _, path := range []string{
		"/healthz", "/readyz", "/v1/status", "/v1/addresses/" + rpctest.Address("child"), "/v1/events", "/v1/identities/" + rpctest.HashOf("mlr1").String(),
		"/v1/identities/" + rpctest.HashOf("nothing").String(), "/v1/nothing",
	} {
		get, body := r.Send(t, "GET", path, "")
		head, nothing := r.Send(t, "HEAD", path, "")
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
	r := rpctest.New(t, (&rpctest.Chain{}).Block())
	for path, want := range map[string]string{
		"/v1/status":                 "GET, HEAD, OPTIONS",
		"/healthz":                   "GET, HEAD, OPTIONS",
		"/v1/addresses:batchResolve": "POST, OPTIONS",
		"/v1/stream":                 "GET, HEAD, POST, OPTIONS",
	} {
		response, body := r.Send(t, "OPTIONS", path, "")
		if got := response.Header.Get("Allow"); response.StatusCode != http.StatusNoContent || got != want || body != "" {
			t.Errorf("OPTIONS %s: %s, Allow %q, %q; want 204 and %q", path, response.Status, got, body, want)
		}
	}
	if response, _ := r.Send(t, "OPTIONS", "/v1/nothing", ""); response.StatusCode != http.StatusNotFound {
		t.Errorf("OPTIONS /v1/nothing: %s, want 404", response.Status)
	}
}

// TestBodiesAreCalledJSON sends one body under the types under which a page of another
// origin can have a browser send it unasked, and under others.
func TestBodiesAreCalledJSON(t *testing.T) {
	r := rpctest.New(t, (&rpctest.Chain{}).Block())
	body := `{"addresses": ["` + rpctest.Address("child") + `"]}`
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
		response, answer := r.Send(t, "POST", "/v1/addresses:batchResolve", body, "Content-Type: "+contentType)
		if response.StatusCode != want || want != 200 && !strings.Contains(answer, "expected application/json") {
			t.Errorf("%q: %s %s, want %d", contentType, response.Status, answer, want)
		}
	}
}

func TestUnknownPathsAndMethods(t *testing.T) {
	_, blocks := rpctest.Family()
	r := rpctest.New(t, blocks...)
	for _, test := range []struct {
		method, path string
		want         int
		allow        string
	}{
		{"GET", "/v1", 404, ""},
		{"GET", "/v1/nothing", 404, ""},
		{"GET", "/v1/addresses", 404, ""},
		{"GET", "/v1/addresses/a/b/c", 404, ""},
		{"GET", "/v2/status", 404, ""},
		{"GET", "//etc/passwd", 404, ""},
		{"POST", "/v1/status", 405, "GET, HEAD, OPTIONS"},
		{"DELETE", "/v1/addresses/" + rpctest.Address("child"), 405, "GET, HEAD, OPTIONS"},
		{"GET", "/v1/addresses:batchResolve", 405, "POST, OPTIONS"},
		{"PUT", "/v1/addresses:batchResolve", 405, "POST, OPTIONS"},
		{"PUT", "/v1/stream", 405, "GET, HEAD, POST, OPTIONS"},
		{"POST", "/readyz", 405, "GET, HEAD, OPTIONS"},
	} {
		t.Run(test.method+" "+test.path, func(t *testing.T) {
			response, answer := r.REST(t, test.method, test.path, "")
			if response.StatusCode != test.want || response.Header.Get("Allow") != test.allow || answer["message"] == "" {
				t.Errorf("got %d, Allow %q, %v; want %d, Allow %q", response.StatusCode, response.Header.Get("Allow"), answer, test.want, test.allow)
			}
		})
	}
}
