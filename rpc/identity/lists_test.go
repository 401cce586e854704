package identity_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/links"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// starred returns blocks that make one identity of a root with n children, each
// with a child of its own.
func starred(c *rpctest.Chain, n int) []graph.Block {
	var requests, accepts []links.Action
	for i := range n {
		child, grandchild := fmt.Sprint("child ", i), fmt.Sprint("grandchild ", i)
		requests = append(requests,
			rpctest.MLR("mlr "+child, child, "root", ""),
			rpctest.MLR("mlr "+grandchild, grandchild, child, ""))
		accepts = append(accepts,
			rpctest.MLA("mla "+child, "root", "mlr "+child),
			rpctest.MLA("mla "+grandchild, child, "mlr "+grandchild))
	}
	return []graph.Block{c.Block(requests...), c.Block(accepts...)}
}

func messages[M proto.Message](list []M) (out []proto.Message) {
	for _, m := range list {
		out = append(out, m)
	}
	return out
}

// TestPagesMakeUpTheWhole lists in pages while the chain goes on and changes what
// is listed, and expects what one large page said before.
func TestPagesMakeUpTheWhole(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	type list func(t *testing.T, r *rpctest.Rig, size uint32, token string) (items []proto.Message, next string)
	for _, test := range []struct {
		name  string
		items int
		list  list
	}{{
		name: "keys", items: 41,
		list: func(t *testing.T, r *rpctest.Rig, size uint32, token string) ([]proto.Message, string) {
			answer, err := r.Client.ListIdentityKeys(t.Context(), &keytreev1.ListIdentityKeysRequest{
				IdTxHash: rpctest.HashOf("mlr child 0").String(), PageSize: size, PageToken: token})
			if err != nil {
				t.Fatal(err)
			}
			return messages(answer.Keys), answer.NextPageToken
		},
	}, {
		name: "actions", items: 40,
		list: func(t *testing.T, r *rpctest.Rig, size uint32, token string) ([]proto.Message, string) {
			answer, err := r.Client.ListAddressActions(t.Context(), &keytreev1.ListAddressActionsRequest{
				Address: rpctest.Address("root"), PageSize: size, PageToken: token})
			if err != nil {
				t.Fatal(err)
			}
			return messages(answer.Actions), answer.NextPageToken
		},
	}, {
		name: "links", items: 20,
		list: func(t *testing.T, r *rpctest.Rig, size uint32, token string) ([]proto.Message, string) {
			answer, err := r.Client.ListAddressLinks(t.Context(), &keytreev1.ListAddressLinksRequest{
				Address: rpctest.Address("root"), PageSize: size, PageToken: token})
			if err != nil {
				t.Fatal(err)
			}
			return messages(answer.Links), answer.NextPageToken
		},
	}, {
		name: "requests", items: 20,
		list: func(t *testing.T, r *rpctest.Rig, size uint32, token string) ([]proto.Message, string) {
			answer, err := r.Client.ListAddressRequests(t.Context(), &keytreev1.ListAddressRequestsRequest{
				Address: rpctest.Address("root"), State: "all", PageSize: size, PageToken: token})
			if err != nil {
				t.Fatal(err)
			}
			return messages(answer.Requests), answer.NextPageToken
		},
	}, {
		name: "events", items: 81, // 40 requests, 40 links, the name
		list: func(t *testing.T, r *rpctest.Rig, size uint32, token string) ([]proto.Message, string) {
			answer, err := r.Client.ListEvents(t.Context(), &keytreev1.ListEventsRequest{PageSize: size, PageToken: token})
			if err != nil {
				t.Fatal(err)
			}
			var events []proto.Message
			for i, block := range answer.Blocks {
				events = append(events, messages(block.Events)...)
				if last := i == len(answer.Blocks)-1; block.More && (!last || answer.NextPageToken == "") {
					t.Errorf("block %d says more, and nothing follows", block.Height)
				}
			}
			return events, answer.NextPageToken
		},
	}} {
		for _, size := range []uint32{1, 7, 40, 41} {
			t.Run(fmt.Sprintf("%s by %d", test.name, size), func(t *testing.T) {
				c := &rpctest.Chain{}
				r := rpctest.New(t, starred(c, 20)...)
				want, _ := test.list(t, r, 1000, "")
				if len(want) != test.items {
					t.Fatalf("%d items, want %d", len(want), test.items)
				}
				var got []proto.Message
				for token, page := "", 1; page == 1 || token != ""; page++ {
					var items []proto.Message
					if items, token = test.list(t, r, size, token); len(items) > int(size) {
						t.Errorf("page %d has %d items", page, len(items))
					}
					got = append(got, items...)
					if page == 1 {
						r.Connect(t, c.Block(rpctest.MCR("cut", "root", "mla child 7"), rpctest.MLR("late", "root", "child 3", "")))
					}
				}
				if !slices.EqualFunc(got, want, proto.Equal) {
					t.Errorf("got %d items\n%v\nwant %d\n%v", len(got), got, len(want), want)
				}
			})
		}
	}
}

// TestPagesOfLongMessages lists actions whose messages are too long for a page
// to hold as many as were asked for.
func TestPagesOfLongMessages(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	c := &rpctest.Chain{}
	var blocks []graph.Block
	for i := range 5 {
		blocks = append(blocks, c.Block(rpctest.MLR(fmt.Sprint("long ", i), "writer", fmt.Sprint("parent ", i), strings.Repeat("m", 900_000))))
	}
	r := rpctest.New(t, blocks...)
	var got []string
	for token, first := "", true; first || token != ""; first = false {
		// Over gRPC with the client's default limit of 4 MB.
		answer, err := r.Client.ListAddressActions(t.Context(), &keytreev1.ListAddressActionsRequest{Address: rpctest.Address("writer"), PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, action := range answer.Actions {
			got = append(got, action.TxHash)
		}
		token = answer.NextPageToken
	}
	var want []string
	for i := range 5 {
		want = append(want, rpctest.HashOf(fmt.Sprint("long ", i)).String())
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
