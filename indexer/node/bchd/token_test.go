package bchd

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/gcash/bchd/bchrpc/pb"
	"github.com/rs/zerolog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// doorkeeper lets nobody subscribe but with its token.
type doorkeeper struct {
	pb.BchrpcClient
	token *authToken
	wants string
	once  sync.Once
	came  chan struct{} // closed when somebody has come in
}

func (d *doorkeeper) SubscribeBlocks(context.Context, *pb.SubscribeBlocksRequest, ...grpc.CallOption) (pb.Bchrpc_SubscribeBlocksClient, error) {
	if d.token.current() != d.wants {
		return nil, status.Error(codes.Unknown, "invalid authentication token")
	}
	d.once.Do(func() { close(d.came) })
	return nil, status.Error(codes.Unavailable, "the end of the test")
}

// TestSubscribeWithNewToken has no other call that would notice the new token.
func TestSubscribeWithNewToken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("after\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	token := newAuthToken("before", file)
	d := &doorkeeper{token: token, wants: "after", came: make(chan struct{})}
	c := &Client{rpc: d, token: token, log: zerolog.Nop(), changes: make(chan struct{}, 1), done: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	go c.follow(ctx)
	<-d.came
	cancel()
	<-c.done
}
