package indexer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/keytree-bch/keytree/indexer/claims"
	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/protocol"
)

// authors establishes who acted in the block (protocol/SPEC.md §2), and remembers
// who did.
func (p *pipeline) authors(ctx context.Context, f *flight) error {
	if f.err != nil {
		return f.err
	}
	if err := p.establish(ctx, f); err != nil {
		return err
	}
	for i := range f.block.Claims {
		if author := f.block.Claims[i].Author; author != nil {
			p.recent.actors.Add(*author)
		}
	}
	return nil
}

// establish establishes the authors. What the block's transactions spend is asked for
// in one question, and only where the scriptSig leaves it open and it is not
// remembered.
func (p *pipeline) establish(ctx context.Context, f *flight) error {
	var open []*claims.Claim
	var by []node.Spender
	for i := range f.block.Claims {
		c := &f.block.Claims[i]
		if c.By == nil {
			continue
		}
		if output, ok := p.recent.find(c.By.Inputs[0]); ok {
			c.Settle(output.Script)
			continue
		}
		open, by = append(open, c), append(by, node.Spender{TxID: c.TxID, Inputs: c.By.Inputs})
	}
	if len(open) == 0 {
		return nil
	}
	spent, err := p.askSpent(ctx, f, by)
	if err != nil {
		return err
	}
	p.recent.asked(spent[0].Proven)
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(runtime.GOMAXPROCS(0))
	for i, c := range open {
		work.Go(func() error { return p.judge(ctx, f, c, spent[i]) })
	}
	return work.Wait()
}

// askSpent asks the node what the block's transactions spend.
func (p *pipeline) askSpent(ctx context.Context, f *flight, by []node.Spender) ([]node.Spent, error) {
	select {
	case p.spents <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-p.spents }()
	spent, err := p.node.Spent(ctx, f.hash, by)
	switch {
	case errors.Is(err, node.ErrNotFound):
		if err := p.stillThere(ctx, f, err); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("node %s: %w: it does not know what transactions of block %v at height %d spend, so that nobody can tell who acted; "+
			"let the node finish building its transaction index (bchd: --txindex): %w", p.name, node.ErrUnsuitable, f.hash, f.height, err)
	case err != nil:
		return nil, fmt.Errorf("block %v at height %d: %w", f.hash, f.height, err)
	case len(spent) != len(by):
		return nil, p.invalid(f, fmt.Errorf("it was asked what %d transactions spend, and answered for %d", len(by), len(spent)))
	}
	for i, s := range spent {
		if len(s.Outputs) != len(by[i].Inputs) && !(s.Proven && len(s.Outputs) == 1) {
			return nil, p.invalid(f, fmt.Errorf("it was asked for %d outputs that transaction %v spends, and sent %d", len(by[i].Inputs), by[i].TxID, len(s.Outputs)))
		}
	}
	return spent, nil
}

// stillThere returns nil if the flight's block is in the node's best chain, so that
// the node lacks what it must have. Otherwise the block has just been reorganised
// away, and what is missing because of that is normal.
func (p *pipeline) stillThere(ctx context.Context, f *flight, missing error) error {
	now, err := p.node.BlockHash(ctx, f.height)
	if err == nil && now == f.hash {
		return nil
	}
	return fmt.Errorf("%w: %w", errMoved, missing)
}

// judge establishes the author of one transaction, given what the node says that it
// spends. What is only the node's word is held against the signature, which covers
// it; if that leaves a doubt, the full previous transactions decide.
func (p *pipeline) judge(ctx context.Context, f *flight, c *claims.Claim, spent node.Spent) error {
	if !spent.Proven {
		if err := p.check(ctx, f, c, spent); err != nil {
			return err
		}
	}
	c.Settle(spent.Outputs[0].Script)
	return nil
}

// check returns nil if the node's word is to be believed.
func (p *pipeline) check(ctx context.Context, f *flight, c *claims.Claim, spent node.Spent) error {
	err := c.Check(p.net, f.height, spent.Outputs)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, claims.ErrOpen):
		return p.prove(ctx, f, c, spent, c.By.HeldBy(spent.Outputs[0].Script), nil)
	}
	return p.prove(ctx, f, c, spent, true, err)
}

