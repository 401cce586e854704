package bchd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/gcash/bchd/bchrpc/pb"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/txscript"
	"github.com/gcash/bchd/wire"
	"github.com/gcash/bchutil"

	"github.com/keytree-bch/keytree/indexer/node"
)

// unminedHeight is bchd's height for what is in the mempool.
const unminedHeight = math.MaxInt32

// UnspentOutput is an output that an address can spend. The node's word for it
// has not been checked, and need not be: signatures commit to the value, the
// script and the token, so a transaction built on a lie is invalid.
type UnspentOutput struct {
	OutPoint wire.OutPoint
	Value    int64  // satoshi
	Script   []byte // locking script without a token prefix
	// Token says that the output carries a CashToken, which a transaction that
	// does not know about tokens would burn.
	Token    bool
	Height   uint32 // of its block; 0 while unconfirmed
	Coinbase bool   // spendable only 100 blocks later
}

// UnspentOutputs returns the outputs to the address that neither the best chain
// nor the mempool spends, in no order. Outputs with another script for the same
// key, such as P2PK, are left out. It needs a node with --addrindex
// (node.ErrUnsuitable without).
func (c *Client) UnspentOutputs(ctx context.Context, address bchutil.Address) ([]UnspentOutput, error) {
	script, err := txscript.PayToAddrScript(address)
	if err != nil {
		return nil, fmt.Errorf("outputs of %v: %w", address, err)
	}
	what := fmt.Sprintf("outputs of %v", address)
	answer, err := call(ctx, c, what, c.rpc.GetAddressUnspentOutputs, &pb.GetAddressUnspentOutputsRequest{
		Address:        address.EncodeAddress(),
		IncludeMempool: true,
	})
	if err != nil {
		return nil, err
	}
	outputs := make([]UnspentOutput, 0, len(answer.Outputs))
	// A transaction that confirms while the node answers may come twice.
	seen := make(map[wire.OutPoint]bool, len(answer.Outputs))
	for _, out := range answer.Outputs {
		txid, err := chainhash.NewHash(out.Outpoint.GetHash())
		if err != nil || out.Value < 0 || out.BlockHeight < 0 {
			return nil, fmt.Errorf("bchd at %s: %s: %w: an output of %d satoshi at height %d with a txid of %d bytes",
				c.address, what, node.ErrInvalid, out.Value, out.BlockHeight, len(out.Outpoint.GetHash()))
		}
		outPoint := wire.OutPoint{Hash: *txid, Index: out.Outpoint.GetIndex()}
		if seen[outPoint] || !bytes.Equal(out.PubkeyScript, script) {
			continue
		}
		seen[outPoint] = true
		height := uint32(out.BlockHeight)
		if out.BlockHeight == unminedHeight {
			height = 0
		}
		outputs = append(outputs, UnspentOutput{
			OutPoint: outPoint, Value: out.Value, Script: script,
			Token: out.CashToken != nil, Height: height, Coinbase: out.IsCoinbase,
		})
	}
	return outputs, nil
}

// Submit hands a serialized transaction to the node, which checks it and passes
// it on to the network, and returns its txid. node.ErrRejected or node.ErrFee if the node
// refuses it; a node that has it already takes it.
func (c *Client) Submit(ctx context.Context, raw []byte) (chainhash.Hash, error) {
	txid := chainhash.DoubleHashH(raw)
	what := fmt.Sprintf("submitting transaction %v", txid)
	answer, err := call(ctx, c, what, c.rpc.SubmitTransaction, &pb.SubmitTransactionRequest{Transaction: raw})
	if errors.Is(err, node.ErrRejected) {
		// It may be there already, for example because the answer to an earlier
		// attempt was lost.
		if _, lookup := c.Transaction(ctx, txid); lookup == nil {
			return txid, nil
		}
		if aboutFee(err) {
			return chainhash.Hash{}, fmt.Errorf("%w: %w", node.ErrFee, err)
		}
	}
	if err != nil {
		return chainhash.Hash{}, err
	}
	if !bytes.Equal(answer.Hash, txid[:]) {
		return chainhash.Hash{}, fmt.Errorf("bchd at %s: %s: %w: it took a transaction %x (in internal order)",
			c.address, what, node.ErrInvalid, answer.Hash)
	}
	return txid, nil
}

// aboutFee tells from the words of bchd 0.22, which has no code for it, whether it
// rejected a transaction for its fee.
func aboutFee(err error) bool {
	for _, words := range []string{"insufficient priority", "fees which is under the required amount", "due to low fees"} {
		if strings.Contains(err.Error(), words) {
			return true
		}
	}
	return false
}
