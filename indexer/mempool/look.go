package mempool

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/indexer/claims"
	"github.com/keytree-bch/keytree/protocol"
)

// Bounds on what is asked for to establish an author: of what a signature covers that covers
// all that is spent. Whoever signs decides how much that is.
const (
	// maxSpent is how many outputs: more than a transaction has that nodes pass on and that
	// spends from keys, of which it takes 35 kB. A transaction that spends more is shown
	// without an author.
	maxSpent = 256
	// maxScript is how long their scripts may be, in bytes, with a token's prefix:
	// consensus lets longer ones be spent by nobody.
	maxScript = 10_000 + 200
)

// look looks at transactions that are listed: it fetches them, keeps those that matter, and
// establishes who they are by. It returns the first comparison in which an anchor of them was
// listed whose baton had not been looked out for, and one after the present if there is none.
func (f *Follower) look(ctx context.Context, txids []chainhash.Hash, asOf time.Time) (since uint32, err error) {
	since = f.pool.round + 1
	txs, err := f.fetch(ctx, txids, f.heard)
	if err != nil {
		return since, err
	}
	view, err := f.graph.At(nil)
	if err != nil {
		return since, err
	}
	defer view.Close()
	var claimed []*entry
	for _, txid := range txids {
		tx, ok := txs[txid]
		if !ok || f.pool.known[txid].fate != unseen {
			continue // it has left, or the node lies: another comparison will tell
		}
		carrier := tx.Carrier(f.pool.batons)
		claim, matters := claims.Of(&carrier)
		if !matters {
			f.pool.set(txid, plain)
			continue
		}
		confirmed, err := isConfirmed(view, &claim)
		if err != nil {
			return since, err
		}
		if confirmed {
			f.pool.set(txid, onChain)
			continue
		}
		e := entryOf(claim, tx, asOf)
		if !f.pool.keep(e) {
			continue
		}
		if claim.By != nil {
			claimed = append(claimed, e)
		}
		if claim.Anchor != nil && claim.Anchor.Carries && f.pool.seek(txid) {
			since = min(since, f.pool.known[txid].first)
		}
	}
	return since, f.establish(ctx, claimed, txs)
}

