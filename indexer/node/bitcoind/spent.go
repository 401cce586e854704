package bitcoind

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"github.com/gcash/bchutil"
	"golang.org/x/sync/errgroup"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/protocol"
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

var errNoSource = fmt.Errorf("%w: it cannot tell what a transaction spends, neither from undo data (getrawtransaction TXID 2 BLOCKHASH "+
	"or getblock HASH 3, as BCHN 28 can) nor from a transaction index: restart it with -txindex=1 (bchd: --txindex)", node.ErrUnsuitable)

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

// txWithUndo fetches a transaction of the block with what its first inputs spend.
func (c *Client) txWithUndo(ctx context.Context, block, txid chainhash.Hash, inputs int) (tx decodedTx, err error) {
	err = c.post(ctx, streamed(func(d *json.Decoder) error { return tx.read(d, inputs) }), "getrawtransaction", txid.String(), 2, block.String())
	if err == nil && tx.TxID == "" {
		err = fmt.Errorf("%w: %w: expected a transaction", node.ErrUnsuitable, errNotRPC)
	}
	return tx, err
}

// decodedTx is a transaction as the node decodes it, as far as it matters here.
type decodedTx struct {
	TxID   string
	Inputs []input // the first ones, as many as were asked for
}

// read takes a transaction off the decoder. Whoever pays fees decides how large it is:
// the script of each output that it spends takes up to 50 kB in JSON. So one input is
// read at a time, and no more are kept than asked for.
func (tx *decodedTx) read(d *json.Decoder, inputs int) error {
	return object(d, func(key string) error {
		switch key {
		case "txid":
			return d.Decode(&tx.TxID)
		case "vin":
			return array(d, func() error {
				var in input
				err := d.Decode(&in)
				if len(tx.Inputs) < inputs {
					tx.Inputs = append(tx.Inputs, in)
				}
				return err
			})
		case "vout":
			return array(d, func() error { return d.Decode(new(json.RawMessage)) })
		}
		return d.Decode(new(json.RawMessage))
	})
}

// input is an input with the output that it spends. getblock has that in
// prevout, getrawtransaction beside the rest.
type input struct {
	TxID string
	Vout *uint32
	spent
	Prevout *spent
}

// spent is an output that was spent, from undo data.
type spent struct {
	Height       *uint32 // only in prevout
	Value        *float64
	ScriptPubKey *struct{ Hex *string }
	TokenData    *tokenData
}

// tokenData is what the node shows of an output's CashToken, which it leaves out
// of the script.
type tokenData struct {
	Category string
	Amount   string
	NFT      *struct{ Capability, Commitment string }
}

// hasSpent reports whether the node told what the transaction spends.
func (tx *decodedTx) hasSpent() bool {
	return len(tx.Inputs) > 0 && (tx.Inputs[0].ScriptPubKey != nil || tx.Inputs[0].Prevout != nil && tx.Inputs[0].Prevout.ScriptPubKey != nil)
}

// spent returns the outputs that are asked for. They are the node's word, but for
// their outpoints, which are known from the block.
func (tx *decodedTx) spent(asked node.Spender) (node.Spent, error) {
	if len(tx.Inputs) > 0 && !tx.hasSpent() {
		return node.Spent{}, fmt.Errorf("%w: what transaction %v spends", node.ErrNotFound, asked.TxID)
	}
	outputs := make([]protocol.Output, 0, len(asked.Inputs))
	for i, out := range asked.Inputs {
		if i >= len(tx.Inputs) || tx.Inputs[i].Vout == nil || *tx.Inputs[i].Vout != out.Index || tx.Inputs[i].TxID != out.Hash.String() {
			return node.Spent{}, fmt.Errorf("%w: it says that input %d of transaction %v does not spend output %v", node.ErrInvalid, i, asked.TxID, out)
		}
		output, err := tx.Inputs[i].output()
		if err != nil {
			return node.Spent{}, fmt.Errorf("input %d of transaction %v: %w", i, asked.TxID, err)
		}
		outputs = append(outputs, output)
	}
	return node.Spent{Outputs: outputs}, nil
}

// output returns the output that is spent, as it is on chain.
func (in *input) output() (protocol.Output, error) {
	s := &in.spent
	if in.Prevout != nil {
		s = in.Prevout
	}
	if s.ScriptPubKey == nil || s.ScriptPubKey.Hex == nil || s.Value == nil {
		return protocol.Output{}, fmt.Errorf("%w: expected value and scriptPubKey.hex of the output that is spent", node.ErrInvalid)
	}
	value, err := bchutil.NewAmount(*s.Value) // rounds to whole satoshi
	if err != nil || value < 0 || value > bchutil.MaxSatoshi {
		return protocol.Output{}, fmt.Errorf("%w: expected a value of 0 to %v, got %v BCH", node.ErrInvalid, bchutil.Amount(bchutil.MaxSatoshi), *s.Value)
	}
	script, err := hex.DecodeString(*s.ScriptPubKey.Hex)
	if err != nil {
		return protocol.Output{}, fmt.Errorf("%w: scriptPubKey.hex: %w", node.ErrInvalid, err)
	}
	if s.TokenData != nil {
		prefix, err := s.TokenData.prefix()
		if err != nil {
			return protocol.Output{}, fmt.Errorf("%w: tokenData: %w", node.ErrInvalid, err)
		}
		script = append(prefix, script...)
	}
	return protocol.Output{Value: int64(value), Script: script}, nil
}

// prefix returns the token as it was in front of the script on chain
// (CHIP-2022-02-CashTokens).
func (t *tokenData) prefix() ([]byte, error) {
	category, err := parseHash(t.Category)
	if err != nil {
		return nil, fmt.Errorf("category: %w", err)
	}
	token := wire.TokenData{CategoryID: category}
	if t.Amount != "" && t.Amount != "0" {
		token.BitField |= wire.HAS_AMOUNT
		if token.Amount, err = strconv.ParseUint(t.Amount, 10, 63); err != nil {
			return nil, fmt.Errorf("amount: %w", err)
		}
	}
	if t.NFT != nil {
		token.BitField |= wire.HAS_NFT
		switch t.NFT.Capability {
		case "none":
		case "mutable":
			token.BitField |= wire.MUTABLE
		case "minting":
			token.BitField |= wire.MINTING
		default:
			return nil, fmt.Errorf("unknown capability %.20q", t.NFT.Capability)
		}
		if token.Commitment, err = hex.DecodeString(t.NFT.Commitment); err != nil {
			return nil, fmt.Errorf("commitment: %w", err)
		}
		if len(token.Commitment) > 0 {
			token.BitField |= wire.HAS_COMMITMENT_LENGTH
		}
	}
	if token.BitField == 0 {
		return nil, errors.New("neither an amount nor an NFT")
	}
	prefix := token.TokenDataBuffer()
	return prefix.Bytes(), nil
}

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
		// A coinbase shows only whether the node knows no undo data at all: then it
		// does not take the third parameter.
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
// is unavailable. ErrNotFound says that there is no source for this transaction; or
// the block has just been reorganised away, the caller can tell.
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
// rather than that it cannot do what it was asked for.
func unanswered(err error) bool {
	if e := new(rpcError); errors.As(err, &e) {
		return e.Code == inWarmup
	}
	return errors.Is(err, node.ErrUnavailable) || errors.Is(err, node.ErrUnsuitable)
}
