package identity_test

import (
	"context"
	"fmt"
	"runtime"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/keytree-bch/keytree/rpc/identity"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// crowd is how many clients of one kind there are in these tests at once.
const crowd = 30

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
	r := rpctest.New(t, rpctest.RequestsOf(&rpctest.Chain{}, 30_000))
	service := identity.NewIdentityService(r.Graph, r.Follower)
	ctx, cancel := context.WithCancel(t.Context())
	stuck, ended := make(chan struct{}), make(chan error)
	before := rpctest.InUse()
	for range crowd {
		go func() {
			ended <- service.Watch(&keytreev1.WatchRequest{FromHeight: proto.Uint32(0)}, &unread{ctx: ctx, stuck: stuck})
		}()
	}
	for range crowd {
		<-stuck
	}
	each := (rpctest.InUse() - before) / crowd
	cancel()
	for range crowd {
		<-ended
	}
	if each > 1<<20 { // the whole block would be some 20 MB
		t.Errorf("each of %d unread streams holds %d bytes", crowd, each)
	}
	t.Logf("each of %d unread streams holds %d bytes", crowd, each)
}

// TestWatchOfABlockThatGoes takes a block back of which a client has had the first
// message only.
func TestWatchOfABlockThatGoes(t *testing.T) {
	c := &rpctest.Chain{}
	first := c.Block()
	fork := *c
	long := rpctest.RequestsOf(c, 2000)
	r := rpctest.New(t, first, long)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	sent := make(chan *keytreev1.BlockEvents)
	ended := make(chan error)
	go func() {
		ended <- identity.NewIdentityService(r.Graph, r.Follower).Watch(
			&keytreev1.WatchRequest{FromHeight: proto.Uint32(1)}, &taken{ctx: ctx, sent: sent})
	}()
	if part := <-sent; part.Hash != long.Hash.String() || !part.More {
		t.Fatalf("got %s with %d events, more: %v", line(part), len(part.Events), part.More)
	}
	<-sent // the second part was read before the block goes
	r.Disconnect(t, 1)
	fork.Salt = "fork"
	next := fork.Block(rpctest.MLR("other", "child", "parent", ""))
	r.Connect(t, next)
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
