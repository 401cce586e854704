package bitcoind

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/indexer/node"
)

// source is where the node gets spent outputs from.
type source uint8

const (
	undecided source = iota
	// fromIndex: the full previous transaction, from the transaction index.
	fromIndex
	// fromTxUndo: the spender with what it spends, from undo data
	// (getrawtransaction with verbosity 2; BCHN).
	fromTxUndo
	// fromBlockUndo: the spender's whole block with what it spends (getblock with
	// verbosity 3).
	fromBlockUndo
)

// String implements fmt.Stringer.
func (s source) String() string {
	return [...]string{"undecided", "transaction index", "undo data of transactions", "undo data of blocks"}[s]
}

// errNoSource says that the node has none of the sources.
var errNoSource = fmt.Errorf("%w: it cannot tell what a transaction spends, neither from undo data (getrawtransaction TXID 2 BLOCKHASH "+
	"or getblock HASH 3, as BCHN 28 can) nor from a transaction index: restart it with -txindex=1 (bchd: --txindex)", node.ErrUnsuitable)

// probeBlocks is how many blocks probeSource looks at for one with a spending
// transaction.
const probeBlocks = 10

// probeSource finds out where spent outputs come from, as far as a block near
// the chain's end shows it.
func (c *Client) probeSource(ctx context.Context, tip node.Tip) error {
	// The genesis block is left out: no node can tell anything about it.
	for height := tip.Height; height > 0 && tip.Height-height < probeBlocks; height-- {
		block, txids, err := c.firstTxs(ctx, height)
		if errors.Is(err, node.ErrNotFound) {
			return fmt.Errorf("%w: its best chain moved: %v", node.ErrUnavailable, err)
		}
		if err != nil {
			return err
		}
		if len(txids) > 1 {
			_, err := c.decidedSource(ctx, block, txids[1])
			return err
		}
		// A coinbase spends nothing. It shows only whether the node has the call for
		// undo data: one that has not refuses the third parameter.
		_, err = c.txWithUndo(ctx, block, txids[0], 1)
		if unanswered(err) {
			return err
		}
		if errors.Is(err, node.ErrUnsuitable) {
			_, err := c.decidedSource(ctx, block, txids[0])
			return err
		}
	}
	return nil
}

// firstTxs returns the hash and the txids of the first one or two transactions
// of the block at height.
func (c *Client) firstTxs(ctx context.Context, height uint32) (block chainhash.Hash, txids []chainhash.Hash, err error) {
	var s string
	if err := c.post(ctx, into(&s), "getblockhash", height); err != nil {
		return chainhash.Hash{}, nil, err
	}
	if block, err = parseHash(s); err != nil {
		return chainhash.Hash{}, nil, err
	}
	err = c.blockTxs(ctx, block, 1, func(d *json.Decoder) (bool, error) {
		var s string
		if err := d.Decode(&s); err != nil {
			return false, err
		}
		txid, err := parseHash(s)
		txids = append(txids, txid)
		return len(txids) < 2, err
	})
	if err == nil && len(txids) == 0 {
		err = fmt.Errorf("%w: block %v without transactions", node.ErrInvalid, block)
	}
	return block, txids, err
}

// decided returns where spent outputs come from, and goes on trying while the node
// is unavailable. ErrNotFound says that there is no source for this transaction, or that
// the block was just reorganised away; the caller can tell which.
func (c *Client) decided(ctx context.Context, block, txid chainhash.Hash) (from source, err error) {
	if from := c.knownSource(); from != undecided {
		return from, nil
	}
	err = c.retryBlock(ctx, "spent outputs", func(ctx context.Context) (err error) {
		if from, err = c.decidedSource(ctx, block, txid); errors.Is(err, errNoSource) {
			err = fmt.Errorf("%w: %v", node.ErrNotFound, err)
		}
		return err
	})
	return from, err
}

// decidedSource returns where spent outputs come from. If that is not known yet,
// the transaction, of a block of the best chain, shows it.
func (c *Client) decidedSource(ctx context.Context, block, txid chainhash.Hash) (source, error) {
	if decided := c.knownSource(); decided != undecided {
		return decided, nil
	}
	decided, err := c.decide(ctx, block, txid)
	if err != nil {
		return undecided, err
	}
	c.mu.Lock()
	c.source = decided
	c.mu.Unlock()
	return decided, nil
}

func (c *Client) knownSource() source {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.source
}

// forgetSource has the source decided again, unless somebody else has done so.
func (c *Client) forgetSource(from source) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.source == from {
		c.source = undecided
	}
}

func (c *Client) decide(ctx context.Context, block, txid chainhash.Hash) (source, error) {
	// What the index gives proves itself, and costs the node less.
	var indexes map[string]struct{ Synced bool }
	err := c.post(ctx, into(&indexes), "getindexinfo")
	if unanswered(err) {
		return undecided, err
	}
	if err == nil && indexes["txindex"].Synced {
		return fromIndex, nil
	}
	tx, err := c.txWithUndo(ctx, block, txid, 1)
	if unanswered(err) {
		return undecided, err
	}
	if err == nil && tx.hasSpent() {
		return fromTxUndo, nil
	}
	found := false
	err = c.blockTxs(ctx, block, 3, func(d *json.Decoder) (more bool, err error) {
		var tx decodedTx
		if err := tx.read(d, 1); err != nil {
			return false, err
		}
		found = found || tx.TxID == txid.String() && tx.hasSpent()
		return !found, nil
	})
	if unanswered(err) {
		return undecided, err
	}
	if found {
		return fromBlockUndo, nil
	}
	// This comes last: bitcoind without an index finds a transaction all the same
	// while it has unspent outputs.
	_, err = c.rawTransaction(ctx, txid)
	if unanswered(err) {
		return undecided, err
	}
	if err != nil {
		return undecided, fmt.Errorf("%w (%v)", errNoSource, err)
	}
	return fromIndex, nil
}

// unanswered reports whether err says that the node could not answer just now,
// rather than that it cannot do what it was asked for. A node that cannot says so by an
// error of JSON-RPC. ErrUnsuitable without one comes from something in front of the node, or
// in its place, and tells nothing of the node.
func unanswered(err error) bool {
	if e := new(rpcError); errors.As(err, &e) {
		return e.Code == inWarmup
	}
	return errors.Is(err, node.ErrUnavailable) || errors.Is(err, node.ErrUnsuitable)
}
