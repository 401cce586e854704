package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/rpc"
	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/client"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// network lets a test cut a client off.
type network struct {
	target atomic.Value // string; where connections go
	conn   atomic.Value // net.Conn; the last one
}

func (n *network) dial(ctx context.Context, _ string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", n.target.Load().(string))
	if err == nil {
		n.conn.Store(conn)
	}
	return conn, err
}

func (n *network) cut() { n.conn.Load().(net.Conn).Close() }

// line is an update in short.
func line(u *client.Update) string {
	parts := []string{u.Type, fmt.Sprint(u.Height), u.Hash[:8], fmt.Sprint(len(u.Events), " events")}
	if u.Cursor != nil {
		parts = append(parts, fmt.Sprint("then ", u.Cursor.Height, " ", u.Cursor.Hash[:8]))
	}
	return strings.Join(parts, " ")
}

func connected(b graph.Block) string {
	short := b.Hash.String()[:8]
	return fmt.Sprintf("CONNECT %d %s %d events then %d %s", b.Height, short, len(b.Actions), b.Height, short)
}

func disconnected(b graph.Block) string {
	return fmt.Sprintf("DISCONNECT %d %s 0 events then %d %s", b.Height, b.Hash.String()[:8], b.Height-1, b.PrevHash.String()[:8])
}

// watched is a server, and a client that watches it.
type watched struct {
	*rpctest.Rig
	network *network
	client  *client.Client
	waited  *[]time.Duration
}

func newWatched(t *testing.T, blocks ...graph.Block) *watched {
	t.Helper()
	w := &watched{Rig: rpctest.New(t, blocks...), network: &network{}}
	w.network.target.Store(w.Conn.Target())
	w.client, w.waited = newClient(t, w.Conn.Target(), client.Options{Dial: []grpc.DialOption{grpc.WithContextDialer(w.network.dial)}})
	return w
}

// restart stops the server, lets something happen, and runs another one.
func (w *watched) restart(t *testing.T, meanwhile func()) {
	t.Helper()
	w.Stop()
	meanwhile()
	w.Serve(t, rpc.Config{Graph: w.Graph, Indexer: w.Follower, Net: rpctest.Net})
	w.network.target.Store(w.Conn.Target())
}

