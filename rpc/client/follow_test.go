package client_test

import (
	"fmt"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/rpc/client"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// TestFollow follows a key far below, over a connection that is cut off after each message, and then over a server
// that is another one, on another branch.
func TestFollow(t *testing.T) {
	_, blocks := rpctest.Family()
	w := newWatched(t, blocks...)
	first := uint32(0)
	filter := client.Filter{Addresses: []string{rpctest.Address("grandchild")}, From: &first}
	want := []string{"CONNECT 3 [changed]", "CONNECT 5 [changed]", "CONNECT 6 [changed]", "DISCONNECT 6", "CONNECT 6 [changed]"}
	var got []string
	for m, err := range w.client.Follow(t.Context(), filter) {
		if err != nil {
			t.Fatal(err)
		}
		if m.Block == nil {
			continue
		}
		text := fmt.Sprint(m.Block.Type, " ", m.Block.Height)
		if m.Block.Type == "CONNECT" && slices.Equal(m.Changed, filter.Addresses) {
			text += " [changed]"
		}
		if got = append(got, text); len(got) == len(want) {
			break
		}
		if len(got) != 3 {
			w.network.cut()
			continue
		}
		w.restart(t, func() {
			w.Disconnect(t, 1)
			fork := &rpctest.Chain{Next: 6, Prev: blocks[5].Hash, Salt: "fork"}
			w.Connect(t, fork.Block(rpctest.MCR("again", "child", "mla2")))
		})
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, err := range w.client.Follow(t.Context(), client.Filter{LastID: "6-" + rpctest.HashOf("unknown").String() + "-0"}) {
		if err != nil && status.Code(err) != codes.FailedPrecondition {
			t.Errorf("after a block that nobody knows: %v", err)
		}
	}
	for _, err := range w.client.Follow(t.Context(), client.Filter{IDs: make([]string, graph.MaxFollowed+1)}) {
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("too many: %v", err)
		}
	}
}