// fetch returns those of the transactions that the node has, by their txids, to which they
// hash. Some may be at hand.
func (f *Follower) fetch(ctx context.Context, txids []chainhash.Hash, atHand map[chainhash.Hash]protocol.Tx) (map[chainhash.Hash]protocol.Tx, error) {
	txs := make(map[chainhash.Hash]protocol.Tx, len(txids))
	var missing []chainhash.Hash
	for _, txid := range txids {
		if tx, ok := atHand[txid]; ok {
			txs[txid] = tx
		} else {
			missing = append(missing, txid)
		}
	}
	if len(missing) == 0 {
		return txs, nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	raws, err := f.node.MempoolTxs(ctx, missing)
	if err != nil {
		return nil, err
	}
	for i, raw := range raws[:min(len(raws), len(missing))] {
		if raw == nil || len(raw) > protocol.MaxTxSize || chainhash.DoubleHashH(raw) != missing[i] {
			continue
		}
		if tx, err := protocol.ParseTx(raw); err == nil {
			txs[missing[i]] = tx
		}
	}
	return txs, nil
}

// dropConfirmed drops what is kept, is still listed, and is on the chain all the same.
func (f *Follower) dropConfirmed() error {
	view, err := f.graph.At(nil)
	if err != nil {
		return err
	}
	defer view.Close()
	for txid, e := range f.pool.entries {
		confirmed, err := isConfirmed(view, &e.claim)
		if err != nil {
			return err
		}
		if confirmed {
			f.pool.set(txid, onChain)
		}
	}
	return nil
}

// isConfirmed reports whether the chain has a transaction.
func isConfirmed(view *graph.View, c *claims.Claim) (bool, error) {
	var err error
	if c.Action.Kind != 0 {
		if _, err = view.Action(c.TxID); err == nil {
			return true, nil
		}
	}
	if (err == nil || errors.Is(err, graph.ErrNotFound)) && c.Anchor != nil && c.Anchor.Carries {
		if _, err = view.Anchor(c.TxID); err == nil {
			return true, nil
		}
	}
	switch {
	case errors.Is(err, graph.ErrNotFound):
		return false, nil
	case errors.Is(err, graph.ErrReorganised):
		return false, errElsewhere
	}
	return false, err
}

// establish establishes who transactions are by. What they spend is asked for in few
// questions; some of it may be at hand.
func (f *Follower) establish(ctx context.Context, claimed []*entry, atHand map[chainhash.Hash]protocol.Tx) error {
	var unconfirmed []chainhash.Hash                      // whose outputs they spend
	outputsOf := make(map[chainhash.Hash][]wire.OutPoint) // of each of these
	var confirmed []wire.OutPoint
	spent := make(map[wire.OutPoint]protocol.Output)
	for _, e := range claimed {
		if len(e.claim.By.Inputs) > maxSpent {
			continue
		}
		for _, out := range e.claim.By.Inputs {
			if _, listed := f.pool.known[out.Hash]; !listed {
				confirmed = append(confirmed, out)
				continue
			}
			if outputsOf[out.Hash] == nil {
				unconfirmed = append(unconfirmed, out.Hash)
			}
			outputsOf[out.Hash] = append(outputsOf[out.Hash], out)
		}
	}
	for len(unconfirmed) > 0 {
		n := min(len(unconfirmed), fetchSize)
		txs, err := f.fetch(ctx, unconfirmed[:n], atHand)
		if err != nil {
			return err
		}
		for txid, tx := range txs {
			takeOutputs(spent, tx, outputsOf[txid])
		}
		unconfirmed = unconfirmed[n:]
	}
	for len(confirmed) > 0 {
		n := min(len(confirmed), fetchSize)
		if err := f.askConfirmed(ctx, spent, confirmed[:n]); err != nil {
			return err
		}
		confirmed = confirmed[n:]
	}
	for _, e := range claimed {
		f.settle(e, spent)
	}
	return f.prove(ctx, claimed, spent)
}

// prove establishes who those are by for which the node's word was not enough, from the full
// transactions that they spend, where the node has an index of them: its word may leave out a
// token (bchd by JSON-RPC). What it does not call unspent stays unknown.
func (f *Follower) prove(ctx context.Context, claimed []*entry, spent map[wire.OutPoint]protocol.Output) error {
	for _, e := range claimed {
		missing := func(out wire.OutPoint) bool { _, ok := spent[out]; return !ok }
		if !e.open || slices.ContainsFunc(e.claim.By.Inputs, missing) {
			continue
		}
		for inputs := e.claim.By.Inputs; len(inputs) > 0; {
			n := min(len(inputs), fetchSize)
			var txids []chainhash.Hash
			for _, out := range inputs[:n] {
				txids = append(txids, out.Hash)
			}
			txs, err := f.fetch(ctx, txids, nil)
			if err != nil {
				return err
			}
			for _, out := range inputs[:n] {
				if tx, ok := txs[out.Hash]; ok {
					takeOutputs(spent, tx, []wire.OutPoint{out})
				}
			}
			inputs = inputs[n:]
		}
		f.settle(e, spent)
	}
	return nil
}

// takeOutputs takes outputs out of a transaction that has them.
func takeOutputs(spent map[wire.OutPoint]protocol.Output, tx protocol.Tx, outs []wire.OutPoint) {
	wanted := make(map[uint32]wire.OutPoint, len(outs))
	for _, out := range outs {
		wanted[out.Index] = out
	}
	for i, output := range tx.Outputs() {
		if out, ok := wanted[i]; ok && len(output.Script) <= maxScript {
			spent[out] = protocol.Output{Value: output.Value, Script: bytes.Clone(output.Script)}
		}
	}
}

// askConfirmed asks for unspent outputs of the chain.
func (f *Follower) askConfirmed(ctx context.Context, spent map[wire.OutPoint]protocol.Output, outs []wire.OutPoint) error {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	outputs, err := f.node.ConfirmedOutputs(ctx, outs)
	if err != nil {
		return err
	}
	for i, output := range outputs[:min(len(outputs), len(outs))] {
		if len(output.Script) > 0 && len(output.Script) <= maxScript {
			spent[outs[i]] = output
		}
	}
	return nil
}

// settle settles who a transaction is by, given what is known of what it spends.
func (f *Follower) settle(e *entry, spent map[wire.OutPoint]protocol.Output) {
	by := e.claim.By
	e.open = true
	outputs := make([]protocol.Output, 0, len(by.Inputs))
	for _, out := range by.Inputs {
		output, ok := spent[out]
		if !ok {
			return
		}
		outputs = append(outputs, output)
	}
	if err := e.claim.Check(f.net, f.tip.Height+1, outputs); err != nil {
		// If the output is not the key's, nobody has acted: there is nothing to establish.
		e.open = by.HeldBy(outputs[0].Script)
		return
	}
	author := by.Key
	e.open = false
	e.claim.Author, e.claim.By = &author, nil
}
