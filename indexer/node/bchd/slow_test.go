package bchd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gcash/bchd/bchrpc/pb"
	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"github.com/gcash/bchutil"
	"github.com/rs/zerolog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/indexer/node"
)

// silent answers nothing.
type silent struct{}

func (silent) Invoke(ctx context.Context, _ string, _, _ any, _ ...grpc.CallOption) error {
	<-ctx.Done()
	return status.FromContextError(ctx.Err()).Err()
}

func (silent) NewStream(ctx context.Context, _ *grpc.StreamDesc, _ string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	<-ctx.Done()
	return nil, status.FromContextError(ctx.Err()).Err()
}

// TestTimeouts asks a node that begins no answer.
func TestTimeouts(t *testing.T) {
	one := chainhash.Hash{1}
	out := wire.OutPoint{Hash: one}
	address, err := bchutil.NewAddressPubKeyHash(make([]byte, 20), &chaincfg.RegressionNetParams)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		ask  func(context.Context, *Client) error
		want time.Duration
	}{
		"tip":         {func(ctx context.Context, c *Client) error { _, err := c.Tip(ctx); return err }, questionTimeout},
		"hash":        {func(ctx context.Context, c *Client) error { _, err := c.BlockHash(ctx, 1); return err }, questionTimeout},
		"header":      {func(ctx context.Context, c *Client) error { _, err := c.Header(ctx, 1); return err }, questionTimeout},
		"headers":     {func(ctx context.Context, c *Client) error { _, err := c.Headers(ctx, one, 1, 1); return err }, questionTimeout},
		"transaction": {func(ctx context.Context, c *Client) error { _, err := c.Transaction(ctx, one); return err }, questionTimeout},
		"previous":    {func(ctx context.Context, c *Client) error { _, err := c.Previous(ctx, one, one, out); return err }, questionTimeout},
		"spent": {func(ctx context.Context, c *Client) error {
			_, err := c.Spent(ctx, one, []node.Spender{{TxID: one, Inputs: []wire.OutPoint{out}}})
			return err
		}, questionTimeout},
		"unspent":         {func(ctx context.Context, c *Client) error { _, err := c.Unspent(ctx, out, true); return err }, questionTimeout},
		"unspent outputs": {func(ctx context.Context, c *Client) error { _, err := c.UnspentOutputs(ctx, address); return err }, questionTimeout},
		"submit":          {func(ctx context.Context, c *Client) error { _, err := c.Submit(ctx, nil); return err }, questionTimeout},
		"block":           {func(ctx context.Context, c *Client) error { _, err := c.Block(ctx, one); return err }, blockTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := &Client{
					log: zerolog.Nop(), rpc: pb.NewBchrpcClient(silent{}), token: newAuthToken("", ""), retryFor: time.Nanosecond,
					done: make(chan struct{}),
				}
				began := time.Now()
				err := test.ask(t.Context(), c)
				if took := time.Since(began); took != test.want {
					t.Errorf("it took %v, want %v", took, test.want)
				}
				if !errors.Is(err, node.ErrUnavailable) || !strings.Contains(err.Error(), fmt.Sprintf("no answer within %v", test.want)) {
					t.Errorf("got %v, want it unavailable", err)
				}
			})
		})
	}
}
