package mempool

import (
	"context"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/protocol"
)

// Node is what a node has to offer for its mempool to be followed. All methods may be called
// concurrently, honour the context, and return errors that wrap one of package node's.
// Nothing that they return has been checked, unless that is said.
type Node interface {
	// Tip returns the end of the best chain as the node has it now.
	Tip(ctx context.Context) (node.Tip, error)
	// Mempool calls each for the txid of every transaction in the mempool as it is at one
	// moment, in any order; for some more than once if it had to try again. With more than
	// most it fails.
	Mempool(ctx context.Context, most int, each func(txid chainhash.Hash)) error
	// MempoolTxs returns serialized transactions of the mempool by their txids, in that order;
	// nil where it does not have one any more. It may give confirmed ones too.
	MempoolTxs(ctx context.Context, txids []chainhash.Hash) ([][]byte, error)
	// ConfirmedOutputs returns outputs that the best chain has and does not spend, whatever the
	// mempool spends, in the order of outs; without a script where there is no such output.
	// Scripts have their token prefixes.
	ConfirmedOutputs(ctx context.Context, outs []wire.OutPoint) ([]protocol.Output, error)
	// Announced returns a channel that receives serialized transactions which are or were just
	// now in the mempool, or in a block, as hints: any of them may be lost. It is closed when
	// the node's adapter is.
	Announced() <-chan []byte
	// Announces says how transactions are announced, in a word, "" while they are not.
	Announces() string
	// Missed tells the node's adapter that a transaction that it should have announced was
	// found in the list.
	Missed()
}

// Prover is a Node that keeps double-spend proofs.
type Prover interface {
	// DoubleSpends returns the txids of transactions in the mempool of which the node has a
	// proof that one of their inputs, or of those that they depend on, was spent twice.
	// node.ErrUnsuitable says that it keeps no proofs.
	DoubleSpends(ctx context.Context) ([]chainhash.Hash, error)
}
