package identity_test

import (
	"bufio"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/rpc/identity"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rest"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// TestHeartbeat follows an address that nothing happens to: the stream says again and again what its client has, and that is
// the tip, though the client was told of no block.
func TestHeartbeat(t *testing.T) {
	if identity.DefaultHeartbeat != 15*time.Second {
		t.Errorf("a follower is told every %v what it has, want 15 s: the documents say so", identity.DefaultHeartbeat)
	}
	c, blocks := rpctest.Family()
	r := rpctest.New(t, blocks...)
	mux := rest.NewMux()
	services := identity.New(identity.Config{Graph: r.Graph, Indexer: r.Follower, Net: rpctest.Net, Log: zerolog.Nop(), Heartbeat: 5 * time.Millisecond})
	if err := services.RegisterREST(mux); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(mux)
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/v1/stream?addresses="+rpctest.Address("lone"), nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	next := c.Block()
	times, connected := map[string]int{}, false
	for lines := bufio.NewScanner(response.Body); times[next.Hash.String()] < 3; {
		if !lines.Scan() {
			t.Fatalf("the stream has ended: %v", lines.Err())
		}
		id, ok := strings.CutPrefix(lines.Text(), "id: ")
		switch {
		case ok:
			times[strings.Split(id, "-")[1]]++
			if times[blocks[len(blocks)-1].Hash.String()] == 3 && !connected {
				connected = true
				r.Connect(t, next)
			}
		case strings.HasPrefix(lines.Text(), "event: "):
			t.Fatalf("an address that nothing happens to: %s", lines.Text())
		}
	}
}

// TestFollowedMemory finds in the status what is followed, for as long as it is.
func TestFollowedMemory(t *testing.T) {
	_, blocks := rpctest.Family()
	r := rpctest.New(t, blocks...)
	followed := func() uint64 {
		t.Helper()
		s, err := r.Client.GetStatus(t.Context(), &keytreev1.GetStatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return s.Memory.Followed
	}
	if n := followed(); n != 0 {
		t.Errorf("%d bytes, though nobody follows", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := r.Client.Watch(ctx, &keytreev1.WatchRequest{FromHeight: proto.Uint32(0), Addresses: []string{rpctest.Address("child"), rpctest.Address("lone")}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	if n := followed(); n < 2*80 || n > 10_000 {
		t.Errorf("two addresses take %d bytes", n)
	}
	cancel()
	for followed() != 0 { // until the server has seen that the client has gone
		time.Sleep(time.Millisecond)
	}
}
