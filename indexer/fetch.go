package indexer

import (
	"context"
	"errors"
	"fmt"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/protocol"
)

// fetchAhead is how many blocks are fetched and read at the same time.
const fetchAhead = 4

// fetched is a block ready for the graph, or why there is none.
type fetched struct {
	block graph.Block
	err   error
}

// fetch reads the blocks of heights from to to, some of them at a time, and
// delivers them in order: each element of the returned channel will receive one.
// The channel is closed after the last one, or soon after ctx ends; by then all
// goroutines have ended.
func (ix *Indexer) fetch(ctx context.Context, from, to uint32) <-chan <-chan fetched {
	ordered := make(chan (<-chan fetched), fetchAhead-1)
	go func() {
		defer close(ordered)
		slots := make(chan struct{}, fetchAhead)
		defer func() { // wait for all readers
			for range cap(slots) {
				slots <- struct{}{}
			}
		}()
		for height := int64(from); height <= int64(to); height++ {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			result := make(chan fetched, 1)
			go func() {
				defer func() { <-slots }()
				block, err := ix.read(ctx, uint32(height))
				result <- fetched{block, err}
			}()
			select {
			case ordered <- result:
			case <-ctx.Done():
				return
			}
		}
	}()
	return ordered
}

// read fetches the block of the node's best chain at height, finds its actions
// and establishes their authors.
func (ix *Indexer) read(ctx context.Context, height uint32) (graph.Block, error) {
	hash, err := ix.node.BlockHash(ctx, height)
	if err != nil {
		return graph.Block{}, movedIfNotFound(err)
	}
	raw, err := ix.node.Block(ctx, hash)
	if err != nil {
		return graph.Block{}, movedIfNotFound(err)
	}
	block, err := protocol.ReadBlock(raw)
	if err != nil {
		return graph.Block{}, fmt.Errorf("%w: block %v at height %d: %w", node.ErrInvalid, hash, height, err)
	}
	out := graph.Block{Height: height, Hash: hash, PrevHash: block.Header.PrevBlock}
	for carrier := range block.Carriers() {
		action := graph.Action{Action: carrier.Action, Index: carrier.Index, TxID: carrier.TxID}
		if action.Author, err = ix.author(ctx, height, hash, &carrier); err != nil {
			return graph.Block{}, err
		}
		out.Actions = append(out.Actions, action)
	}
	if len(out.Actions) > 0 {
		if err := block.CheckMerkleRoot(); err != nil {
			return graph.Block{}, fmt.Errorf("%w: at height %d: %w", node.ErrInvalid, height, err)
		}
	}
	return out, nil
}

// movedIfNotFound takes it that what the node named a moment ago and does not
// know now has left its best chain.
func movedIfNotFound(err error) error {
	if errors.Is(err, node.ErrNotFound) {
		return fmt.Errorf("%w: %w", errMoved, err)
	}
	return err
}

// author establishes who acted in a transaction of the block (identity-rules
// §2), nil if nobody did. The spent output is fetched only where the scriptSig
// leaves it open.
func (ix *Indexer) author(ctx context.Context, height uint32, block chainhash.Hash, c *protocol.Carrier) (*protocol.KeyHash, error) {
	if _, ok := c.ClaimedAuthor(); !ok {
		return nil, nil
	}
	spent, err := ix.node.SpentScript(ctx, block, c.TxID, c.Spends)
	if errors.Is(err, node.ErrNotFound) {
		// Normal if the block has just been reorganised away. Otherwise the node
		// lacks what it must have, and guessing is not an option.
		now, hashErr := ix.node.BlockHash(ctx, height)
		if hashErr == nil && now == block {
			return nil, fmt.Errorf("%w: it does not know transaction %v, which %v in block %v at height %d spends, so that nobody can tell who acted; "+
				"let the node finish building its transaction index (bchd: --txindex)", node.ErrUnsuitable, c.Spends.Hash, c.TxID, block, height)
		}
		return nil, fmt.Errorf("%w: %w", errMoved, err)
	}
	if err != nil {
		return nil, err
	}
	author, ok := protocol.Author(c.Unlock, spent)
	if !ok {
		return nil, nil
	}
	return &author, nil
}
