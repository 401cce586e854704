package rpc_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/rpc"
	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/fault"
	"github.com/keytree-bch/keytree/rpc/identity"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// TestMinHeight names blocks that the server has, that it has not, and that are none, over both transports. Those that wait in
// vain wait together.
func TestMinHeight(t *testing.T) {
	_, blocks := rpctest.Family()
	r := rpctest.New(t, blocks...)
	tip := blocks[6].Hash.String()
	etag, _ := r.Send(t, "GET", "/v1/identities/"+rpctest.HashOf("mlr1").String(), "")
	var waiting sync.WaitGroup
	for named, want := range map[string]struct {
		code codes.Code
		http int
		says string
	}{
		"0":        {codes.OK, 200, ""},
		"6":        {codes.OK, 200, ""},
		"6-" + tip: {codes.OK, 200, ""},
		"2-" + strings.ToUpper(blocks[2].Hash.String()): {codes.OK, 200, ""},
		"":                {codes.OK, 200, ""},
		"7":               {codes.Unavailable, 503, "the server is at 6"},
		"4294967295":      {codes.Unavailable, 503, "block 4294967295 is asked for"},
		"7-" + tip:        {codes.Unavailable, 503, "the server is at 6"},
		"5-" + tip:        {codes.Aborted, 409, "a different branch"},
		"x":               {codes.InvalidArgument, 400, "got"},
		"-1":              {codes.InvalidArgument, 400, "got"},
		"4294967296":      {codes.InvalidArgument, 400, "expected HEIGHT"},
		"6-" + tip[1:]:    {codes.InvalidArgument, 400, "64 hex"},
		"6-" + tip + "-6": {codes.InvalidArgument, 400, "hex"},
	} {
		waiting.Go(func() {
			response, text := r.Send(t, "GET", "/v1/identities/"+rpctest.HashOf("mlr1").String(), "",
				"Keytree-Min-Height: "+named, "If-None-Match: "+etag.Header.Get("Etag"))
			if again := response.Header.Get("Retry-After"); want.http != 200 && (response.StatusCode != want.http || !strings.Contains(text, want.says) || (again == "1") != (want.http != 400)) {
				t.Errorf("REST, %q: %s, %s, Retry-After %q", named, response.Status, text, again)
			} else if want.http == 200 && response.StatusCode != http.StatusNotModified {
				t.Errorf("REST, %q: %s", named, response.Status)
			}
		})
		waiting.Go(func() {
			ctx := metadata.AppendToOutgoingContext(t.Context(), identity.MinHeight, named)
			_, err := r.Client.GetStatus(ctx, &keytreev1.GetStatusRequest{})
			_, later := fault.RetryAfter(err)
			if status.Code(err) != want.code || err != nil && !strings.Contains(err.Error(), want.says) || later != (want.http == 503 || want.http == 409) {
				t.Errorf("gRPC, %q: %v", named, err)
			}
			watch, err := r.Client.Watch(ctx, &keytreev1.WatchRequest{FromHeight: proto.Uint32(6)})
			if err == nil {
				_, err = watch.Recv()
			}
			if status.Code(err) != want.code {
				t.Errorf("Watch, %q: %v", named, err)
			}
		})
	}
	for _, path := range []string{"/healthz", "/docs"} {
		waiting.Go(func() {
			if response, _ := r.Send(t, "GET", path, "", "Keytree-Min-Height: x"); response.StatusCode != 200 {
				t.Errorf("%s: %s", path, response.Status)
			}
		})
	}
	waiting.Wait()
}

// TestMinHeightComes names blocks that come while the requests wait, and asks with all places taken by such.
func TestMinHeightComes(t *testing.T) {
	c, blocks := rpctest.Family()
	limits := admission.DefaultLimits()
	limits.Requests, limits.Patience = admission.Budget{All: 8, One: 2}, 1 // nanosecond
	gate := admission.New(admission.Config{Limits: limits})
	r := rpctest.NewOf(t, rpc.Config{Admission: gate}, blocks...)
	next := c.Block()
	answers := make(chan int, 2)
	ask := func(named string) {
		request, err := http.NewRequest("GET", r.URL+"/v1/status", nil)
		if err != nil {
			t.Error(err)
			return
		}
		request.Header.Set(identity.MinHeight, named)
		transport := &http.Transport{}
		defer transport.CloseIdleConnections()
		response, err := transport.RoundTrip(request)
		if err != nil {
			answers <- 0
			return
		}
		response.Body.Close()
		answers <- response.StatusCode
	}
	wait := func() {
		regtest.Await(t, func() string {
			if n := gate.Usage().Requests; n != 2 {
				return fmt.Sprintf("%d requests wait", n)
			}
			return ""
		})
	}
	go ask("7")
	go ask("7-" + next.Hash.String())
	wait()
	r.Connect(t, next)
	for range 2 {
		if code := <-answers; code != 200 {
			t.Errorf("a request whose block came: %d", code)
		}
	}

	go ask("9")
	go ask("9")
	wait()
	if response, _ := r.Send(t, "GET", "/v1/status", ""); response.StatusCode != 200 {
		t.Errorf("while requests wait for their blocks: %s", response.Status)
	}
	for range 2 {
		if code := <-answers; code != 0 && code != 503 {
			t.Errorf("a request that waits in vain: %d", code)
		}
	}
}
