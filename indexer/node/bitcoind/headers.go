package bitcoind

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"golang.org/x/sync/errgroup"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/protocol"
)

const (
	// restHeaders is how many headers are asked for at a time by REST, which gives
	// up to 2,000 with the one that they follow.
	restHeaders = 1999
	// rpcHeaders is the same by JSON-RPC, which takes two questions for each.
	rpcHeaders = 256
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

// Headers implements node.Node.
func (c *Client) Headers(ctx context.Context, after chainhash.Hash, height, want uint32) ([]protocol.Header, error) {
	what := fmt.Sprintf("headers behind block %d", height)
	var restErr error
	if c.asksREST() {
		var headers []protocol.Header
		restErr = c.once(ctx, questionTimeout, what, func(ctx context.Context) (err error) {
			headers, err = c.headersByREST(ctx, after, min(want, restHeaders))
			return err
		})
		if restErr == nil {
			return headers, nil
		}
	}
	headers, err := c.headersByRPC(ctx, height+1, min(want, rpcHeaders))
	if err == nil {
		err = node.CheckHeaders(after, headers)
	}
	if err != nil {
		return nil, fmt.Errorf("node at %s: %s: %w", c.address, what, err)
	}
	c.pauseREST(restErr)
	return headers, nil
}

// headersByREST fetches headers, of which the first follows the block after.
func (c *Client) headersByREST(ctx context.Context, after chainhash.Hash, want uint32) ([]protocol.Header, error) {
	var headers []protocol.Header // from after on
	path := fmt.Sprintf("headers/%d/%v.bin", want+1, after)
	err := c.byREST(ctx, path, int64(want+1)*headerSize+1, func(raw []byte) error {
		for ; len(raw) >= headerSize; raw = raw[headerSize:] {
			header, err := protocol.ParseHeader(raw)
			if err != nil {
				return err
			}
			headers = append(headers, header)
		}
		if len(raw) > 0 || len(headers) == 0 || headers[0].Hash != after {
			return fmt.Errorf("expected headers of %d bytes from block %v on", headerSize, after)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return headers[1:], node.CheckHeaders(after, headers[1:])
}

// headersByRPC fetches the headers from a height on, as far as the best chain goes.
func (c *Client) headersByRPC(ctx context.Context, from, want uint32) ([]protocol.Header, error) {
	headers := make([]protocol.Header, want)
	calls, ctx := errgroup.WithContext(ctx)
	calls.SetLimit(connections)
	for i := range headers {
		calls.Go(func() error {
			raw, err := c.Header(ctx, from+uint32(i))
			if errors.Is(err, node.ErrNotFound) {
				return nil // behind the end
			}
			if err != nil {
				return err
			}
			headers[i], err = protocol.ParseHeader(raw[:])
			return err
		})
	}
	if err := calls.Wait(); err != nil {
		return nil, err
	}
	for i := range headers {
		// Where there was a reorganisation between two questions, the chain is torn.
		if headers[i] == (protocol.Header{}) || i > 0 && headers[i].PrevBlock != headers[i-1].Hash {
			return headers[:i], nil
		}
	}
	return headers, nil
}
