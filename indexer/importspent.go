package indexer

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/gcash/bchd/chaincfg/chainhash"

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
// guessing is not an option (identity-rules §2); so a second search hashes every
// transaction until it has these outputs as well. It is slow, but false claims are
// rare, and mostly spend an output that is not old.
type spentOutputs struct {
	wanted map[chainhash.Hash][]*claim // by the transaction whose output they spend; never changes
	open   atomic.Int64                // transactions of these that have not been found

	mu    sync.Mutex
	found map[chainhash.Hash]bool // mu
}

func newSpentOutputs(blocks []importable) *spentOutputs {
	s := &spentOutputs{wanted: make(map[chainhash.Hash][]*claim), found: make(map[chainhash.Hash]bool)}
	for _, b := range blocks {
		for i := range b.Claims {
			if c := &b.Claims[i]; c.Claimed != nil {
				s.wanted[c.Spends.Hash] = append(s.wanted[c.Spends.Hash], c)
			}
		}
	}
	s.open.Store(int64(len(s.wanted)))
	return s
}

// keys returns the keys that are claimed.
func (s *spentOutputs) keys() *protocol.KeySet {
	return protocol.NewKeySet(func(yield func(protocol.KeyHash) bool) {
		for _, claims := range s.wanted {
			for _, c := range claims {
				if !yield(*c.Claimed) {
					return
				}
			}
		}
	})
}

// look settles the claims that spend an output of tx. It may be called
// concurrently.
func (s *spentOutputs) look(tx protocol.Tx) error {
	txid := tx.TxID()
	claims := s.wanted[txid]
	if claims == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.found[txid] {
		return nil
	}
	for _, c := range claims {
		script, err := protocol.OutputScript(tx, txid, c.Spends.Index)
		if err != nil {
			return fmt.Errorf("transaction %v spends what there is not: %w", c.TxID, err)
		}
		c.settle(script)
	}
	s.found[txid] = true
	s.open.Add(-1)
	return nil
}

// authors establishes who acted in the blocks of the range (identity-rules §2).
func (im *importer) authors(ctx context.Context, found blockRange) error {
	spent := newSpentOutputs(found.blocks)
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
			if err := spent.look(tx); err != nil {
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
			if err := spent.look(tx); err != nil {
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
			if c.Claimed != nil && !s.found[c.Spends.Hash] {
				return fmt.Errorf("%w: no block up to height %d has transaction %v, an output of which is spent by %v at height %d, "+
					"so that nobody can tell who acted there; let the node check its files (BCHN: -checkblocks=0 -checklevel=1)",
					blockfile.ErrDamaged, in.end-1, c.Spends.Hash, c.TxID, b.height)
			}
		}
	}
	return nil
}
