package identity_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/rpc/identity"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// processorTime returns what a question takes of this thread.
func processorTime(t *testing.T, ask func()) time.Duration {
	t.Helper()
	const ofThread = 1 // RUSAGE_THREAD
	now := func() int64 {
		var u syscall.Rusage
		if err := syscall.Getrusage(ofThread, &u); err != nil {
			t.Fatal(err)
		}
		return u.Utime.Nano() + u.Stime.Nano()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	start := now()
	ask()
	return time.Duration(now() - start)
}

// TestAdversaryCalls makes the calls that cost most, on a chain on which somebody has paid for it: whatever that is, a
// page holds what a page may, and its next page can be asked for. The processor time of each, and of its answer in JSON,
// is logged: at full size with
//
//	KEYTREE_EXHAUSTIVE=1 go test ./rpc/identity -run AdversaryCalls -v
func TestAdversaryCalls(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	many, messages, times := 1200, 1100, 1
	if os.Getenv("KEYTREE_EXHAUSTIVE") != "" {
		many, times = 20_000, 5
	}
	c := &rpctest.Chain{}
	var form, cut, speak []links.Action
	for n := range many {
		child, request, accept := fmt.Sprint("child", n), fmt.Sprint("request", n), fmt.Sprint("accept", n)
		form = append(form, rpctest.MLR(request, child, "middle", ""), rpctest.MLA(accept, "middle", request))
		cut = append(cut, rpctest.MCR(fmt.Sprint("revoke", n), "middle", accept))
	}
	for n := range messages { // in JSON a control character takes six bytes, and two more in hex
		speak = append(speak, rpctest.MLR(fmt.Sprint("speech", n), fmt.Sprint("speaker", n), "listener", strings.Repeat("\x01", 1000)))
	}
	var anchored []rpctest.AnchorTx
	for n := range many {
		anchored = append(anchored, rpctest.AnchorOf(t, fmt.Sprint("keyserver", n), rpctest.Record("example.org", uint64(n))))
	}
	r := rpctest.New(t, c.Block(form...), c.Block(cut...), c.Block(speak...), c.Anchored(t, nil, anchored...))
	identities, chains := identity.NewIdentityService(r.Graph, r.Follower), identity.NewAnchorService(r.Graph, r.Follower)
	ctx, linked := t.Context(), proto.Uint32(0)
	id, middle, listener := rpctest.HashOf("request0").String(), rpctest.Address("middle"), rpctest.Address("listener")
	last := anchored[many-1].TxHash().String()

	// Each asks with a page token, which is "" at first, and returns that of the next page.
	for _, call := range []struct {
		name string
		ask  func(ctx context.Context, token string) (answer proto.Message, entries int, next string, err error)
		all  int // entries on all pages; 0 if there are no pages
	}{
		{"ListIdentityKeys, as of before they were cut", func(ctx context.Context, token string) (proto.Message, int, string, error) {
			a, err := identities.ListIdentityKeys(ctx, &keytreev1.ListIdentityKeysRequest{IdTxHash: id, AtHeight: linked, PageSize: 1000, PageToken: token})
			return a, len(a.GetKeys()), a.GetNextPageToken(), err
		}, many + 1},
		{"ListAddressLinks, likewise", func(ctx context.Context, token string) (proto.Message, int, string, error) {
			a, err := identities.ListAddressLinks(ctx, &keytreev1.ListAddressLinksRequest{Address: middle, AtHeight: linked, PageSize: 1000, PageToken: token})
			return a, len(a.GetLinks()), a.GetNextPageToken(), err
		}, many},
		{"ListAddressActions", func(ctx context.Context, token string) (proto.Message, int, string, error) {
			a, err := identities.ListAddressActions(ctx, &keytreev1.ListAddressActionsRequest{Address: middle, PageSize: 1000, PageToken: token})
			return a, len(a.GetActions()), a.GetNextPageToken(), err
		}, 3 * many},
		{"ListAddressActions, messages of 1 kB", func(ctx context.Context, token string) (proto.Message, int, string, error) {
			a, err := identities.ListAddressActions(ctx, &keytreev1.ListAddressActionsRequest{Address: listener, PageSize: 1000, PageToken: token})
			return a, len(a.GetActions()), a.GetNextPageToken(), err
		}, messages},
		{"ListAddressRequests", func(ctx context.Context, token string) (proto.Message, int, string, error) {
			a, err := identities.ListAddressRequests(ctx, &keytreev1.ListAddressRequestsRequest{Address: middle, State: "all", PageSize: 1000, PageToken: token})
			return a, len(a.GetRequests()), a.GetNextPageToken(), err
		}, many},
		{"ListAddressRequests, none open", func(ctx context.Context, token string) (proto.Message, int, string, error) {
			a, err := identities.ListAddressRequests(ctx, &keytreev1.ListAddressRequestsRequest{Address: middle, PageSize: 1000, PageToken: token})
			return a, 1000 - len(a.GetRequests()), a.GetNextPageToken(), err
		}, 0},
		{"ListAddressRequests, messages of 1 kB", func(ctx context.Context, token string) (proto.Message, int, string, error) {
			a, err := identities.ListAddressRequests(ctx, &keytreev1.ListAddressRequestsRequest{Address: listener, PageSize: 1000, PageToken: token})
			return a, len(a.GetRequests()), a.GetNextPageToken(), err
		}, messages},
		{"ListEvents", func(ctx context.Context, token string) (proto.Message, int, string, error) {
			a, err := identities.ListEvents(ctx, &keytreev1.ListEventsRequest{PageToken: token})
			n := 0
			for _, b := range a.GetBlocks() {
				n += len(b.Events)
			}
			return a, n, a.GetNextPageToken(), err
		}, 4*many + 1 + messages + many},
		{"ListAnchorChains", func(ctx context.Context, token string) (proto.Message, int, string, error) {
			a, err := chains.ListAnchorChains(ctx, &keytreev1.ListAnchorChainsRequest{Domain: "example.org", PageSize: 1000, PageToken: token})
			return a, len(a.GetChains()), a.GetNextPageToken(), err
		}, many},
		{"ListAnchors, each of a chain of its own", func(ctx context.Context, token string) (proto.Message, int, string, error) {
			a, err := chains.ListAnchors(ctx, &keytreev1.ListAnchorsRequest{Domain: "example.org", PageSize: 1000, PageToken: token})
			return a, len(a.GetAnchors()), a.GetNextPageToken(), err
		}, many},
		{"GetAnchor, last of a block full of them", func(ctx context.Context, _ string) (proto.Message, int, string, error) {
			a, err := chains.GetAnchor(ctx, &keytreev1.GetAnchorRequest{TxHash: last})
			return a, len(a.GetMerkleBranch()), "", err
		}, 0},
	} {
		t.Run(call.name, func(t *testing.T) {
			all, most, inJSON := 0, time.Duration(0), time.Duration(0)
			for token, page := "", 0; page == 0 || token != ""; page++ {
				if page > 3*many {
					t.Fatal("the list does not end")
				}
				var answer proto.Message
				var entries int
				var next string
				took := processorTime(t, func() {
					for range times {
						var err error
						if answer, entries, next, err = call.ask(ctx, token); err != nil {
							t.Fatal(err)
						}
					}
				}) / time.Duration(times)
				text := processorTime(t, func() {
					for range times {
						if _, err := protojson.Marshal(answer); err != nil {
							t.Fatal(err)
						}
					}
				}) / time.Duration(times)
				if entries > 1000 || proto.Size(answer) > 4<<20 {
					t.Errorf("page %d: %d entries of %d bytes", page, entries, proto.Size(answer))
				}
				all, token, most, inJSON = all+entries, next, max(most, took), max(inJSON, text)
			}
			if call.all > 0 && all != call.all {
				t.Errorf("%d entries, expected %d", all, call.all)
			}
			t.Logf("a page: %v of processor time at most, its JSON %v", most, inJSON)
		})
	}
}
