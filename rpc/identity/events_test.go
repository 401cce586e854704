package identity_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/links"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// line is a block of a stream or listing in short: its type, height and hash, and
// the types of its events.
func line(block *keytreev1.BlockEvents) string {
	parts := []string{block.Type, fmt.Sprint(block.Height), block.Hash[:8]}
	for _, event := range block.Events {
		parts = append(parts, event.Type)
	}
	return strings.Join(parts, " ")
}

func connectLine(b graph.Block, events ...string) string {
	return strings.Join(append([]string{"CONNECT", fmt.Sprint(b.Height), b.Hash.String()[:8]}, events...), " ")
}

func disconnectLine(b graph.Block) string {
	return fmt.Sprint("DISCONNECT ", b.Height, " ", b.Hash.String()[:8])
}

// reorganise replaces the last n blocks by as many and one more, and returns
// what is new.
func reorganise(t *testing.T, r *rpctest.Rig, blocks []graph.Block, n int, salt string) []graph.Block {
	t.Helper()
	r.Disconnect(t, n)
	fork := blocks[len(blocks)-1-n]
	c := &rpctest.Chain{Next: fork.Height + 1, Prev: fork.Hash, Salt: salt}
	var fresh []graph.Block
	for range n + 1 {
		fresh = append(fresh, c.Block())
	}
	r.Connect(t, fresh...)
	return fresh
}

