package bitcoind

import (
	"context"
	"encoding/hex"
	"fmt"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/indexer/node"
)

// Header returns the header of the best chain's block at height, or
// node.ErrNotFound if the best chain is shorter. It hashes to what the node says
// the block's hash is; its work has not been checked.
func (c *Client) Header(ctx context.Context, height uint32) ([headerSize]byte, error) {
	hash, err := c.BlockHash(ctx, height)
	if err != nil {
		return [headerSize]byte{}, err
	}
	what := fmt.Sprintf("header %d", height)
	var s string
	if err := c.call(ctx, what, &s, "getblockheader", hash.String(), false); err != nil {
		return [headerSize]byte{}, err
	}
	raw, err := hex.DecodeString(s)
	if err != nil || len(raw) != headerSize || chainhash.DoubleHashH(raw) != hash {
		return [headerSize]byte{}, fmt.Errorf("node at %s: %s: %w: expected %d bytes in hex that hash to %v, got %.200q", c.address, what, node.ErrInvalid, headerSize, hash, s)
	}
	return [headerSize]byte(raw), nil
}
