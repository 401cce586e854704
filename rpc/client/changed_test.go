package client_test

import (
	"context"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/rpc/client"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// TestChanged asks for more than fits into one call, while a block comes between the first two calls.
func TestChanged(t *testing.T) {
	c, blocks := rpctest.Family()
	r := rpctest.New(t, blocks...)
	var calls atomic.Int32
	interrupted := grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, request, answer any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if calls.Add(1) == 2 {
			r.Connect(t, c.Block(rpctest.MCR("late", "parent", "mla3")))
		}
		return invoke(ctx, method, request, answer, conn, opts...)
	})
	asked, _ := newClient(t, r.Conn.Target(), client.Options{Dial: []grpc.DialOption{interrupted}})
	addresses := make([]string, client.MaxBatch+2)
	for i := range addresses {
		addresses[i] = rpctest.Address("lone")
	}
	addresses[0], addresses[client.MaxBatch], addresses[client.MaxBatch+1] = rpctest.Address("child"), rpctest.Address("parent"), rpctest.Address("grandchild")

	changed, tip, err := asked.Changed(t.Context(), addresses, client.Cursor{Height: 6, Hash: blocks[6].Hash.String()}, true)
	if err != nil || calls.Load() != 4 || tip.Height != 7 || tip.Hash != c.Prev.String() || len(changed) != 2 ||
		changed[0].Address != addresses[0] || changed[1].Address != addresses[client.MaxBatch+1] || len(changed[1].Path) != 2 {
		t.Fatalf("%d calls, %v, %v, %v", calls.Load(), changed, tip, err)
	}
	if changed, again, err := asked.Changed(t.Context(), addresses, *tip, false); err != nil || len(changed) != 0 || *again != *tip {
		t.Errorf("since the tip: %v, %v, %v", changed, again, err)
	}
	if changed, again, err := asked.Changed(t.Context(), nil, *tip, false); err != nil || len(changed) != 0 || *again != *tip {
		t.Errorf("nothing: %v, %v, %v", changed, again, err)
	}
	r.Disconnect(t, 1)
	r.Connect(t, (&rpctest.Chain{Next: 7, Prev: blocks[6].Hash, Salt: "fork"}).Block())
	if _, _, err := asked.Changed(t.Context(), addresses, *tip, false); status.Code(err) != codes.Aborted {
		t.Errorf("since a block that is gone: %v", err)
	}
}
