package bchd

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gcash/bchd/bchrpc/pb"
	"github.com/gcash/bchd/chaincfg"
	"github.com/rs/zerolog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/reach"
)

// nowhere refuses every connection.
const nowhere = "127.0.0.1:0"

// interrupted is a node whose notifications break off at once.
type interrupted struct {
	pb.BchrpcClient
	works atomic.Bool // the next one
}

func (n *interrupted) SubscribeBlocks(context.Context, *pb.SubscribeBlocksRequest, ...grpc.CallOption) (pb.Bchrpc_SubscribeBlocksClient, error) {
	return &notifications{works: n.works.Swap(false)}, nil
}

type notifications struct {
	pb.Bchrpc_SubscribeBlocksClient
	works bool
}

func (s *notifications) Recv() (*pb.BlockNotification, error) {
	if s.works {
		s.works = false
		return &pb.BlockNotification{}, nil
	}
	return nil, status.Error(codes.Unavailable, "interrupted")
}

// TestSeldom fails all the time, and counts how often the log hears of it.
func TestSeldom(t *testing.T) {
	client := func(rpc pb.BchrpcClient) (*Client, *strings.Builder) {
		log := new(strings.Builder)
		return &Client{
			address: nowhere, network: &chaincfg.RegressionNetParams, tls: Config{}.tls, token: newAuthToken("", ""), log: zerolog.New(log), rpc: rpc, changes: make(chan struct{}, 1), done: make(chan struct{}),
		}, log
	}
	t.Run("notifications", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := new(interrupted)
			c, log := client(n)
			ctx, cancel := context.WithCancel(t.Context())
			go c.follow(ctx)
			time.Sleep(25 * time.Minute)
			synctest.Wait()
			if n := strings.Count(log.String(), "notifications interrupted"); n != 3 {
				t.Errorf("%d warnings in 25 minutes, want 3:\n%s", n, log)
			}
			if strings.Contains(log.String(), "arrive again") {
				t.Error("a subscription alone was taken for a notification")
			}
			n.works.Store(true)
			time.Sleep(time.Minute)
			cancel()
			<-c.done
			if !strings.Contains(log.String(), "arrive again") {
				t.Errorf("the log did not hear that notifications arrive again:\n%s", log)
			}
		})
	})
	t.Run("waiting", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, log := client(nil)
			ctx, cancel := context.WithTimeout(t.Context(), 9*time.Minute+30*time.Second)
			defer cancel()
			if err := reach.Wait(ctx, c.log, c.probe); !errors.Is(err, node.ErrUnavailable) {
				t.Errorf("got %v, want it unavailable", err)
			}
			// Attempts are up to reach.MaxPause and a half apart.
			if n := strings.Count(log.String(), "waiting for the node"); n < 9 || n > 10 {
				t.Errorf("%d warnings in 9.5 minutes, want one in a minute:\n%s", n, log)
			}
		})
	})
}
