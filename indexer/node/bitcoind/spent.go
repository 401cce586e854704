package bitcoind

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

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

// SpentScript implements node.Node.
func (c *Client) SpentScript(ctx context.Context, block, spender chainhash.Hash, out wire.OutPoint) ([]byte, error) {
	var script []byte
	err := c.retry(ctx, fmt.Sprintf("output %v", out), func(ctx context.Context) error {
		from, err := c.decidedSource(ctx, block, spender)
		if errors.Is(err, errNoSource) {
			// Or the block has just been reorganised away: the caller can tell.
			return fmt.Errorf("%w: %v", node.ErrNotFound, err)
		}
		if err != nil {
			return err
		}
		script, err = c.spentScript(ctx, from, block, spender, out)
		return err
	})
	return script, err
}

func (c *Client) spentScript(ctx context.Context, from source, block, spender chainhash.Hash, out wire.OutPoint) ([]byte, error) {
	if from == fromIndex {
		raw, err := c.indexed(ctx, out.Hash)
		if err != nil {
			return nil, err
		}
		script, err := protocol.OutputScript(raw, out.Hash, out.Index)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", node.ErrInvalid, err)
		}
		return bytes.Clone(script), nil
	}
	tx, err := c.withUndo(ctx, from, block, spender)
	if err != nil {
		return nil, err
	}
	for _, in := range tx.Inputs {
		if in.Vout != nil && in.TxID == out.Hash.String() && *in.Vout == out.Index {
			return in.script()
		}
	}
	return nil, fmt.Errorf("%w: it says that transaction %v does not spend it", node.ErrInvalid, spender)
}

// indexed fetches a transaction by its txid alone.
func (c *Client) indexed(ctx context.Context, txid chainhash.Hash) ([]byte, error) {
	var raw []byte
	if err := c.post(ctx, hexInto(&raw, maxAnswer), "getrawtransaction", txid.String(), 0); err != nil {
		return nil, err
	}
	if got := chainhash.DoubleHashH(raw); got != txid {
		return nil, fmt.Errorf("%w: it sent transaction %v", node.ErrInvalid, got)
	}
	return raw, nil
}

// decodedTx is a transaction as the node decodes it.
type decodedTx struct {
	TxID   string
	Hex    string
	Inputs []input `json:"vin"`
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

func (in *input) script() ([]byte, error) {
	s := &in.spent
	if in.Prevout != nil {
		s = in.Prevout
	}
	if s.ScriptPubKey == nil || s.ScriptPubKey.Hex == nil {
		return nil, fmt.Errorf("%w: expected scriptPubKey.hex of the output that is spent", node.ErrInvalid)
	}
	script, err := hex.DecodeString(*s.ScriptPubKey.Hex)
	if err != nil {
		return nil, fmt.Errorf("%w: scriptPubKey.hex: %w", node.ErrInvalid, err)
	}
	if s.TokenData == nil {
		return script, nil
	}
	prefix, err := s.TokenData.prefix()
	if err != nil {
		return nil, fmt.Errorf("%w: tokenData: %w", node.ErrInvalid, err)
	}
	return append(prefix, script...), nil
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

// withUndo fetches a transaction of the block with what it spends. Its bytes
// have been checked against txid; what it spends is the node's word.
func (c *Client) withUndo(ctx context.Context, from source, block, txid chainhash.Hash) (*decodedTx, error) {
	var tx *decodedTx
	var err error
	if from == fromBlockUndo {
		err = c.blockTxs(ctx, block, 3, func(d *json.Decoder) (bool, error) {
			var next decodedTx
			if err := d.Decode(&next); err != nil {
				return false, err
			}
			if next.TxID == txid.String() {
				tx = &next
			}
			return tx == nil, nil
		})
		if err == nil && tx == nil {
			err = node.ErrNotFound
		}
	} else {
		tx = new(decodedTx)
		err = c.post(ctx, into(tx), "getrawtransaction", txid.String(), 2, block.String())
	}
	if err != nil {
		return nil, err
	}
	raw, err := hex.DecodeString(tx.Hex)
	if err != nil {
		return nil, fmt.Errorf("%w: transaction %v: %w", node.ErrInvalid, txid, err)
	}
	if got := chainhash.DoubleHashH(raw); got != txid {
		return nil, fmt.Errorf("%w: it sent transaction %v, expected %v", node.ErrInvalid, got, txid)
	}
	return tx, nil
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
		err = c.post(ctx, into(new(decodedTx)), "getrawtransaction", txids[0].String(), 2, block.String())
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

// decidedSource returns where spent outputs come from. If that is not known yet,
// the transaction, of a block of the best chain, shows it.
func (c *Client) decidedSource(ctx context.Context, block, txid chainhash.Hash) (source, error) {
	c.mu.Lock()
	decided := c.source
	c.mu.Unlock()
	if decided != undecided {
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
	for _, from := range []source{fromTxUndo, fromBlockUndo} {
		tx, err := c.withUndo(ctx, from, block, txid)
		if unanswered(err) {
			return undecided, err
		}
		if err == nil && tx.hasSpent() {
			return from, nil
		}
	}
	// This comes last: bitcoind without an index finds a transaction all the same
	// while it has unspent outputs.
	_, err = c.indexed(ctx, txid)
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
	e := new(rpcError)
	return errors.Is(err, node.ErrUnavailable) && (!errors.As(err, &e) || e.Code == inWarmup)
}
