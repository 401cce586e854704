package client_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/rpc/client"
	"github.com/keytree-bch/keytree/rpc/fault"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// TestMonotonic looks at which block each call names.
func TestMonotonic(t *testing.T) {
	c, blocks := rpctest.Family()
	r := rpctest.New(t, blocks...)
	var named []string
	var refused error // of the next tries
	note := func(ctx context.Context) {
		sent, _ := metadata.FromOutgoingContext(ctx)
		named = append(named, fmt.Sprint(sent.Get("keytree-min-height")))
	}
	dial := []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, request, answer any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			if note(ctx); refused != nil {
				return refused
			}
			return invoke(ctx, method, request, answer, conn, opts...)
		}),
		grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			note(ctx)
			return streamer(ctx, desc, conn, method, opts...)
		}),
	}
	asked, _ := newClient(t, r.Conn.Target(), client.Options{Monotonic: true, Dial: dial})
	ctx, child := t.Context(), rpctest.Address("child")
	want := func(what string, names ...string) {
		t.Helper()
		if fmt.Sprint(named) != fmt.Sprint(names) {
			t.Errorf("%s named %v, want %v", what, named, names)
		}
		named = nil
	}
	full := func(height uint32, hash fmt.Stringer) string { return fmt.Sprintf("[%d-%s]", height, hash) }
	resolve := func() error {
		_, err := asked.Resolve(ctx, child)
		return err
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}

	_, err := asked.At(2).Resolve(ctx, child)
	must(err)
	want("the first call", "[]")
	_, err = asked.Status(ctx)
	must(err)
	want("after a block of the past", full(2, blocks[2].Hash))
	must(resolve())
	_, err = asked.At(3).Resolve(ctx, child)
	must(err)
	must(resolve())
	want("after the tip", full(6, blocks[6].Hash), full(6, blocks[6].Hash), full(6, blocks[6].Hash))

	refused = fault.Later(codes.Unavailable, time.Second, "keytree-min-height", "behind")
	if err := resolve(); status.Code(err) != codes.Unavailable {
		t.Error(err)
	}
	six := full(6, blocks[6].Hash)
	want("with a server that is behind", six, six, six, six)
	refused = fault.Later(codes.Aborted, time.Second, "keytree-min-height", "another branch")
	if err := resolve(); status.Code(err) != codes.Aborted {
		t.Error(err)
	}
	want("with one on another branch", six, six, six, six)
	refused = nil
	must(resolve())
	want("after a reorganisation", "[6]")
	must(resolve())
	want("once more", six)

	next := c.Block()
	c.Salt, c.Next, c.Prev = "fork", 7, blocks[6].Hash
	r.Connect(t, next)
	for update, err := range asked.Watch(ctx, &client.Cursor{Height: 6, Hash: blocks[6].Hash.String()}) {
		must(err)
		if update.Type == "CONNECT" {
			must(resolve())
			r.Disconnect(t, 1)
			continue
		}
		r.Connect(t, c.Block())
		must(resolve())
		break
	}
	want("while it watches", six, "[7]", full(7, next.Hash), "[7]")
}