// prove finds out from the previous transactions whether the node's word is to be
// believed, and returns nil if it is. Held says that by this word the key that is
// claimed has acted; refused is the error of the signature's check, if there was one.
//
// If all that the signature covers is as the node says, then the check is wrong, or
// the block is not valid. Both are for people to look into, and no reason to stop:
// a mistake in the check would be a switch by which anybody stops every indexer.
func (p *pipeline) prove(ctx context.Context, f *flight, c *claims.Claim, spent node.Spent, held bool, refused error) error {
	inputs := c.By.Inputs
	if !held {
		inputs = inputs[:1]
	}
	for i, in := range inputs {
		output, err := p.previous(ctx, f, c, in)
		if errors.Is(err, node.ErrNotFound) {
			return p.unproven(ctx, f, c, held, refused, err)
		}
		if err != nil {
			return err
		}
		if said := spent.Outputs[i]; said.Value != output.Value || !bytes.Equal(said.Script, output.Script) {
			return p.invalid(f, fmt.Errorf("it says that input %d of transaction %v spends %d satoshi with script %x, but output %v has %d satoshi with script %x",
				i, c.TxID, said.Value, shortened(said.Script), in, output.Value, shortened(output.Script)))
		}
	}
	if refused != nil {
		logUnverified(p.log, f.height, f.hash, c, refused)
	}
	return nil
}

// logUnverified says that the signature of an author does not hold by our check,
// although the outputs that it covers are proven. The author stands.
func logUnverified(log zerolog.Logger, height uint32, block chainhash.Hash, c *claims.Claim, refused error) {
	log.Error().Err(refused).Uint32("height", height).Stringer("block", block).Stringer("tx", c.TxID).Hex("author", c.By.Key[:]).
		Msg("a signature does not hold, although what it covers is on the chain: the author stands, but the block is not valid or this check is wrong; please report it")
}

// previous returns an output that a transaction of the block spends, from the full
// transaction that has it.
func (p *pipeline) previous(ctx context.Context, f *flight, c *claims.Claim, out wire.OutPoint) (protocol.Output, error) {
	select {
	case p.spents <- struct{}{}:
	case <-ctx.Done():
		return protocol.Output{}, ctx.Err()
	}
	defer func() { <-p.spents }()
	tx, err := p.node.Previous(ctx, f.hash, c.TxID, out)
	if err != nil {
		return protocol.Output{}, fmt.Errorf("block %v at height %d, transaction %v: %w", f.hash, f.height, c.TxID, err)
	}
	output, err := protocol.SpentOutput(tx, out)
	if err != nil {
		return protocol.Output{}, p.invalid(f, fmt.Errorf("transaction %v: %w", c.TxID, err))
	}
	return output, nil
}

// unproven decides where the node cannot give a previous transaction: one without
// an index that has pruned its block away. Its word may say that a claim is false,
// but never that one is true.
func (p *pipeline) unproven(ctx context.Context, f *flight, c *claims.Claim, held bool, refused, missing error) error {
	if err := p.stillThere(ctx, f, missing); err != nil {
		return err
	}
	if held {
		why := "has no FORKID and cannot be checked"
		if refused != nil {
			why = "does not hold: " + refused.Error()
		}
		return fmt.Errorf("node %s: %w: by its word alone %x is the author of transaction %v in block %v at height %d; the signature %s, "+
			"and it cannot give the transactions that this one spends: give a node with a transaction index (-txindex=1), or one that is not pruned",
			p.name, node.ErrUnsuitable, c.By.Key, c.TxID, f.hash, f.height, why)
	}
	p.believed.Do(func() {
		p.log.Warn().Uint32("height", f.height).Stringer("tx", c.TxID).
			Msg("the node is pruned: it is believed which coins are not a key's, and this is one; with -txindex=1, or unpruned, nothing has to be believed")
	})
	return nil
}

// shownScript is how many bytes of a script an error shows.
const shownScript = 100

func shortened(script []byte) []byte { return script[:min(len(script), shownScript)] }
