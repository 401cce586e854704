package bitcoind

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"golang.org/x/sync/errgroup"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/protocol"
)

// Spent implements node.Node.
func (c *Client) Spent(ctx context.Context, block chainhash.Hash, by []node.Spender) ([]node.Spent, error) {
	from, err := c.decided(ctx, block, by[0].TxID)
	if err != nil {
		return nil, err
	}
	spent, err := c.spentFrom(ctx, from, block, by)
	if err == nil || unanswered(err) || !errors.Is(err, node.ErrNotFound) && !errors.Is(err, node.ErrUnsuitable) {
		return spent, err
	}
	// The node may have been started anew, without its index, or with one.
	c.forgetSource(from)
	again, decideErr := c.decided(ctx, block, by[0].TxID)
	if decideErr != nil || again == from {
		return nil, errors.Join(err, decideErr)
	}
	c.log.Warn().Stringer("from", again).Stringer("before", from).Msg("the node tells otherwise now what transactions spend")
	return c.spentFrom(ctx, again, block, by)
}

func (c *Client) spentFrom(ctx context.Context, from source, block chainhash.Hash, by []node.Spender) ([]node.Spent, error) {
	if from == fromBlockUndo || from == fromTxUndo && len(by) >= wholeBlock {
		spent, err := c.undoOfBlock(ctx, block, by)
		if from == fromBlockUndo || !errors.Is(err, node.ErrUnsuitable) {
			return spent, err
		}
	}
	spent := make([]node.Spent, len(by))
	calls, ctx := errgroup.WithContext(ctx)
	calls.SetLimit(connections)
	for i, spender := range by {
		calls.Go(func() (err error) {
			if from == fromIndex {
				spent[i], err = c.spentByIndex(ctx, spender)
			} else {
				spent[i], err = c.undoOfTx(ctx, block, spender)
			}
			return err
		})
	}
	if err := calls.Wait(); err != nil {
		return nil, err
	}
	return spent, nil
}

// wholeBlock is how many of its transactions must be asked about before a question
// for all of a block is cheaper than one for each: a node reads the whole block and
// its undo data for each, and decodes one transaction, or all.
const wholeBlock = 16

// spentByIndex tells what input 0 spends, from the full previous transaction.
func (c *Client) spentByIndex(ctx context.Context, spender node.Spender) (node.Spent, error) {
	out := spender.Inputs[0]
	tx, err := c.indexed(ctx, out.Hash)
	if err != nil {
		return node.Spent{}, err
	}
	output, err := protocol.SpentOutput(tx, out)
	if err != nil {
		return node.Spent{}, fmt.Errorf("node at %s: output %v: %w: %w", c.address, out, node.ErrInvalid, err)
	}
	output.Script = bytes.Clone(output.Script)
	return node.Spent{Outputs: []protocol.Output{output}, Proven: true}, nil
}

// indexed fetches a transaction by its txid alone.
func (c *Client) indexed(ctx context.Context, txid chainhash.Hash) (raw []byte, err error) {
	err = c.retry(ctx, fmt.Sprintf("transaction %v", txid), func(ctx context.Context) (err error) {
		raw, err = c.rawTransaction(ctx, txid)
		return err
	})
	return raw, err
}

// rawTransaction fetches a transaction by its txid, once: from the index, or from a
// block.
func (c *Client) rawTransaction(ctx context.Context, txid chainhash.Hash, in ...chainhash.Hash) ([]byte, error) {
	params := []any{txid.String(), 0}
	for _, block := range in {
		params = append(params, block.String())
	}
	var raw []byte
	if err := c.post(ctx, hexInto(&raw, maxAnswer), "getrawtransaction", params...); err != nil {
		return nil, err
	}
	if got := chainhash.DoubleHashH(raw); got != txid {
		return nil, fmt.Errorf("%w: it sent transaction %v", node.ErrInvalid, got)
	}
	return raw, nil
}

// undoOfTx tells what a transaction of the block spends, from undo data.
func (c *Client) undoOfTx(ctx context.Context, block chainhash.Hash, spender node.Spender) (spent node.Spent, err error) {
	err = c.retry(ctx, fmt.Sprintf("what transaction %v spends", spender.TxID), func(ctx context.Context) error {
		tx, err := c.txWithUndo(ctx, block, spender.TxID, len(spender.Inputs))
		if err != nil {
			return err
		}
		spent, err = tx.spent(spender)
		return err
	})
	return spent, err
}

