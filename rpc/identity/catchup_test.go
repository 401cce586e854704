package identity_test

import (
	"bufio"
	"net/http"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/rpc"
	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// TestCatchingUpIsWork has a client follow all of history: that takes its budget of work, and nobody else's, and the stream
// goes on as soon as there is some again.
func TestCatchingUpIsWork(t *testing.T) {
	const events, oneHas = 12_000, 20
	limits := admission.DefaultLimits()
	limits.Work.One = oneHas // ten seconds' worth at once
	gate := admission.New(admission.Config{Limits: limits, Proxies: admission.Loopback()})
	c := &rpctest.Chain{}
	r := rpctest.NewOf(t, rpc.Config{Admission: gate}, rpctest.RequestsOf(c, events), c.Block())
	ask := func(client, path string) *http.Response {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("X-Forwarded-For", client)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { response.Body.Close() })
		return response
	}
	stream := ask("192.0.2.1", "/v1/stream?from_height=0")
	lines := bufio.NewScanner(stream.Body)
	lines.Buffer(nil, 1<<20)
	refused := false
	for blocks := 0; ; {
		if !lines.Scan() {
			t.Fatalf("the stream has ended: %v", lines.Err())
		}
		if strings.HasPrefix(lines.Text(), "event: fault") {
			lines.Scan()
			t.Fatalf("the stream has ended: %s", lines.Text())
		}
		if strings.HasPrefix(lines.Text(), "id: 1-") { // the last block
			break
		}
		if !strings.HasPrefix(lines.Text(), "event: connect") {
			continue
		}
		if blocks++; !refused && blocks > 10*oneHas {
			refused = ask("192.0.2.1", "/v1/status").StatusCode == http.StatusTooManyRequests
		}
	}
	if !refused {
		t.Errorf("the client was never refused, though it was told %d events, which are %d calls, and may make %d and %d per second", events, events/50, 10*oneHas, oneHas)
	}
	if other := ask("192.0.2.2", "/v1/status"); other.StatusCode != http.StatusOK {
		t.Errorf("another client: %s", other.Status)
	}
}
