package bitcoind

import (
	"context"
	"errors"
	"fmt"

	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/indexer/node"
)

// Unspent reports whether an output is there and not spent, in the best chain or, with
// mempool, in what the best chain and the mempool make together. It is the node's word
// alone. A bchd, over JSON-RPC, takes what only its mempool spends for unspent.
func (c *Client) Unspent(ctx context.Context, out wire.OutPoint, mempool bool) (bool, error) {
	var found *struct{} // null where there is no such output
	err := c.call(ctx, fmt.Sprintf("output %v", out), &found, "gettxout", out.Hash.String(), out.Index, mempool)
	if errors.Is(err, node.ErrNotFound) { // of a transaction that is there, to bchd
		return false, nil
	}
	return found != nil, err
}
