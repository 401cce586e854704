package indexer

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"golang.org/x/sync/errgroup"

	"github.com/keytree-bch/keytree/indexer/claims"
	"github.com/keytree-bch/keytree/indexer/node/blockfile"
	"github.com/keytree-bch/keytree/protocol"
)

// spentOutputs are the outputs that claims spend, which are searched for in the
// files: a node's own blocks, where they have to be. A node is not asked, even if
// there is one: a question takes as long as reading a megabyte.
//
// It takes a txid to recognise such an output, and a txid is what a walk cannot
// afford. But a claim can only hold if the output pays the key that the scriptSig
// names, so a first search hashes only the transactions that pay one of these keys.
// The claims that it leaves open are false, or it has not seen what it should: a
// damaged byte is enough to hide an output. What is missing proves nothing, and
// guessing is not an option (protocol/SPEC.md §2); so a second search hashes every
// transaction until it has these outputs as well. It is slow, but false claims are
// rare, and mostly spend an output that is not old.
//
// A signature may cover what the other inputs spend as well (protocol.Claim). That is
// taken along where a search sees it, and not searched for: the files prove by txids
// who acted.
type spentOutputs struct {
	wanted map[chainhash.Hash][]wantedOutput // by the transaction that has it; never changes
	open   atomic.Int64                      // transactions that input 0 of a claim spends from and that have not been found

	mu    sync.Mutex
	found map[chainhash.Hash]bool             // mu
	spent map[*claims.Claim][]protocol.Output // mu; by input; a script is nil until it has been found
}

// wantedOutput is an output that an input of a claim spends.
type wantedOutput struct {
	claim *claims.Claim
	input int
}

func newSpentOutputs(blocks []importable) *spentOutputs {
	s := &spentOutputs{
		wanted: make(map[chainhash.Hash][]wantedOutput), found: make(map[chainhash.Hash]bool), spent: make(map[*claims.Claim][]protocol.Output),
	}
	needed := make(map[chainhash.Hash]bool)
	for _, b := range blocks {
		for i := range b.Claims {
			c := &b.Claims[i]
			if c.By == nil {
				continue
			}
			needed[c.By.Inputs[0].Hash] = true
			s.spent[c] = make([]protocol.Output, len(c.By.Inputs))
			for input, out := range c.By.Inputs {
				s.wanted[out.Hash] = append(s.wanted[out.Hash], wantedOutput{c, input})
			}
		}
	}
	s.open.Store(int64(len(needed)))
	return s
}

// keys returns the keys that are claimed.
func (s *spentOutputs) keys() *protocol.KeySet {
	return protocol.NewKeySet(func(yield func(protocol.KeyHash) bool) {
		for c := range s.spent {
			if !yield(c.By.Key) {
				return
			}
		}
	})
}

// settle decides the claims that spend an output of tx by their input 0. It may be
// called concurrently.
func (s *spentOutputs) settle(tx protocol.Tx) error {
	txid := tx.TxID()
	wanted := s.wanted[txid]
	if wanted == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.found[txid] {
		return nil
	}
	settles := false
	for _, w := range wanted {
		output, err := protocol.SpentOutput(tx, w.claim.By.Inputs[w.input])
		if err != nil {
			return fmt.Errorf("transaction %v spends what there is not: %w", w.claim.TxID, err)
		}
		output.Script = bytes.Clone(output.Script)
		s.spent[w.claim][w.input] = output
		if w.input == 0 {
			settles = true
			w.claim.Settle(output.Script)
		}
	}
	s.found[txid] = true
	if settles {
		s.open.Add(-1)
	}
	return nil
}

// verify checks the signatures of the authors that were found, on all processors.
// One that does not hold changes nothing, as what it covers is proven: either the
// check is wrong or the block is not valid, which is for people to look into.
func (im *importer) verify(ctx context.Context, found blockRange, s *spentOutputs) error {
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(runtime.GOMAXPROCS(0))
	for _, b := range found.blocks {
		for i := range b.Claims {
			c := &b.Claims[i]
			if c.Author == nil || !c.By.Checkable() ||
				slices.ContainsFunc(s.spent[c], func(o protocol.Output) bool { return o.Script == nil }) {
				continue
			}
			work.Go(func() error {
				if err := c.By.Verify(im.net, uint32(b.height), s.spent[c]); err != nil {
					logUnverified(im.opt.Log, uint32(b.height), im.chain.Hash(uint32(b.height)), c, err)
				}
				return ctx.Err()
			})
		}
	}
	return work.Wait()
}

// authors establishes who acted in the blocks of the range (protocol/SPEC.md §2).
func (im *importer) authors(ctx context.Context, found blockRange) error {
	spent := newSpentOutputs(found.blocks)
	if err := im.search(ctx, found, spent); err != nil {
		return err
	}
	return im.verify(ctx, found, spent)
}

// search looks for the outputs in the blocks of the range and below.
func (im *importer) search(ctx context.Context, found blockRange, spent *spentOutputs) error {
	more := func() bool { return spent.open.Load() > 0 }
	if !more() {
		return nil
	}
	keys := spent.keys()
	im.meter.begin(stageSpent, found.end-1, 0)
	_, err := im.each(ctx, found.end-1, 0, more, func(height int64, raw []byte) error {
		payments, err := keys.Payments(raw)
		if err != nil {
			return im.damaged(height, err)
		}
		for tx := range payments {
			if err := spent.settle(tx); err != nil {
				return im.damaged(height, err)
			}
		}
		return nil
	})
	if err != nil || !more() {
		return err
	}
	im.opt.Log.Info().Int64("outputs", spent.open.Load()).Msg("some actions claim a key that their coin may not belong to: hashing all transactions to see")
	im.meter.begin(stageFalse, found.end-1, 0)
	_, err = im.each(ctx, found.end-1, 0, more, func(height int64, raw []byte) error {
		block, err := protocol.ReadBlock(raw)
		if err != nil {
			return im.damaged(height, err)
		}
		for _, tx := range block.Txs() {
			if err := spent.settle(tx); err != nil {
				return im.damaged(height, err)
			}
		}
		return nil
	})
	if err != nil || !more() {
		return err
	}
	return spent.missing(found)
}

// missing returns the error about an output that is in no block.
func (s *spentOutputs) missing(in blockRange) error {
	for _, b := range in.blocks {
		for _, c := range b.Claims {
			if c.By != nil && !s.found[c.By.Inputs[0].Hash] {
				return fmt.Errorf("%w: no block up to height %d has transaction %v, an output of which is spent by %v at height %d, "+
					"so that nobody can tell who acted there; let the node check its files (BCHN: -checkblocks=0 -checklevel=1)",
					blockfile.ErrDamaged, in.end-1, c.By.Inputs[0].Hash, c.TxID, b.height)
			}
		}
	}
	return nil
}
