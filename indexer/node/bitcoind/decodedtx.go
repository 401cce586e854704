package bitcoind

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"github.com/gcash/bchutil"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/protocol"
)

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

// read takes a transaction off the decoder. Payers of fees decide how large it is: the
// script of each output that it spends takes up to 50 kB in JSON. So read takes one input at
// a time, and keeps no more than asked for.
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