// TestWatch follows the chain from each kind of beginning.
func TestWatch(t *testing.T) {
	c := &rpctest.Chain{}
	blocks := []graph.Block{c.Block(), c.Block(rpctest.MLR("r", "child", "parent", "")), c.Block()}
	w := newWatched(t, blocks...)
	stale := client.Cursor{Height: 2, Hash: blocks[2].Hash.String()}
	w.Disconnect(t, 1)
	fork := &rpctest.Chain{Next: 2, Prev: blocks[1].Hash, Salt: "fork"}
	tip := fork.Block()
	w.Connect(t, tip)
	next := fork.Block()
	for name, test := range map[string]struct {
		from func(context.Context) func(func(*client.Update, error) bool)
		want []string // before the next block
	}{
		"the beginning": {func(ctx context.Context) func(func(*client.Update, error) bool) { return w.client.WatchFrom(ctx, 0) },
			[]string{connected(blocks[0]), connected(blocks[1]), connected(tip)}},
		"a block": {func(ctx context.Context) func(func(*client.Update, error) bool) {
			return w.client.Watch(ctx, &client.Cursor{Height: 1, Hash: blocks[1].Hash.String()})
		}, []string{connected(tip)}},
		"a block that is gone": {func(ctx context.Context) func(func(*client.Update, error) bool) { return w.client.Watch(ctx, &stale) },
			[]string{disconnected(blocks[2]), connected(tip)}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for update, err := range test.from(t.Context()) {
				if err != nil {
					t.Fatal(err)
				}
				if got = append(got, line(update)); len(got) == len(test.want) {
					break
				}
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
	t.Run("the tip", func(t *testing.T) {
		// The next block comes when the client knows the tip, and does not watch yet.
		late := grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, request, answer any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			defer w.Connect(t, next)
			return invoke(ctx, method, request, answer, conn, opts...)
		})
		asked, _ := newClient(t, w.Conn.Target(), client.Options{Dial: []grpc.DialOption{late}})
		for update, err := range asked.Watch(t.Context(), nil) {
			if err != nil || line(update) != connected(next) {
				t.Errorf("got %v, %v, want %v", update, err, connected(next))
			}
			break
		}
	})
}

// TestWatchResumes watches over servers that stop and start, while blocks come and go.
func TestWatchResumes(t *testing.T) {
	c := &rpctest.Chain{}
	first := c.Block()
	w := newWatched(t, first)
	second, third := c.Block(), c.Block(rpctest.MLR("r", "child", "parent", ""))
	fork := &rpctest.Chain{Next: second.Height, Prev: first.Hash, Salt: "fork"}
	secondOfFork, thirdOfFork := fork.Block(), fork.Block()
	var steps = []struct {
		do   func()
		want []string
	}{
		{func() {}, []string{connected(first)}},
		{func() { w.restart(t, func() { w.Connect(t, second, third) }) }, []string{connected(second), connected(third)}},
		{func() { w.restart(t, func() { w.Disconnect(t, 2); w.Connect(t, secondOfFork) }) },
			[]string{disconnected(third), disconnected(second), connected(secondOfFork)}},
		{func() { w.network.cut(); w.Connect(t, thirdOfFork) }, []string{connected(thirdOfFork)}},
	}
	step, got := 0, []string(nil)
	for update, err := range w.client.WatchFrom(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, line(update)); len(got) < len(steps[step].want) {
			continue
		}
		if !slices.Equal(got, steps[step].want) {
			t.Fatalf("step %d: got %v, want %v", step, got, steps[step].want)
		}
		if step, got = step+1, nil; step == len(steps) {
			break
		}
		steps[step].do()
	}
	if step != len(steps) || len(*w.waited) < 2 {
		t.Errorf("%d steps, %d pauses", step, len(*w.waited))
	}
}

