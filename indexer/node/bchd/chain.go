package bchd

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"time"

	"github.com/gcash/bchd/bchrpc/pb"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"golang.org/x/sync/errgroup"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/protocol"
)

// headerSize is the size in bytes of a serialized block header.
const headerSize = 80

// Tip implements node.Node.
func (c *Client) Tip(ctx context.Context) (node.Tip, error) {
	info, err := call(ctx, c, "tip", c.rpc.GetBlockchainInfo, &pb.GetBlockchainInfoRequest{})
	if err != nil {
		return node.Tip{}, err
	}
	if err := c.checkInfo(info); err != nil {
		return node.Tip{}, err
	}
	hash, err := chainhash.NewHash(info.BestBlockHash)
	if err != nil || info.BestHeight < 0 {
		return node.Tip{}, fmt.Errorf("bchd at %s: tip: %w: height %d with a hash of %d bytes, expected 32",
			c.address, node.ErrInvalid, info.BestHeight, len(info.BestBlockHash))
	}
	height := uint32(info.BestHeight)
	return node.Tip{Height: height, Hash: *hash, Headers: height, Peers: node.Untold}, nil
}

// BlockHash implements node.Node. The hash is that of the header that came with
// it.
func (c *Client) BlockHash(ctx context.Context, height uint32) (chainhash.Hash, error) {
	if height > math.MaxInt32 {
		return chainhash.Hash{}, fmt.Errorf("bchd at %s: block %d: %w", c.address, height, node.ErrNotFound)
	}
	answer, err := call(ctx, c, fmt.Sprintf("block %d", height), c.rpc.GetBlockInfo, heightRequest(int32(height)))
	if err != nil {
		return chainhash.Hash{}, err
	}
	hash, err := headerHash(answer.Info, int32(height))
	if err != nil {
		return chainhash.Hash{}, fmt.Errorf("bchd at %s: block %d: %w", c.address, height, err)
	}
	return hash, nil
}

// Headers implements node.Node. bchd gives up to 2,000 at a time, wanted or not. If
// after is not in its best chain it answers from height 1 on, without an error.
func (c *Client) Headers(ctx context.Context, after chainhash.Hash, height, want uint32) ([]protocol.Header, error) {
	what := fmt.Sprintf("headers behind block %d", height)
	answer, err := call(ctx, c, what, c.rpc.GetHeaders, &pb.GetHeadersRequest{BlockLocatorHashes: [][]byte{after[:]}})
	if err != nil {
		return nil, err
	}
	headers := make([]protocol.Header, min(uint64(len(answer.Headers)), uint64(want)))
	for i := range headers {
		raw, err := headerBytes(answer.Headers[i])
		if err == nil {
			headers[i], err = protocol.ParseHeader(raw)
		}
		if err != nil {
			return nil, fmt.Errorf("bchd at %s: %s: %w", c.address, what, err)
		}
	}
	if err := node.CheckHeaders(after, headers); err != nil {
		return nil, fmt.Errorf("bchd at %s: %s: %w", c.address, what, err)
	}
	return headers, nil
}

func heightRequest(height int32) *pb.GetBlockInfoRequest {
	return &pb.GetBlockInfoRequest{HashOrHeight: &pb.GetBlockInfoRequest_Height{Height: height}}
}

