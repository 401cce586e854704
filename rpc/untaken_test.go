package rpc_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// takers is how many clients there are at once.
const takers = 30

// untaken is the answer to a client that takes nothing of it.
type untaken struct {
	header   http.Header
	stuck    chan<- struct{}
	released <-chan struct{}
}

func (u *untaken) Header() http.Header { return u.header }

func (u *untaken) WriteHeader(int) {}

func (u *untaken) Write(b []byte) (int, error) {
	if len(b) <= 10 { // gzip's header, behind which its compressor begins
		return len(b), nil
	}
	u.stuck <- struct{}{}
	<-u.released
	return 0, fmt.Errorf("the client went away with %d bytes untaken", len(b))
}

// TestUntakenAnswersHoldLittle asks for the longest answers in a crowd that takes none.
func TestUntakenAnswersHoldLittle(t *testing.T) {
	if testing.Short() {
		t.Skip("it measures what is held")
	}
	c := &rpctest.Chain{}
	var requests, accepts []links.Action
	for i := range 120 {
		requests = append(requests, rpctest.MLR(fmt.Sprint("r", i), fmt.Sprint("deep", i+1), fmt.Sprint("deep", i), ""))
		accepts = append(accepts, rpctest.MLA(fmt.Sprint("a", i), fmt.Sprint("deep", i), fmt.Sprint("r", i)))
	}
	r := rpctest.New(t, c.Block(requests...), c.Block(accepts...), rpctest.RequestsOf(c, 20_000))
	many := make([]string, 10_000)
	for i := range many {
		many[i] = fmt.Sprintf("%q", rpctest.Address(fmt.Sprint("never linked", i)))
	}
	for name, test := range map[string]struct {
		method, path, body string
		most               int64  // held by each, beside the body
		encoding           string // that it accepts
	}{
		"one deep address 10,000 times": {"POST", "/v1/addresses:batchResolve",
			`{"addresses":[` + strings.TrimSuffix(strings.Repeat(fmt.Sprintf("%q,", rpctest.Address("deep120")), 10_000), ",") + `]}`, 3 << 19, ""},
		"10,000 addresses": {"POST", "/v1/addresses:batchResolve", `{"addresses":[` + strings.Join(many, ",") + `]}`, 3 << 19, ""},
		"many events":      {"GET", "/v1/events?page_size=10000", "", 1 << 20, ""},
		"an export":        {"GET", "/v1/export", "", 3 << 19, ""},
		"compressed":       {"GET", "/v1/events?page_size=10000", "", 3 << 19, "gzip"},
		"one event":        {"GET", "/v1/events?page_size=1&from_height=2", "", 100 << 10, ""},
	} {
		t.Run(name, func(t *testing.T) {
			stuck, released, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
			before := rpctest.InUse()
			for range takers {
				go func() {
					defer func() { recover(); ended <- struct{}{} }() // an answer is broken off by a panic
					request := httptest.NewRequest(test.method, test.path, strings.NewReader(test.body))
					request.Header.Set("Content-Type", "application/json")
					request.Header.Set("Accept-Encoding", test.encoding)
					r.Server.Handler().ServeHTTP(&untaken{http.Header{}, stuck, released}, request)
				}()
			}
			for range takers {
				<-stuck
			}
			each := (rpctest.InUse() - before) / takers
			close(released)
			for range takers {
				select {
				case <-ended:
				case <-stuck:
					t.Error("it goes on writing to a client that is gone")
				}
			}
			t.Logf("each of %d holds %d bytes", takers, each)
			if each > test.most {
				t.Errorf("each of %d untaken answers holds %d bytes, want at most %d", takers, each, test.most)
			}
		})
	}
}
