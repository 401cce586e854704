package web_test

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"

	"github.com/keytree-bch/keytree/rpc"
	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// readDocument reads the OpenAPI document. What is validated with it may have no field
// that is not documented.
func readDocument(t *testing.T) *openapi3.T {
	t.Helper()
	text, err := os.ReadFile("openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	document, err := openapi3.NewLoader().LoadFromData(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := document.Validate(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, schema := range document.Components.Schemas {
		close(schema.Value)
	}
	return document
}

// close lets objects have no other fields than those that a schema has.
func close(schema *openapi3.Schema) {
	if len(schema.Properties) > 0 {
		schema.AdditionalProperties = openapi3.AdditionalProperties{Has: openapi3.Ptr(false)}
	}
	for _, property := range schema.Properties {
		if items := property.Value.Items; items != nil && items.Ref == "" {
			close(items.Value)
		}
	}
}

// TestDocumentIsTrue makes every call of the document on a running server, provokes every
// error that the document says, and compares what comes with what it says.
func TestDocumentIsTrue(t *testing.T) {
	for _, kind := range []string{"text/html", "text/css", "text/javascript", "text/event-stream", "application/x-ndjson"} {
		openapi3filter.RegisterBodyDecoder(kind, openapi3filter.FileBodyDecoder)
		t.Cleanup(func() { openapi3filter.UnregisterBodyDecoder(kind) })
	}
	document, w := readDocument(t), newWorld(t)
	asks := w.asks(t)
	var calls []routers.Route
	for path, item := range document.Paths.Map() {
		for method, operation := range item.Operations() {
			calls = append(calls, routers.Route{Spec: document, Path: path, PathItem: item, Method: method, Operation: operation})
		}
	}
	// What a keyserver is to show has to be there first.
	slices.SortFunc(calls, func(a, b routers.Route) int { return rank(a.Operation.OperationID) - rank(b.Operation.OperationID) })
	for _, call := range calls {
		name := call.Operation.OperationID
		if len(asks[name]) == 0 {
			t.Errorf("%s: nothing asks it", name)
			continue
		}
		c := checked{t, &call}
		seen := map[int]bool{}
		for _, a := range asks[name] {
			c.send(a, w.URL)
			seen[a.status] = true
		}
		c.everyErrorOf(w, asks[name], seen)
		for status := range call.Operation.Responses.Map() {
			if code, err := strconv.Atoi(status); err == nil && !seen[code] {
				t.Errorf("%s: nothing provokes the documented status %s", name, status)
			}
		}
		delete(asks, name)
	}
	for name := range asks {
		t.Errorf("%s is asked, but not documented", name)
	}
}

func rank(call string) int {
	if i := slices.Index(keyserverOrder(), call); i >= 0 {
		return i - len(keyserverOrder())
	}
	return 0
}

// checked is a call whose answers are compared with the document.
type checked struct {
	*testing.T
	*routers.Route
}

// everyErrorOf provokes the errors that many calls have.
func (c checked) everyErrorOf(w *world, asks []ask, seen map[int]bool) {
	c.Helper()
	good := asks[slices.IndexFunc(asks, func(a ask) bool { return a.status == http.StatusOK })]
	for _, e := range []struct {
		status  int
		body    any
		headers []string
	}{
		{status: http.StatusMisdirectedRequest, headers: []string{"Host: evil.example"}},
		{status: http.StatusForbidden, headers: []string{"Sec-Fetch-Site: cross-site"}},
		{status: http.StatusUnsupportedMediaType, headers: []string{"Content-Type: text/plain"}},
		{status: http.StatusRequestEntityTooLarge, body: strings.Repeat(" ", admission.MaxRequest+1)},
	} {
		if c.documented(e.status) {
			a := ask{e.status, good.path, good.body, e.headers}
			if e.body != nil {
				a.body = e.body
			}
			c.send(a, w.URL)
			seen[e.status] = true
		}
	}
	if c.documented(http.StatusNotModified) {
		etag := c.send(good, w.URL).Header.Get("Etag")
		c.send(ask{http.StatusNotModified, good.path, nil, []string{"If-None-Match: " + etag}}, w.URL)
		seen[http.StatusNotModified] = true
	}
	if c.documented(http.StatusServiceUnavailable) {
		c.send(ask{http.StatusServiceUnavailable, good.path, good.body, nil}, w.failed.URL)
		seen[http.StatusServiceUnavailable] = true
	}
	if c.documented(http.StatusTooManyRequests) {
		for range 50 { // ten calls at once are allowed, and one a second
			response := c.made(ask{0, good.path, good.body, nil}, w.busy.URL)
			if response.StatusCode == http.StatusTooManyRequests {
				seen[http.StatusTooManyRequests] = true
				if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err != nil || seconds < 1 {
					c.Errorf("%s: 429 with Retry-After %q", c.Operation.OperationID, response.Header.Get("Retry-After"))
				}
				break
			}
		}
	}
}

func (c checked) documented(status int) bool { return c.Operation.Responses.Status(status) != nil }

// send makes a request that must be answered as is expected.
func (c checked) send(a ask, server string) *http.Response {
	c.Helper()
	response := c.made(a, server)
	if response.StatusCode != a.status || !c.documented(a.status) {
		body, _ := io.ReadAll(response.Body)
		c.Errorf("%s %s: %s %.300s; want %d, documented: %v", c.Method, a.path, response.Status, body, a.status, c.documented(a.status))
	}
	return response
}

