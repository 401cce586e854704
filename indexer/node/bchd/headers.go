package bchd

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

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
	info := answer.Info
	if _, err := headerHash(info, int32(height)); err != nil {
		return raw, fmt.Errorf("bchd at %s: %s: %w", c.address, what, err)
	}
	header := wire.BlockHeader{
		Version: info.Version, PrevBlock: chainhash.Hash(info.PreviousBlock), MerkleRoot: chainhash.Hash(info.MerkleRoot),
		Timestamp: time.Unix(info.Timestamp, 0), Bits: info.Bits, Nonce: info.Nonce,
	}
	var b bytes.Buffer
	if err := header.Serialize(&b); err != nil {
		return raw, err
	}
	copy(raw[:], b.Bytes())
	return raw, nil
}
