// Package node says what the indexer needs of a Bitcoin Cash node: one small
// interface, which each folder below implements for one kind of node.
//
// A node is not trusted. An adapter checks what can be checked without the
// chain's history (that a block hashes to the hash asked for, that a previous
// transaction hashes to the txid that the input names, that headers follow each
// other); the indexer checks that blocks are of the network's chain, and the
// signatures over what is only the node's word. What never belongs here: what an
// action means.
package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/protocol"
)

// Errors of every adapter, to be matched with errors.Is.
var (
	// ErrNotFound says that the node does not know the block, height or
	// transaction. After a reorganisation that is normal: look at the best chain
	// again.
	ErrNotFound = errors.New("not known to the node")
	// ErrUnavailable says that the node did not answer. Adapters have already
	// retried as long as makes sense for one call; try again later.
	ErrUnavailable = errors.New("node unavailable")
	// ErrUnsuitable says that the node cannot serve an indexer as it is configured
	// now: the message names what to change. At the start that is a reason to give
	// up. A node that was suitable may be on its way back: try again later.
	ErrUnsuitable = errors.New("node unsuitable")
	// ErrInvalid says that the node answered with something that fails its
	// check. Do not use any of it.
	ErrInvalid = errors.New("node answered with invalid data")
	// ErrRejected says that the node does not take what it was given: a transaction
	// that breaks a rule or the node's policy. The message has the node's reason.
	// Sending the same again will not help.
	ErrRejected = errors.New("rejected by the node")
	// ErrFee is the ErrRejected of a transaction that pays too little for the node to
	// pass it on.
	ErrFee = fmt.Errorf("%w: its fee is too low", ErrRejected)
)

// Tip is the last block of the node's best chain, and what the node tells of how
// much that is worth.
type Tip struct {
	Height uint32
	Hash   chainhash.Hash
	// Downloading is set while the node knows that the network's best chain is
	// longer, and has yet to download or to read again its blocks. Not every node
	// tells (bchd).
	Downloading bool
	// Headers is the height of the best header that the node knows. Not every node
	// tells (bchd's gRPC): then it is Height.
	Headers uint32
	// Peers is how many other nodes it is connected to, Untold if it does not tell.
	Peers int
	// Version is what the node calls itself, "" if it does not tell (bchd's gRPC). It
	// has at most MaxVersion bytes, and nothing is to be made of it but to show it.
	Version string
}

// MaxVersion is how many bytes of what a node calls itself are kept.
const MaxVersion = 256

// Untold stands for a number that a node does not tell.
const Untold = -1

// Spender is a transaction of a block, and which outputs that its inputs spend are
// asked for.
type Spender struct {
	TxID   chainhash.Hash
	Inputs []wire.OutPoint // from input 0 on: that of input 0, or those of all
}

// Spent are outputs that one transaction spends.
type Spent struct {
	// Outputs are those that were asked for, in the order of the inputs; or that of
	// input 0 alone, if they are Proven. The scripts have their token prefixes.
	Outputs []protocol.Output
	// Proven says that they come from full previous transactions, which hash to the
	// txids that the inputs name. Otherwise they are the node's word.
	Proven bool
}

// Node serves one best chain. All methods may be called concurrently, honour
// the context, and return errors that wrap one of the errors above. After a
// reorganisation Tip, BlockHash and Headers answer for the new best chain at once;
// Block, Spent and Previous may or may not still know what the old one held.
type Node interface {
	// Tip returns the end of the best chain as the node has it now.
	Tip(ctx context.Context) (Tip, error)
	// BlockHash returns the hash of the best chain's block at height, or
	// ErrNotFound if the best chain is shorter.
	BlockHash(ctx context.Context, height uint32) (chainhash.Hash, error)
	// Headers returns headers of the best chain in their order: those behind the
	// block that is named after, which is at height, as many of the number wanted as
	// the node likes to give at a time, one at least. Each follows the one before it,
	// the first the block after (CheckHeaders); nothing else about them has been
	// checked. ErrNotFound says that this block is not in the best chain, or is its
	// last.
	Headers(ctx context.Context, after chainhash.Hash, height, want uint32) ([]protocol.Header, error)
	// Block returns the serialized block. Its header hashes to hash; nothing else
	// about it has been checked. The caller owns the bytes.
	Block(ctx context.Context, hash chainhash.Hash) ([]byte, error)
	// Spent returns what transactions of a block of the best chain spend, an element
	// for each of them. Where the node keeps an index of transactions they are Proven.
	Spent(ctx context.Context, block chainhash.Hash, by []Spender) ([]Spent, error)
	// Previous returns the full transaction, whose hash has been checked, that
	// has the output named, which spender in the block spends. ErrNotFound says that
	// this node cannot give it: it has no index of transactions and has pruned the
	// block away, or the block has left the best chain.
	Previous(ctx context.Context, block, spender chainhash.Hash, out wire.OutPoint) (protocol.Tx, error)
	// Changes returns a channel that receives a value, without blocking the
	// sender, when the node hints that its best chain may have changed. Hints can
	// be lost: poll as well. The channel is closed when the adapter is closed.
	Changes() <-chan struct{}
}
