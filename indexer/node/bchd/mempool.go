package bchd

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/gcash/bchd/bchrpc/pb"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/reach"
	"github.com/keytree-bch/keytree/protocol"
)

const (
	// listedSize is what a txid takes in the answer with all of them, in bytes, with room.
	listedSize = 48
	// maxAnnounced is the most that a transaction takes which is announced, in bytes: what
	// consensus allows one, with room.
	maxAnnounced = protocol.MaxTxSize + 1<<10
	// announcedAhead is how many announced transactions wait to be taken: 64 MB at most, of a
	// node that announces the largest that there may be.
	announcedAhead = 64
)

// Mempool calls each for the txid of every transaction in the node's mempool, in no order;
// after a failed attempt once more for some. It fails with node.ErrUnsuitable if there are
// more than most. It is mempool.Node's.
func (c *Client) Mempool(ctx context.Context, most int, each func(txid chainhash.Hash)) error {
	list := func(ctx context.Context, q *pb.GetMempoolRequest, _ ...grpc.CallOption) (*pb.GetMempoolResponse, error) {
		return c.rpc.GetMempool(ctx, q, grpc.MaxCallRecvMsgSize(most*listedSize))
	}
	answer, err := callForBlock(ctx, c, "mempool", list, &pb.GetMempoolRequest{})
	if err != nil {
		return err
	}
	if n := len(answer.TransactionData); n > most {
		return fmt.Errorf("bchd at %s: mempool: %w: it has %d transactions, expected %d at most", c.address, node.ErrUnsuitable, n, most)
	}
	for _, tx := range answer.TransactionData {
		txid, err := chainhash.NewHash(tx.GetTransactionHash())
		if err != nil {
			return fmt.Errorf("bchd at %s: mempool: %w: a txid of %d bytes", c.address, node.ErrInvalid, len(tx.GetTransactionHash()))
		}
		each(*txid)
	}
	return nil
}

// MempoolTxs returns serialized transactions by their txids, in that order; nil where the
// node does not have one any more. They have not been checked. It is mempool.Node's. bchd
// gives those of its index too.
func (c *Client) MempoolTxs(ctx context.Context, txids []chainhash.Hash) ([][]byte, error) {
	raws := make([][]byte, len(txids))
	calls, ctx := errgroup.WithContext(ctx)
	calls.SetLimit(previousCalls)
	for i, txid := range txids {
		calls.Go(func() error {
			answer, err := call(ctx, c, fmt.Sprintf("transaction %v", txid), c.rpc.GetRawTransaction, &pb.GetRawTransactionRequest{Hash: txid[:]})
			if errors.Is(err, node.ErrNotFound) {
				return nil
			}
			raws[i] = answer.GetTransaction()
			return err
		})
	}
	return raws, calls.Wait()
}

// ConfirmedOutputs returns outputs that the best chain has and does not spend, in the order
// of outs; without a script where it has no such output. They are the node's word, but for
// those with a token, which come from the full transaction. It is mempool.Node's.
func (c *Client) ConfirmedOutputs(ctx context.Context, outs []wire.OutPoint) ([]protocol.Output, error) {
	outputs := make([]protocol.Output, len(outs))
	calls, ctx := errgroup.WithContext(ctx)
	calls.SetLimit(previousCalls)
	for i, out := range outs {
		calls.Go(func() (err error) {
			outputs[i], err = c.confirmedOutput(ctx, out)
			return err
		})
	}
	return outputs, calls.Wait()
}

func (c *Client) confirmedOutput(ctx context.Context, out wire.OutPoint) (protocol.Output, error) {
	answer, err := call(ctx, c, fmt.Sprintf("output %v", out), c.rpc.GetUnspentOutput, &pb.GetUnspentOutputRequest{Hash: out.Hash[:], Index: out.Index})
	switch {
	case errors.Is(err, node.ErrNotFound) || errors.Is(err, node.ErrRejected):
		return protocol.Output{}, nil
	case err != nil:
		return protocol.Output{}, err
	case answer.CashToken == nil:
		return protocol.Output{Value: answer.Value, Script: answer.PubkeyScript}, nil
	}
	// What it tells of a token is not how it was serialized.
	raw, err := c.Transaction(ctx, out.Hash)
	if err != nil {
		return protocol.Output{}, err
	}
	output, err := protocol.SpentOutput(raw, out)
	if err != nil {
		return protocol.Output{}, fmt.Errorf("bchd at %s: output %v: %w: %w", c.address, out, node.ErrInvalid, err)
	}
	output.Script = bytes.Clone(output.Script)
	return output, nil
}

// announcements are bchd's stream of transactions that its mempool takes.
type announcements struct {
	txs  chan []byte   // sent to and closed by announce
	done chan struct{} // closed when announce has ended
}

// Announced returns a channel that receives serialized transactions which the mempool has
// taken just now, as the node announces them: none of them has been checked, and any may be
// lost. The first call subscribes; the channel is closed when the client is closed.
//
// bchd does not announce what it was sent by JSON-RPC, or takes back from a block. It is
// mempool.Node's.
func (c *Client) Announced() <-chan []byte {
	c.announcing.Lock()
	defer c.announcing.Unlock()
	if c.announced == nil {
		c.announced = &announcements{txs: make(chan []byte, announcedAhead), done: make(chan struct{})}
		go c.announce(c.following, c.announced)
	}
	return c.announced.txs
}

// Announces returns how transactions are announced: "stream", or "" while that is
// interrupted. It is mempool.Node's.
func (c *Client) Announces() string {
	if c.streams.Load() {
		return "stream"
	}
	return ""
}

// Missed is mempool.Node's. There is nothing to be done: gRPC pings while the stream is
// open, and bchd does not announce everything.
func (c *Client) Missed() {}

// announce owns the stream of transactions until ctx ends.
func (c *Client) announce(ctx context.Context, a *announcements) {
	defer close(a.done)
	defer close(a.txs)
	pauses := reach.NewPauses()
	trouble := node.NewTrouble(c.log, node.WarnEvery, "transaction notifications interrupted, subscribing again and again", "transaction notifications arrive again")
	for {
		token := c.token.current()
		err := c.receive(ctx, a.txs, func() { pauses.Reset(); trouble.Over() })
		c.streams.Store(false)
		if ctx.Err() != nil {
			return
		}
		trouble.Warn(err)
		if refusesToken(status.Convert(err)) {
			_ = c.token.renew(token) // the next subscription tells whether that helped
		}
		if !pauses.Sleep(ctx) {
			return
		}
	}
}

// receive subscribes, and hands over transactions until the stream breaks.
func (c *Client) receive(ctx context.Context, txs chan<- []byte, works func()) error {
	stream, err := c.rpc.SubscribeTransactions(ctx, &pb.SubscribeTransactionsRequest{
		Subscribe: &pb.TransactionFilter{AllTransactions: true}, IncludeMempool: true, SerializeTx: true,
	}, grpc.WaitForReady(true), grpc.MaxCallRecvMsgSize(maxAnnounced))
	for err == nil {
		c.streams.Store(true)
		var answer *pb.TransactionNotification
		if answer, err = stream.Recv(); err != nil {
			break
		}
		works()
		select {
		case txs <- answer.GetSerializedTransaction():
		default: // the list has it
		}
	}
	return err
}