// headerBytes returns the serialized header that info describes.
func headerBytes(info *pb.BlockInfo) ([]byte, error) {
	previous, errPrevious := chainhash.NewHash(info.GetPreviousBlock())
	merkle, errMerkle := chainhash.NewHash(info.GetMerkleRoot())
	if errPrevious != nil || errMerkle != nil {
		return nil, fmt.Errorf("%w: a header without two hashes of 32 bytes", node.ErrInvalid)
	}
	header := wire.BlockHeader{
		Version:    info.Version,
		PrevBlock:  *previous,
		MerkleRoot: *merkle,
		Timestamp:  time.Unix(info.Timestamp, 0),
		Bits:       info.Bits,
		Nonce:      info.Nonce,
	}
	var b bytes.Buffer
	if err := header.Serialize(&b); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// headerHash returns the hash of the header in info, which has to be the one
// that info names, at the height asked for.
func headerHash(info *pb.BlockInfo, height int32) (chainhash.Hash, error) {
	raw, err := headerBytes(info)
	if err != nil {
		return chainhash.Hash{}, err
	}
	hash := chainhash.DoubleHashH(raw)
	if !bytes.Equal(info.Hash, hash[:]) || info.Height != height {
		return chainhash.Hash{}, fmt.Errorf("%w: it names block %d, %x (in internal order), but sent a header that hashes to %v, for height %d",
			node.ErrInvalid, info.Height, info.Hash, hash, height)
	}
	return hash, nil
}

// Block implements node.Node. bchd knows only blocks of its best chain by
// gRPC: any other is node.ErrNotFound.
func (c *Client) Block(ctx context.Context, hash chainhash.Hash) ([]byte, error) {
	what := fmt.Sprintf("block %v", hash)
	answer, err := callForBlock(ctx, c, what, c.rpc.GetRawBlock,
		&pb.GetRawBlockRequest{HashOrHeight: &pb.GetRawBlockRequest_Hash{Hash: hash[:]}})
	if err != nil {
		return nil, err
	}
	if len(answer.Block) < headerSize {
		return nil, fmt.Errorf("bchd at %s: %s: %w: %d bytes", c.address, what, node.ErrInvalid, len(answer.Block))
	}
	if got := chainhash.DoubleHashH(answer.Block[:headerSize]); got != hash {
		return nil, fmt.Errorf("bchd at %s: %s: %w: it sent block %v", c.address, what, node.ErrInvalid, got)
	}
	return answer.Block, nil
}

// previousCalls is how many previous transactions are asked for at a time.
const previousCalls = 32

// Spent implements node.Node, from the full previous transactions, so it tells what
// input 0 spends, Proven. These may be in any block, the spender's included, or in
// the mempool.
func (c *Client) Spent(ctx context.Context, _ chainhash.Hash, by []node.Spender) ([]node.Spent, error) {
	spent := make([]node.Spent, len(by))
	calls, ctx := errgroup.WithContext(ctx)
	calls.SetLimit(previousCalls)
	for i := range by {
		out := by[i].Inputs[0]
		calls.Go(func() error {
			raw, err := c.Transaction(ctx, out.Hash)
			if err != nil {
				return err
			}
			output, err := protocol.SpentOutput(raw, out)
			if err != nil {
				return fmt.Errorf("bchd at %s: output %v: %w: %w", c.address, out, node.ErrInvalid, err)
			}
			output.Script = bytes.Clone(output.Script)
			spent[i] = node.Spent{Outputs: []protocol.Output{output}, Proven: true}
			return nil
		})
	}
	if err := calls.Wait(); err != nil {
		return nil, err
	}
	return spent, nil
}

// Previous implements node.Node.
func (c *Client) Previous(ctx context.Context, _, _ chainhash.Hash, out wire.OutPoint) (protocol.Tx, error) {
	raw, err := c.Transaction(ctx, out.Hash)
	if err != nil {
		return nil, err
	}
	tx, err := protocol.ParseTx(raw)
	if err != nil {
		return nil, fmt.Errorf("bchd at %s: transaction %v: %w: %w", c.address, out.Hash, node.ErrInvalid, err)
	}
	return tx, nil
}

// Transaction returns the serialized transaction of that txid, from the best
// chain or the mempool. Its hash has been checked. The caller owns the bytes.
func (c *Client) Transaction(ctx context.Context, txid chainhash.Hash) ([]byte, error) {
	what := fmt.Sprintf("transaction %v", txid)
	answer, err := call(ctx, c, what, c.rpc.GetRawTransaction, &pb.GetRawTransactionRequest{Hash: txid[:]})
	if err != nil {
		return nil, err
	}
	if got := chainhash.DoubleHashH(answer.Transaction); got != txid {
		return nil, fmt.Errorf("bchd at %s: %s: %w: it sent transaction %v", c.address, what, node.ErrInvalid, got)
	}
	return answer.Transaction, nil
}
