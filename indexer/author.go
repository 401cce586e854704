package indexer

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/keytree-bch/keytree/indexer/node"
)

// authors establishes who acted in the block (identity-rules §2). A spent output
// is asked for only where the scriptSig leaves it open.
func (p *pipeline) authors(ctx context.Context, f *flight) error {
	if f.err != nil {
		return f.err
	}
	calls, ctx := errgroup.WithContext(ctx)
	for i := range f.block.Claims {
		c := &f.block.Claims[i]
		if c.Claimed == nil {
			continue
		}
		select {
		case p.spents <- struct{}{}:
		case <-ctx.Done():
			if err := calls.Wait(); err != nil {
				return err
			}
			return ctx.Err()
		}
		calls.Go(func() error {
			defer func() { <-p.spents }()
			return p.author(ctx, f, c)
		})
	}
	return calls.Wait()
}

func (p *pipeline) author(ctx context.Context, f *flight, c *claim) error {
	spent, err := p.node.SpentScript(ctx, f.hash, c.TxID, c.Spends)
	if errors.Is(err, node.ErrNotFound) {
		// Normal if the block has just been reorganised away. Otherwise the node
		// lacks what it must have, and guessing is not an option.
		now, hashErr := p.node.BlockHash(ctx, f.height)
		if hashErr == nil && now == f.hash {
			return fmt.Errorf("node %s: %w: it does not know transaction %v, which %v in block %v at height %d spends, so that nobody can tell who acted; "+
				"let the node finish building its transaction index (bchd: --txindex)", p.name, node.ErrUnsuitable, c.Spends.Hash, c.TxID, f.hash, f.height)
		}
		return fmt.Errorf("%w: %w", errMoved, err)
	}
	if err != nil {
		return err
	}
	c.settle(spent)
	return nil
}
