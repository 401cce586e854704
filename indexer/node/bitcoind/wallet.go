package bitcoind

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"github.com/gcash/bchutil"

	"github.com/keytree-bch/keytree/indexer/node"
)

// scanTimeout bounds one attempt of ScanOutputs, in which the node reads all unspent
// outputs that there are.
const scanTimeout = 10 * time.Minute

// ScannedOutput is an output that a scan has found, by the node's word.
type ScannedOutput struct {
	OutPoint wire.OutPoint
	Value    int64  // satoshi
	Height   uint32 // of its block
}

// ScanOutputs returns the outputs of the chain that a locking script given by its address
// (CashAddr) locks, in no order, whether the mempool spends them or not. The node reads
// every unspent output for it: that takes seconds on a large chain, and it does one scan at
// a time. So nobody but the operator may be the one who starts it. node.ErrUnsuitable of a
// node that cannot, as a bchd.
func (c *Client) ScanOutputs(ctx context.Context, address string) ([]ScannedOutput, error) {
	var found []ScannedOutput
	err := c.retryWithin(ctx, scanTimeout, "scanning for outputs of "+address, func(ctx context.Context) error {
		var answer struct {
			Success  bool
			Unspents []struct {
				TxID   string
				Vout   uint32
				Amount float64 // BCH
				Height uint32
			}
		}
		if err := c.post(ctx, into(&answer), "scantxoutset", "start", []string{"addr(" + address + ")"}); err != nil {
			return err
		}
		if !answer.Success {
			return fmt.Errorf("%w: somebody has aborted the scan", node.ErrUnavailable)
		}
		found = make([]ScannedOutput, len(answer.Unspents))
		for i, u := range answer.Unspents {
			hash, err := parseHash(u.TxID)
			if err != nil {
				return err
			}
			value, err := bchutil.NewAmount(u.Amount)
			if err != nil {
				return fmt.Errorf("%w: %w", node.ErrInvalid, err)
			}
			found[i] = ScannedOutput{wire.OutPoint{Hash: hash, Index: u.Vout}, int64(value), u.Height}
		}
		return nil
	})
	return found, err
}

// UnspentState is what the node tells of an output that nothing spends.
type UnspentState struct {
	Confirmations uint32 // 0 while it is in the mempool alone
	Coinbase      bool
}

// UnspentState returns what the node tells of an output that neither the best chain nor
// the mempool spends; nil if it knows none. It is the node's word alone.
func (c *Client) UnspentState(ctx context.Context, out wire.OutPoint) (*UnspentState, error) {
	var found *UnspentState // null where there is no such output
	err := c.call(ctx, fmt.Sprintf("output %v", out), &found, "gettxout", out.Hash.String(), out.Index, true)
	return found, err
}

// Transaction returns a transaction whose txid has been checked. node.ErrNotFound if there
// is none. Without an index of transactions a BCHN has those of the mempool, and those of
// the chain of which an output is not spent there.
func (c *Client) Transaction(ctx context.Context, txid chainhash.Hash) ([]byte, error) {
	return c.indexed(ctx, txid)
}

// Submit hands a serialized transaction to the node, which checks it and passes it on to
// the network. What the node does not take is node.ErrRejected, or node.ErrFee; one that it
// has already, in the mempool or in a block, is taken.
func (c *Client) Submit(ctx context.Context, raw []byte) error {
	txid := chainhash.DoubleHashH(raw)
	what := fmt.Sprintf("submitting transaction %v", txid)
	var answer string
	err := c.call(ctx, what, &answer, "sendrawtransaction", hex.EncodeToString(raw))
	if errors.Is(err, node.ErrRejected) {
		// It may be there already, for example because the answer to an earlier
		// attempt was lost.
		refused := new(rpcError)
		if errors.As(err, &refused) && refused.Code == verifyAlreadyInChain {
			return nil
		}
		if _, lookup := c.Transaction(ctx, txid); lookup == nil {
			return nil
		}
		if strings.Contains(err.Error(), "min relay fee not met") || strings.Contains(err.Error(), "mempool min fee not met") {
			return fmt.Errorf("%w: %w", node.ErrFee, err)
		}
	}
	if err != nil {
		return err
	}
	if answer != txid.String() {
		return fmt.Errorf("node at %s: %s: %w: it took a transaction %.80q", c.address, what, node.ErrInvalid, answer)
	}
	return nil
}

// rejects reports whether a node does not take a transaction, with this code.
func (m method) rejects(code int) bool {
	return m == "sendrawtransaction" &&
		(code == deserializationError || code == verifyError || code == verifyRejected || code == verifyAlreadyInChain)
}

// UnmarshalJSON implements json.Unmarshaler. A node that leaves the confirmations out says
// nothing.
func (s *UnspentState) UnmarshalJSON(b []byte) error {
	var fields struct {
		Confirmations *uint32
		Coinbase      bool
	}
	if err := json.Unmarshal(b, &fields); err != nil {
		return err
	}
	if fields.Confirmations == nil {
		return errors.New("an output without its confirmations")
	}
	s.Confirmations, s.Coinbase = *fields.Confirmations, fields.Coinbase
	return nil
}