// made makes a request and compares the answer with the document.
func (c checked) made(a ask, server string) *http.Response {
	c.Helper()
	request := a.request(c.T, server, c.Method)
	transport := &http.Transport{DisableCompression: true}
	defer transport.CloseIdleConnections()
	response, err := transport.RoundTrip(request)
	if err != nil {
		c.Fatal(err)
	}
	body, err := io.ReadAll(response.Body)
	response.Body.Close()
	if err != nil {
		c.Fatal(err)
	}
	response.Body = io.NopCloser(bytes.NewReader(body))
	input := &openapi3filter.RequestValidationInput{
		Request: a.request(c.T, server, c.Method), PathParams: c.pathOf(request.URL), Route: c.Route,
		Options: &openapi3filter.Options{IncludeResponseStatus: true, MultiError: true},
	}
	if response.StatusCode == http.StatusOK {
		if err := openapi3filter.ValidateRequest(c.Context(), input); err != nil {
			c.Errorf("%s %s: the document does not allow the request: %v", c.Method, a.path, err)
		}
	}
	err = openapi3filter.ValidateResponse(c.Context(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: input, Status: response.StatusCode, Header: response.Header, Body: io.NopCloser(bytes.NewReader(body)), Options: input.Options,
	})
	if err != nil {
		c.Errorf("%s %s: %s is not as documented: %v\n%.500s", c.Method, a.path, response.Status, err, body)
	}
	return response
}

// pathOf returns the parameters in a path.
func (c checked) pathOf(u *url.URL) map[string]string {
	c.Helper()
	name := regexp.MustCompile(`\{([a-z_]+)\}`)
	match := regexp.MustCompile("^" + name.ReplaceAllString(c.Path, `(?P<$1>[^/]+)`) + "$")
	found := match.FindStringSubmatch(u.Path)
	if found == nil {
		c.Fatalf("%s is asked by %s", c.Path, u.Path)
	}
	parameters := make(map[string]string)
	for i, name := range match.SubexpNames() {
		parameters[name] = found[i]
	}
	return parameters
}

// TestStatic asks for what is the same for all.
func TestStatic(t *testing.T) {
	r := rpctest.NewOf(t, rpc.Config{Origins: []string{"*"}}, (&rpctest.Chain{}).Block())
	for path, kind := range map[string]string{
		"/openapi.json": "application/json", "/docs": "text/html; charset=utf-8",
		"/docs/docs.css": "text/css; charset=utf-8", "/docs/docs.js": "text/javascript; charset=utf-8",
	} {
		get, text := r.Send(t, "GET", path, "", "Origin: https://page.example", "Range: bytes=0-1")
		etag := get.Header.Get("Etag")
		if get.StatusCode != 200 || get.Header.Get("Content-Type") != kind || get.Header.Get("Cache-Control") != "no-cache" || etag == "" {
			t.Errorf("%s: %s %v", path, get.Status, get.Header)
		}
		if get.Header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("%s: pages may not read it: %v", path, get.Header)
		}
		if policy := get.Header.Get("Content-Security-Policy"); !strings.HasPrefix(policy, "default-src 'none';") || strings.Contains(policy, "unsafe") {
			t.Errorf("%s: %q", path, policy)
		}
		if head, body := r.Send(t, "HEAD", path, ""); head.StatusCode != 200 || body != "" || head.ContentLength != int64(len(text)) {
			t.Errorf("HEAD %s: %s, %d bytes of %d", path, head.Status, head.ContentLength, len(text))
		}
		if again, body := r.Send(t, "GET", path, "", "If-None-Match: "+etag); again.StatusCode != http.StatusNotModified || body != "" {
			t.Errorf("%s again: %s", path, again.Status)
		}
		if packed, body := r.Send(t, "GET", path, "", "Accept-Encoding: gzip"); packed.Header.Get("Content-Encoding") != "gzip" || len(body) > len(text)/2 {
			t.Errorf("%s: %d bytes of %d, encoding %q", path, len(body), len(text), packed.Header.Get("Content-Encoding"))
		}
		if post, _ := r.Send(t, "POST", path, ""); post.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("POST %s: %s", path, post.Status)
		}
	}
}

// TestPageTellsAll looks for every call and every message on the page as the server sends
// it, without a script, and for anything that the page would load from elsewhere.
func TestPageTellsAll(t *testing.T) {
	r := rpctest.New(t, (&rpctest.Chain{}).Block())
	_, page := r.Send(t, "GET", "/docs", "")
	document := readDocument(t)
	for path, item := range document.Paths.Map() {
		for _, operation := range item.Operations() {
			if !strings.Contains(page, `id="`+operation.OperationID+`"`) || !strings.Contains(page, "<code>"+path+"</code>") {
				t.Errorf("%s %s is not on the page", operation.OperationID, path)
			}
		}
	}
	for name := range document.Components.Schemas {
		if !strings.Contains(page, `id="schema-`+name+`"`) {
			t.Errorf("%s is not on the page", name)
		}
	}
	for _, link := range regexp.MustCompile(`(?:href|src)="([^"]*)"`).FindAllStringSubmatch(page, -1) {
		if to := link[1]; !strings.HasPrefix(to, "/") && !strings.HasPrefix(to, "#") && to != "data:," {
			t.Errorf("the page has a link to %s", to)
		}
		if to, ok := strings.CutPrefix(link[1], "#"); ok && !strings.Contains(page, `id="`+to+`"`) {
			t.Errorf("the page has a link to %s, which is not there", link[1])
		}
	}
	if regexp.MustCompile(`<script[^>]*>[^<]|<style| style=| on[a-z]+="`).MatchString(page) {
		t.Error("the page has a script or a style within, which its policy forbids")
	}
}
