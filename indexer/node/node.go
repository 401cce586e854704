// Package node says what the indexer needs of a Bitcoin Cash node: one small
// interface, which each folder below implements for one kind of node.
//
// A node is not trusted. An adapter checks what can be checked without the
// chain's history (that a block hashes to the hash asked for, that a previous
// transaction hashes to the txid that the input names); the indexer checks that
// blocks link. What never belongs here: what an action means.
package node

import (
	"context"
	"errors"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
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
	// ErrUnsuitable says that the node can never serve an indexer as it is
	// configured: the message names what to switch on. Do not retry.
	ErrUnsuitable = errors.New("node unsuitable")
	// ErrInvalid says that the node answered with something that fails its
	// check. Do not use any of it.
	ErrInvalid = errors.New("node answered with invalid data")
)

// Tip is the last block of the node's best chain.
type Tip struct {
	Height uint32
	Hash   chainhash.Hash
	// Downloading is set while the node is in its initial block download and knows
	// that the network's best chain is longer. Not every node tells (bchd).
	Downloading bool
}

// Node serves one best chain. All methods may be called concurrently, honour
// the context, and return errors that wrap one of the errors above. After a
// reorganisation Tip and BlockHash answer for the new best chain at once; Block
// and SpentScript may or may not still know what the old one held.
type Node interface {
	// Tip returns the end of the best chain as the node has it now.
	Tip(ctx context.Context) (Tip, error)
	// BlockHash returns the hash of the best chain's block at height, or
	// ErrNotFound if the best chain is shorter.
	BlockHash(ctx context.Context, height uint32) (chainhash.Hash, error)
	// Block returns the serialized block. Its header hashes to hash; nothing else
	// about it has been checked. The caller owns the bytes.
	Block(ctx context.Context, hash chainhash.Hash) ([]byte, error)
	// SpentScript returns the locking script, with its token prefix if it has one,
	// of the output that out names and that the transaction spender in block
	// spends. It comes from a source that was checked: the full previous
	// transaction, whose hash is out's, or the node's own undo data
	// (identity-rules §2).
	SpentScript(ctx context.Context, block, spender chainhash.Hash, out wire.OutPoint) ([]byte, error)
	// Changes returns a channel that receives a value, without blocking the
	// sender, when the node hints that its best chain may have changed. Hints can
	// be lost: poll as well. The channel is closed when the adapter is closed.
	Changes() <-chan struct{}
}