// TestWatchBelowItsBeginning has blocks replaced that are before the first one asked for.
func TestWatchBelowItsBeginning(t *testing.T) {
	for _, away := range []bool{false, true} {
		t.Run(fmt.Sprint("while the server is away: ", away), func(t *testing.T) {
			c := &rpctest.Chain{}
			blocks := []graph.Block{c.Block(), c.Block(), c.Block()}
			w := newWatched(t, blocks...)
			fork := &rpctest.Chain{Next: 1, Prev: blocks[0].Hash, Salt: "fork"}
			fresh := []graph.Block{fork.Block(), fork.Block(), fork.Block()}
			want := []string{
				connected(blocks[2]), fmt.Sprintf("DISCONNECT 2 %s 0 events", blocks[2].Hash.String()[:8]), connected(fresh[1]), connected(fresh[2]),
			}
			var got []string
			for update, err := range w.client.WatchFrom(t.Context(), 2) {
				if err != nil {
					t.Fatal(err)
				}
				if got = append(got, line(update)); len(got) == len(want) {
					break
				}
				replace := func() { w.Disconnect(t, 2); w.Connect(t, fresh...) }
				switch {
				case len(got) > 1:
				case away:
					w.restart(t, replace)
				default:
					replace()
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

// TestWatchOfALongBlock is cut off within a block, which then goes on, or goes.
func TestWatchOfALongBlock(t *testing.T) {
	const events = 30_000 // many times what is on its way at once
	for name, goes := range map[string]bool{"it goes on": false, "it goes": true} {
		t.Run(name, func(t *testing.T) {
			c := &rpctest.Chain{}
			first := c.Block()
			long := rpctest.RequestsOf(c, events)
			w := newWatched(t, first, long)
			fork := &rpctest.Chain{Next: long.Height, Prev: first.Hash, Salt: "fork"}
			other := fork.Block()
			var seen []string
			cut, ended := false, ""
			for update, err := range w.client.Watch(t.Context(), &client.Cursor{Hash: first.Hash.String()}) {
				if err != nil {
					t.Fatal(err)
				}
				if update.Type == "CONNECT" && update.Hash == long.Hash.String() {
					for _, event := range update.Events {
						seen = append(seen, event.TxHash)
					}
				} else {
					ended += line(update) + "; "
				}
				if !cut {
					if cut = true; !update.More || update.Cursor != nil {
						t.Fatalf("the block came at once, %s", line(update))
					}
					w.network.cut()
					if goes {
						w.restart(t, func() { w.Disconnect(t, 1); w.Connect(t, other) })
					}
				}
				if !goes && update.Cursor != nil || goes && update.Hash == other.Hash.String() {
					break
				}
			}
			distinct := slices.Compact(slices.Sorted(slices.Values(seen)))
			if !goes && (len(seen) != events || len(distinct) != events || ended != "") {
				t.Errorf("%d events, %d of them different, want %d, and %q", len(seen), len(distinct), events, ended)
			}
			if want := disconnected(long) + "; " + connected(other) + "; "; goes && (ended != want || len(seen) == events) {
				t.Errorf("after %d events %q, want %q", len(seen), ended, want)
			}
			if len(*w.waited) == 0 {
				t.Error("it was never interrupted")
			}
		})
	}
}

// TestWatchEnds tells what ends a Watch.
func TestWatchEnds(t *testing.T) {
	c := &rpctest.Chain{}
	w := newWatched(t, c.Block(), c.Block())
	last := func(updates func(func(*client.Update, error) bool)) (err error) {
		for _, err = range updates {
		}
		return err
	}
	if err := last(w.client.Watch(t.Context(), &client.Cursor{Height: 1, Hash: rpctest.HashOf("unknown").String()})); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a block that nobody knows: %v, want FAILED_PRECONDITION", err)
	}
	if err := last(w.client.WatchFrom(t.Context(), 9)); status.Code(err) != codes.OutOfRange {
		t.Errorf("beyond the tip: %v, want OUT_OF_RANGE", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var err error
	for _, err = range w.client.WatchFrom(ctx, 0) {
		cancel()
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("ended by its user: %v", err)
	}
	if len(*w.waited) > 0 {
		t.Errorf("it has waited %v", *w.waited)
	}
}

// TestWatchIsPatient has streams refused.
func TestWatchIsPatient(t *testing.T) {
	_, blocks := rpctest.Family()
	r := rpctest.New(t, blocks...)
	refusal := func(after time.Duration) error {
		return (&admission.Refusal{Budget: "streams", Yours: true, After: after}).GRPCStatus().Err()
	}
	refusals := []error{refusal(20 * time.Second), refusal(time.Hour), status.Error(codes.Unavailable, "stopping")}
	for range 20 {
		refusals = append(refusals, status.Error(codes.Internal, "a fault"))
	}
	var told []error
	c, waited := newClient(t, r.Conn.Target(), client.Options{
		Retrying: func(err error, _ time.Duration) { told = append(told, err) },
		Dial: []grpc.DialOption{grpc.WithStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			if n := len(told); n < len(refusals) {
				return nil, refusals[n]
			}
			return streamer(ctx, desc, conn, method, opts...)
		})},
	})
	for update, err := range c.WatchFrom(t.Context(), 6) {
		if err != nil || update.Height != 6 {
			t.Fatal(update, err)
		}
		break
	}
	if len(*waited) != len(refusals) || len(told) != len(refusals) {
		t.Fatalf("%d pauses, told %d times, want %d", len(*waited), len(told), len(refusals))
	}
	for i, d := range *waited {
		least, most := time.Duration(0), client.LongestPause*3/2
		switch i {
		case 0:
			least, most = 20*time.Second, 20*time.Second
		case 1:
			least, most = client.MostPatience, client.MostPatience
		case 2:
			most = 6 * time.Second // a third pause of about 4 s
		}
		if d < least || d > most {
			t.Errorf("pause %d is %v, want %v to %v", i, d, least, most)
		}
	}
	if d := (*waited)[len(*waited)-1]; d < client.LongestPause/2 {
		t.Errorf("the last pause is %v", d)
	}
}
