package bitcoind

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/protocol"
)

// batchSize is how many questions are put at a time, and maxBatchAnswer the most that one of
// their answers takes, in bytes: the largest transaction in hex, with room.
const (
	batchSize      = 32
	maxBatchAnswer = 2*protocol.MaxTxSize + 4<<10
)

// Mempool calls each for the txid of every transaction in the node's mempool, in no order;
// after a failed attempt once more for some. The list is never in memory as a whole. It fails
// with node.ErrUnsuitable if there are more than most. It is mempool.Node's.
func (c *Client) Mempool(ctx context.Context, most int, each func(txid chainhash.Hash)) error {
	return c.retry(ctx, "mempool", func(ctx context.Context) error {
		count := 0
		return c.post(ctx, streamed(func(d *json.Decoder) error {
			return array(d, func() error {
				var s string
				if err := d.Decode(&s); err != nil {
					return err
				}
				txid, err := parseHash(s)
				if err != nil {
					return err
				}
				if count++; count > most {
					return fmt.Errorf("%w: it has more than %d transactions", node.ErrUnsuitable, most)
				}
				each(txid)
				return nil
			})
		}), "getrawmempool")
	})
}

// MempoolTxs returns serialized transactions by their txids, in that order; nil where the
// node does not have one any more. They have not been checked. It is mempool.Node's.
func (c *Client) MempoolTxs(ctx context.Context, txids []chainhash.Hash) ([][]byte, error) {
	raws := make([][]byte, len(txids))
	err := c.askMany(ctx, "transactions of the mempool", "getrawtransaction", len(txids),
		func(i int) []any { return []any{txids[i].String(), 0} },
		func(i int, result json.RawMessage, failed *rpcError) error {
			if failed != nil {
				if err := method("getrawtransaction").classify(failed); !errors.Is(err, node.ErrNotFound) {
					return err
				}
				return nil
			}
			var s string
			err := json.Unmarshal(result, &s)
			if err == nil {
				raws[i], err = hex.DecodeString(s)
			}
			return err
		})
	return raws, err
}

// ConfirmedOutputs returns outputs that the best chain has and does not spend, in the order
// of outs; without a script where it has no such output. They are the node's word. It is
// mempool.Node's.
func (c *Client) ConfirmedOutputs(ctx context.Context, outs []wire.OutPoint) ([]protocol.Output, error) {
	outputs := make([]protocol.Output, len(outs))
	err := c.askMany(ctx, "unspent outputs", "gettxout", len(outs),
		func(i int) []any { return []any{outs[i].Hash.String(), outs[i].Index, false} },
		func(i int, result json.RawMessage, failed *rpcError) error {
			if failed != nil {
				if err := method("gettxout").classify(failed); !errors.Is(err, node.ErrNotFound) {
					return err
				}
				return nil
			}
			var found *spent
			if err := json.Unmarshal(result, &found); err != nil || found == nil {
				return err
			}
			output, err := (&input{spent: *found}).output()
			outputs[i] = output
			return err
		})
	return outputs, err
}

// DoubleSpends returns the txids of transactions in the mempool of which the node has a proof
// that one of their inputs was spent twice, and of all that depend on them, as far as it
// tells; a txid may come twice. It fails with node.ErrUnsuitable if the node has no such
// proofs: they are BCHN's, unless it runs with -doublespendproof=0. It is mempool.Prover's.
func (c *Client) DoubleSpends(ctx context.Context) (txids []chainhash.Hash, err error) {
	var proofs []struct{ DSPID, TxID string }
	if err := c.call(ctx, "double-spend proofs", &proofs, "getdsprooflist", 2); err != nil {
		return nil, err
	}
	add := func(s string) error {
		txid, err := parseHash(s)
		txids = append(txids, txid)
		return err
	}
	for _, proof := range proofs {
		if err := add(proof.TxID); err != nil {
			return nil, fmt.Errorf("node at %s: double-spend proofs: %w", c.address, err)
		}
	}
	err = c.askMany(ctx, "double-spend proofs", "getdsproof", min(len(proofs), maxProofs),
		func(i int) []any { return []any{proofs[i].DSPID, 1} },
		func(_ int, result json.RawMessage, failed *rpcError) error {
			if failed != nil { // it has left
				return nil
			}
			var proof struct{ Descendants []string }
			if err := json.Unmarshal(result, &proof); err != nil {
				return err
			}
			for _, s := range proof.Descendants {
				if err := add(s); err != nil {
					return err
				}
			}
			return nil
		})
	return txids, err
}

// maxProofs is how many double-spend proofs are asked for what depends on their transactions.
const maxProofs = 256

// askMany puts n questions of one method, some at a time, and gives each of their answers to
// read, in any order: either a result, which may be null, or an error.
func (c *Client) askMany(ctx context.Context, what string, m method, n int, params func(i int) []any, read func(i int, result json.RawMessage, failed *rpcError) error) error {
	for from := 0; from < n; from += batchSize {
		count := min(batchSize, n-from)
		questions := make([]map[string]any, count)
		for i := range questions {
			questions[i] = question(from+i, m, params(from+i)...)
		}
		body, err := json.Marshal(questions)
		if err != nil {
			return err
		}
		err = c.retry(ctx, what, func(ctx context.Context) error {
			return c.postQuestion(ctx, batch(from, count, read), m, body)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// batch reads the answers to count questions whose ids begin with from: each of them once.
func batch(from, count int, read func(i int, result json.RawMessage, failed *rpcError) error) reader {
	return func(r *bufio.Reader) error {
		first, err := r.Peek(1)
		if err == nil && first[0] == '{' { // an error that is about the batch
			if _, err = readAnswer(r); err == nil {
				err = fmt.Errorf("%w: one answer to many questions", errNotRPC)
			}
		}
		if err != nil {
			return err
		}
		d := json.NewDecoder(&limited{r: r, left: int64(count) * maxBatchAnswer})
		answered := make([]bool, count)
		err = array(d, func() error {
			var answer struct {
				Result json.RawMessage
				Error  *rpcError
				ID     *int
			}
			if err := d.Decode(&answer); err != nil {
				return err
			}
			if answer.ID == nil || *answer.ID < from || *answer.ID >= from+count || answered[*answer.ID-from] {
				return fmt.Errorf("%w: an answer to none of the questions", errNotRPC)
			}
			answered[*answer.ID-from] = true
			return read(*answer.ID, answer.Result, answer.Error)
		})
		for i := range answered {
			if err == nil && !answered[i] {
				err = fmt.Errorf("%w: a question without an answer", errNotRPC)
			}
		}
		return err
	}
}
