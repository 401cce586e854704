package bchd

import (
	"context"
	"fmt"
	"math"

	"github.com/keytree-bch/keytree/indexer/node"
)

// Header returns the header of the best chain's block at height, or
// node.ErrNotFound if the best chain is shorter. It hashes to what the node says
// the block's hash is; its work has not been checked.
func (c *Client) Header(ctx context.Context, height uint32) ([headerSize]byte, error) {
	var raw [headerSize]byte
	what := fmt.Sprintf("header %d", height)
	if height > math.MaxInt32 {
		return raw, fmt.Errorf("bchd at %s: %s: %w", c.address, what, node.ErrNotFound)
	}
	answer, err := call(ctx, c, what, c.rpc.GetBlockInfo, heightRequest(int32(height)))
	if err != nil {
		return raw, err
	}
	header, err := headerBytes(answer.Info)
	if err == nil {
		_, err = headerHash(answer.Info, int32(height))
	}
	if err != nil {
		return raw, fmt.Errorf("bchd at %s: %s: %w", c.address, what, err)
	}
	return [headerSize]byte(header), nil
}
