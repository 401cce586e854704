package rpc_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/rpc"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// crowd is how many clients of one kind there are in these tests at once.
const crowd = 30

// inUse returns how many bytes are in use, without garbage.
func inUse() int64 {
	runtime.GC()
	runtime.GC() // what the first one found only to have a finalizer or a pool
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// requestsOf returns a block of so many link requests.
func requestsOf(c *chain, n int) graph.Block {
	var requests []graph.Action
	for i := range n {
		requests = append(requests, mlr(fmt.Sprint("r", c.next, ".", i), fmt.Sprint("c", i), "parent", ""))
	}
	return c.block(requests...)
}

// unread is a Watch stream of a client that reads nothing.
type unread struct {
	grpc.ServerStreamingServer[keytreev1.WatchResponse]
	ctx   context.Context
	stuck chan<- struct{}
}

func (u *unread) Context() context.Context     { return u.ctx }
func (u *unread) SendHeader(metadata.MD) error { return nil }
func (u *unread) Send(m *keytreev1.WatchResponse) error {
	u.stuck <- struct{}{}
	<-u.ctx.Done()
	runtime.KeepAlive(m)
	return u.ctx.Err()
}

// TestUnreadWatchesHoldLittle has a crowd watch a long block, and read none of it.
func TestUnreadWatchesHoldLittle(t *testing.T) {
	r := newRig(t, requestsOf(&chain{}, 30_000))
	service := rpc.NewIdentityService(r.graph, r.follower)
	ctx, cancel := context.WithCancel(t.Context())
	stuck, ended := make(chan struct{}), make(chan error)
	before := inUse()
	for range crowd {
		go func() {
			ended <- service.Watch(&keytreev1.WatchRequest{FromHeight: proto.Uint32(0)}, &unread{ctx: ctx, stuck: stuck})
		}()
	}
	for range crowd {
		<-stuck
	}
	each := (inUse() - before) / crowd
	cancel()
	for range crowd {
		<-ended
	}
	if each > 1<<20 { // the whole block would be some 20 MB
		t.Errorf("each of %d unread streams holds %d bytes", crowd, each)
	}
	t.Logf("each of %d unread streams holds %d bytes", crowd, each)
}

// untaken is the answer to a client that takes nothing of it.
type untaken struct {
	header   http.Header
	stuck    chan<- struct{}
	released <-chan struct{}
}

func (u *untaken) Header() http.Header { return u.header }
func (u *untaken) WriteHeader(int)     {}
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
	c := &chain{}
	var requests, accepts []graph.Action
	for i := range 120 {
		requests = append(requests, mlr(fmt.Sprint("r", i), fmt.Sprint("deep", i+1), fmt.Sprint("deep", i), ""))
		accepts = append(accepts, mla(fmt.Sprint("a", i), fmt.Sprint("deep", i), fmt.Sprint("r", i)))
	}
	r := newRig(t, c.block(requests...), c.block(accepts...), requestsOf(c, 20_000))
	many := make([]string, 10_000)
	for i := range many {
		many[i] = fmt.Sprintf("%q", address(fmt.Sprint("never linked", i)))
	}
	for name, test := range map[string]struct {
		method, path, body string
		most               int64  // held by each, beside the body
		encoding           string // that it accepts
	}{
		"one deep address 10,000 times": {"POST", "/v1/addresses:batchResolve",
			`{"addresses":[` + strings.TrimSuffix(strings.Repeat(fmt.Sprintf("%q,", address("deep120")), 10_000), ",") + `]}`, 3 << 19, ""},
		"10,000 addresses": {"POST", "/v1/addresses:batchResolve", `{"addresses":[` + strings.Join(many, ",") + `]}`, 3 << 19, ""},
		"many events":      {"GET", "/v1/events?page_size=10000", "", 1 << 20, ""},
		"compressed":       {"GET", "/v1/events?page_size=10000", "", 3 << 19, "gzip"},
		"one event":        {"GET", "/v1/events?page_size=1&from_height=2", "", 100 << 10, ""},
	} {
		t.Run(name, func(t *testing.T) {
			stuck, released, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
			before := inUse()
			for range crowd {
				go func() {
					defer func() { recover(); ended <- struct{}{} }() // an answer is broken off by a panic
					request := httptest.NewRequest(test.method, test.path, strings.NewReader(test.body))
					request.Header.Set("Content-Type", "application/json")
					request.Header.Set("Accept-Encoding", test.encoding)
					r.server.Handler().ServeHTTP(&untaken{http.Header{}, stuck, released}, request)
				}()
			}
			for range crowd {
				<-stuck
			}
			each := (inUse() - before) / crowd
			close(released)
			for range crowd {
				select {
				case <-ended:
				case <-stuck:
					t.Error("it goes on writing to a client that is gone")
				}
			}
			t.Logf("each of %d holds %d bytes", crowd, each)
			if each > test.most {
				t.Errorf("each of %d untaken answers holds %d bytes, want at most %d", crowd, each, test.most)
			}
		})
	}
}

// TestWatchOfABlockThatGoes takes a block back of which a client has had the first
// message only.
func TestWatchOfABlockThatGoes(t *testing.T) {
	c := &chain{}
	first := c.block()
	fork := *c
	long := requestsOf(c, 2000)
	r := newRig(t, first, long)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	sent := make(chan *keytreev1.BlockEvents)
	ended := make(chan error)
	go func() {
		ended <- rpc.NewIdentityService(r.graph, r.follower).Watch(
			&keytreev1.WatchRequest{FromHeight: proto.Uint32(1)}, &taken{ctx: ctx, sent: sent})
	}()
	if part := <-sent; part.Hash != long.Hash.String() || !part.More {
		t.Fatalf("got %s with %d events, more: %v", line(part), len(part.Events), part.More)
	}
	<-sent // the second part was read before the block goes
	r.disconnect(t, 1)
	fork.salt = "fork"
	next := fork.block(mlr("other", "child", "parent", ""))
	r.connect(t, next)
	var got []string
	for range 2 {
		part := <-sent
		for part.Hash == long.Hash.String() && part.Type == "CONNECT" { // what was read before
			part = <-sent
		}
		got = append(got, line(part))
	}
	if want := []string{disconnectLine(long), connectLine(next, "REQUEST_OPENED")}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("after a part of block %s: %v, want %v", long.Hash, got, want)
	}
	cancel()
	<-ended
}

// taken is a Watch stream of a client that takes one message after the other.
type taken struct {
	grpc.ServerStreamingServer[keytreev1.WatchResponse]
	ctx  context.Context
	sent chan<- *keytreev1.BlockEvents
}

func (s *taken) Context() context.Context     { return s.ctx }
func (s *taken) SendHeader(metadata.MD) error { return nil }
func (s *taken) Send(m *keytreev1.WatchResponse) error {
	select {
	case s.sent <- m.Block:
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}
