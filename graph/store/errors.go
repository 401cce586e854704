package store

import (
	"errors"
	"fmt"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/badgerdb"
)

// Errors of all that stands on the store, to be matched with errors.Is.
var (
	// ErrDamaged says that the database holds something that keytree did not write.
	// It cannot be used; rebuild it from the node.
	ErrDamaged = badgerdb.ErrDamaged
	// ErrMismatch says that the database was made for another network, start
	// height or format. Use another folder, or the parameters that it names.
	ErrMismatch = errors.New("database made for something else")
	// ErrBlock says that a block cannot be connected: it does not continue the
	// chain, or contradicts itself. Nothing was changed.
	ErrBlock = errors.New("block cannot be connected")
	// ErrMemory says that a step needs more memory than the graph may take. Nothing was
	// changed. Give the process more (graph.Options.Memory); there is nothing to be deleted.
	ErrMemory = errors.New("out of the memory that is allowed")
	// ErrNotFound says that no such identity, action or anchor is indexed as of the
	// height asked for. (An address is never "not found": a key that was never
	// linked is its own identity.)
	ErrNotFound = errors.New("not found")
)

// OnChain is ErrBlock for a transaction that is at a height already.
func OnChain(txid chainhash.Hash, height uint32) error {
	return fmt.Errorf("%w: transaction %v is at height %d already", ErrBlock, txid, height)
}
