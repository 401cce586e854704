package bchd

import (
	"context"
	"errors"
	"fmt"

	"github.com/gcash/bchd/bchrpc/pb"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/indexer/node"
)

// Unspent reports whether an output is there and not spent, in the best chain or, with
// mempool, in what the best chain and the mempool make together. It is the node's word
// alone.
func (c *Client) Unspent(ctx context.Context, out wire.OutPoint, mempool bool) (bool, error) {
	what := fmt.Sprintf("output %v", out)
	_, err := call(ctx, c, what, c.rpc.GetUnspentOutput, &pb.GetUnspentOutputRequest{
		Hash: out.Hash[:], Index: out.Index, IncludeMempool: mempool,
	})
	// The second is what bchd says of an output that an unconfirmed transaction does not
	// have.
	if errors.Is(err, node.ErrNotFound) || errors.Is(err, node.ErrRejected) {
		return false, nil
	}
	return err == nil, err
}