func TestEventsBlockByBlock(t *testing.T) {
	_, blocks := rpctest.Family()
	r := rpctest.New(t, blocks...)
	answer, err := r.Client.ListEvents(t.Context(), &keytreev1.ListEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, block := range answer.Blocks {
		got = append(got, line(block))
		if want := blocks[block.Height].PrevHash.String(); block.PrevHash != want || len(block.StateHash) != 64 {
			t.Errorf("block %d: prev_hash %s, state_hash %q; want prev_hash %s", block.Height, block.PrevHash, block.StateHash, want)
		}
	}
	want := []string{
		connectLine(blocks[0]),
		connectLine(blocks[1], "REQUEST_OPENED"),
		connectLine(blocks[2], "LINK_FORMED", "IDENTITY_NAMED"),
		connectLine(blocks[3], "REQUEST_OPENED", "LINK_FORMED"),
		connectLine(blocks[4], "ACTION_REFUSED", "ACTION_WAITING"),
		connectLine(blocks[5], "LINK_CUT", "IDENTITY_NAMED"),
		connectLine(blocks[6], "REQUEST_OPENED", "LINK_FORMED", "IDENTITY_MERGED"),
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if tip, _ := r.Graph.Tip(); answer.Blocks[6].StateHash != fmt.Sprintf("%x", tip.StateHash) {
		t.Errorf("the last block's state hash is %s, the tip's %x", answer.Blocks[6].StateHash, tip.StateHash)
	}

	events := slices.Concat(answer.Blocks[4].Events, answer.Blocks[5].Events, answer.Blocks[6].Events[2:])
	wantEvents := []*keytreev1.Event{
		{Type: "ACTION_REFUSED", Kind: "MLR", Reason: "NO_AUTHOR", TxHash: rpctest.HashOf("bad").String()},
		{Type: "ACTION_WAITING", Kind: "MLA", TxHash: rpctest.HashOf("early").String(), AuthorAddress: rpctest.Address("parent"), Reference: rpctest.HashOf("nowhere").String()},
		{Type: "LINK_CUT", TxHash: rpctest.HashOf("mcr1").String(), RefTxHash: rpctest.HashOf("mla1").String(),
			ChildAddress: rpctest.Address("child"), ParentAddress: rpctest.Address("parent"), IdTxHash: rpctest.HashOf("mlr1").String()},
		{Type: "IDENTITY_NAMED", IdTxHash: rpctest.HashOf("mcr1").String(), MainAddress: rpctest.Address("child")},
		{Type: "IDENTITY_MERGED", IdTxHash: rpctest.HashOf("mcr1").String(), MergedInto: rpctest.HashOf("mlr1").String()},
	}
	for i, want := range wantEvents {
		if !proto.Equal(events[i], want) {
			t.Errorf("event %d is %v, want %v", i, events[i], want)
		}
	}
}

func TestEventsListDisconnectsFirst(t *testing.T) {
	_, blocks := rpctest.Family()
	r := rpctest.New(t, blocks...)
	fresh := reorganise(t, r, blocks, 2, "fresh")
	want := []string{disconnectLine(blocks[6]), disconnectLine(blocks[5]),
		connectLine(fresh[0]), connectLine(fresh[1]), connectLine(fresh[2])}
	for _, size := range []uint32{1, 2, 3, 1000} {
		var got []string
		request := &keytreev1.ListEventsRequest{FromHeight: proto.Uint32(5), PageSize: size}
		for first := true; first || request.PageToken != ""; first = false {
			answer, err := r.Client.ListEvents(t.Context(), request)
			if err != nil {
				t.Fatal(err)
			}
			for _, block := range answer.Blocks {
				got = append(got, line(block))
			}
			request.PageToken = answer.NextPageToken
		}
		if !slices.Equal(got, want) {
			t.Errorf("in pages of %d: got\n%s\nwant\n%s", size, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// watch starts a stream and returns a function that expects the next blocks.
func watch(t *testing.T, r *rpctest.Rig, request *keytreev1.WatchRequest) (expect func(lines ...string)) {
	t.Helper()
	stream, err := r.Client.Watch(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	return func(lines ...string) {
		t.Helper()
		for _, want := range lines {
			if got := next(t, stream); line(got) != want {
				t.Fatalf("Watch sent %q, want %q", line(got), want)
			}
		}
	}
}

func next(t *testing.T, stream grpc.ServerStreamingClient[keytreev1.WatchResponse]) *keytreev1.BlockEvents {
	t.Helper()
	message, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return message.Block
}

func TestWatchFollowsTheChain(t *testing.T) {
	c, blocks := rpctest.Family()
	r := rpctest.New(t, blocks...)
	fromFive := watch(t, r, &keytreev1.WatchRequest{FromHeight: proto.Uint32(5)})
	fromFive(connectLine(blocks[5], "LINK_CUT", "IDENTITY_NAMED"),
		connectLine(blocks[6], "REQUEST_OPENED", "LINK_FORMED", "IDENTITY_MERGED"))

	seventh := c.Block(rpctest.MLR("mlr4", "lone", "parent", ""))
	r.Connect(t, seventh)
	fromFive(connectLine(seventh, "REQUEST_OPENED"))

	// Down to the fork, no further than what was sent.
	fresh := reorganise(t, r, append(blocks, seventh), 4, "fresh")
	fromFive(disconnectLine(seventh), disconnectLine(blocks[6]), disconnectLine(blocks[5]))
	fromFive(connectLine(fresh[1]), connectLine(fresh[2]), connectLine(fresh[3]), connectLine(fresh[4]))
}

func TestWatchOnlyWhatIsNew(t *testing.T) {
	c, blocks := rpctest.Family()
	r := rpctest.New(t, blocks...)
	for name, request := range map[string]*keytreev1.WatchRequest{
		"no height":        {},
		"beyond the tip":   {FromHeight: proto.Uint32(7)},
		"with known block": {FromHeight: proto.Uint32(7), KnownHash: blocks[6].Hash.String()},
	} {
		t.Run(name, func(t *testing.T) {
			stream, err := r.Client.Watch(t.Context(), request)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := stream.Header(); err != nil { // the stream has begun
				t.Fatal(err)
			}
			block := c.Block()
			r.Connect(t, block)
			defer func() {
				r.Disconnect(t, 1)
				c.Next, c.Prev = block.Height, block.PrevHash
			}()
			if got := next(t, stream); line(got) != connectLine(block) {
				t.Errorf("Watch sent %q, want %q", line(got), connectLine(block))
			}
		})
	}
}

func TestWatchResumesOnAStaleBlock(t *testing.T) {
	_, blocks := rpctest.Family()
	r := rpctest.New(t, blocks...)
	fresh := reorganise(t, r, blocks, 2, "fresh")
	watch(t, r, &keytreev1.WatchRequest{FromHeight: proto.Uint32(7), KnownHash: blocks[6].Hash.String()})(
		disconnectLine(blocks[6]), disconnectLine(blocks[5]),
		connectLine(fresh[0]), connectLine(fresh[1]), connectLine(fresh[2]))

	// A client whose stale branch is longer than the chain, which has just shrunk.
	r.Disconnect(t, 3)
	expect := watch(t, r, &keytreev1.WatchRequest{FromHeight: proto.Uint32(8), KnownHash: fresh[2].Hash.String()})
	expect(disconnectLine(fresh[2]), disconnectLine(fresh[1]), disconnectLine(fresh[0]))
	again := &rpctest.Chain{Next: 5, Prev: blocks[4].Hash, Salt: "again"}
	block := again.Block()
	r.Connect(t, block)
	expect(connectLine(block))
}

// TestWatchSplitsALargeBlock sends a block whose events do not fit into a message
// of the client's default limit.
func TestWatchSplitsALargeBlock(t *testing.T) {
	const actions = 25_000
	c := &rpctest.Chain{}
	var requests []links.Action
	for i := range actions {
		requests = append(requests, rpctest.MLR(fmt.Sprint("r", i), fmt.Sprint("c", i), "parent", ""))
	}
	large := c.Block(requests...)
	r := rpctest.New(t, large)
	stream, err := r.Client.Watch(t.Context(), &keytreev1.WatchRequest{FromHeight: proto.Uint32(0)})
	if err != nil {
		t.Fatal(err)
	}
	events, parts := 0, 0
	for more := true; more; parts++ {
		block := next(t, stream)
		if block.Hash != large.Hash.String() || block.Type != "CONNECT" {
			t.Fatalf("part %d is of %s %s", parts, block.Type, block.Hash)
		}
		for i, event := range block.Events {
			if want := rpctest.HashOf(fmt.Sprint("r", events+i)).String(); event.TxHash != want {
				t.Fatalf("event %d is of %s, want %s", events+i, event.TxHash, want)
			}
		}
		events, more = events+len(block.Events), block.More
	}
	if events != actions || parts < 2 {
		t.Errorf("%d events in %d messages, want %d in several", events, parts, actions)
	}
}

// whole is the next block of a stream, with all its parts.
func whole(t *testing.T, stream grpc.ServerStreamingClient[keytreev1.WatchResponse]) *keytreev1.BlockEvents {
	t.Helper()
	block := next(t, stream)
	for block.More {
		part := next(t, stream)
		if part.Hash != block.Hash || part.Type != block.Type {
			t.Fatalf("a part of %s %s follows one of %s %s", part.Type, part.Hash, block.Type, block.Hash)
		}
		block.Events, block.More = append(block.Events, part.Events...), part.More
	}
	return block
}

// TestSlowWatcher leaves a stream unread, for more than its window holds, while
// another one and the chain go on.
func TestSlowWatcher(t *testing.T) {
	c := &rpctest.Chain{}
	r := rpctest.New(t, c.Block())
	slow, err := r.Client.Watch(t.Context(), &keytreev1.WatchRequest{FromHeight: proto.Uint32(0)})
	if err != nil {
		t.Fatal(err)
	}
	first := next(t, slow)
	quick, err := r.Client.Watch(t.Context(), &keytreev1.WatchRequest{FromHeight: proto.Uint32(1)})
	if err != nil {
		t.Fatal(err)
	}
	const blocks, perBlock = 40, 50 // some 500 kB, where the window is 64 kB
	for height := range blocks {
		var requests []links.Action
		for i := range perBlock {
			requests = append(requests, rpctest.MLR(fmt.Sprint("r", height, ".", i), fmt.Sprint("c", i), "parent", ""))
		}
		r.Connect(t, c.Block(requests...))
		if got := whole(t, quick); got.Height != uint32(height+1) || len(got.Events) != perBlock {
			t.Fatalf("the quick watcher got block %d with %d events", got.Height, len(got.Events))
		}
	}
	for height, prev := uint32(1), first.Hash; height <= blocks; height++ {
		got := whole(t, slow)
		if got.Height != height || got.PrevHash != prev || len(got.Events) != perBlock {
			t.Fatalf("the slow watcher got block %d on %s, want %d on %s", got.Height, got.PrevHash, height, prev)
		}
		prev = got.Hash
	}
}