// undoOfBlock tells what transactions of the block spend, from its undo data, in one
// question.
func (c *Client) undoOfBlock(ctx context.Context, block chainhash.Hash, by []node.Spender) (spent []node.Spent, err error) {
	wanted := make(map[string]int, len(by))
	for i, spender := range by {
		wanted[spender.TxID.String()] = i
	}
	err = c.retryBlock(ctx, fmt.Sprintf("what is spent in block %v", block), func(ctx context.Context) error {
		spent = make([]node.Spent, len(by))
		left := len(wanted)
		err := c.blockTxs(ctx, block, 3, func(d *json.Decoder) (more bool, err error) {
			var tx decodedTx
			if err := tx.read(d, math.MaxInt); err != nil {
				return false, err
			}
			if i, ok := wanted[tx.TxID]; ok && spent[i].Outputs == nil {
				left--
				spent[i], err = tx.spent(by[i])
			}
			return left > 0, err
		})
		if err == nil && left > 0 {
			err = fmt.Errorf("%w: %d transactions are not in the block", node.ErrNotFound, left)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return spent, nil
}

// Previous implements node.Node.
func (c *Client) Previous(ctx context.Context, block, spender chainhash.Hash, out wire.OutPoint) (protocol.Tx, error) {
	from, err := c.decided(ctx, block, spender)
	if err != nil {
		return nil, err
	}
	var raw []byte
	if from == fromIndex {
		raw, err = c.indexed(ctx, out.Hash)
	} else {
		raw, err = c.fromItsBlock(ctx, block, out)
	}
	if errors.Is(err, node.ErrUnsuitable) && !unanswered(err) { // pruned, or it cannot tell heights
		err = fmt.Errorf("%w: %w", node.ErrNotFound, err)
	}
	if err != nil {
		return nil, err
	}
	tx, err := protocol.ParseTx(raw)
	if err != nil {
		return nil, fmt.Errorf("node at %s: transaction %v: %w: %w", c.address, out.Hash, node.ErrInvalid, err)
	}
	return tx, nil
}

// fromItsBlock fetches the transaction that has an output which is spent in the
// block. Undo data tells at which height it is.
func (c *Client) fromItsBlock(ctx context.Context, block chainhash.Hash, out wire.OutPoint) ([]byte, error) {
	height, err := c.heights.of(ctx, block, out, func() (map[wire.OutPoint]uint32, error) { return c.spentHeights(ctx, block) })
	if err != nil {
		return nil, err
	}
	in, err := c.BlockHash(ctx, height)
	if err != nil {
		return nil, err
	}
	var raw []byte
	err = c.retry(ctx, fmt.Sprintf("transaction %v", out.Hash), func(ctx context.Context) (err error) {
		raw, err = c.rawTransaction(ctx, out.Hash, in)
		return err
	})
	return raw, err
}

// spentHeights tells the heights of all outputs that are spent in the block.
func (c *Client) spentHeights(ctx context.Context, block chainhash.Hash) (heights map[wire.OutPoint]uint32, err error) {
	err = c.retryBlock(ctx, fmt.Sprintf("heights of what is spent in block %v", block), func(ctx context.Context) error {
		heights = make(map[wire.OutPoint]uint32)
		return c.blockTxs(ctx, block, 3, func(d *json.Decoder) (more bool, err error) {
			var tx decodedTx
			if err := tx.read(d, math.MaxInt); err != nil {
				return false, err
			}
			for _, in := range tx.Inputs {
				txid, err := chainhash.NewHashFromStr(in.TxID)
				if err == nil && in.Vout != nil && in.Prevout != nil && in.Prevout.Height != nil {
					heights[wire.OutPoint{Hash: *txid, Index: *in.Vout}] = *in.Prevout.Height
				}
			}
			return true, nil
		})
	})
	return heights, err
}

// spentHeights remembers the heights of what was spent in the block that was asked
// about last: false claims come in crowds, if at all.
type spentHeights struct {
	turn    chan struct{}            // holds a value while somebody asks
	block   chainhash.Hash           // turn
	heights map[wire.OutPoint]uint32 // turn
}

func newSpentHeights() *spentHeights { return &spentHeights{turn: make(chan struct{}, 1)} }

// of returns the height of an output that is spent in the block. It asks if another
// block was asked about last.
func (s *spentHeights) of(ctx context.Context, block chainhash.Hash, out wire.OutPoint, ask func() (map[wire.OutPoint]uint32, error)) (uint32, error) {
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return 0, fmt.Errorf("%w: %w", node.ErrUnavailable, context.Cause(ctx))
	}
	defer func() { <-s.turn }()
	if s.block != block || s.heights == nil {
		heights, err := ask()
		if err != nil {
			return 0, err
		}
		s.block, s.heights = block, heights
	}
	height, ok := s.heights[out]
	if !ok {
		return 0, fmt.Errorf("%w: the height of output %v, which is spent in block %v", node.ErrNotFound, out, block)
	}
	return height, nil
}
