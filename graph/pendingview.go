package graph

import (
	"context"
	"errors"
	"slices"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/anchors"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// PendingView answers questions as if what is pending were the next block, on top of the tip. Every
// answer of one view is about the same state, whatever is connected or set meanwhile; if the tip is
// taken back, the answer is ErrReorganised. No anchor that is pending has a proof: what
// AnchorProof says of one means nothing. It holds resources of the store until Close. It is not safe for
// concurrent use; make one per request.
type PendingView struct {
	*links.Identities
	*anchors.Chains
	supposed  *pending
	iterators *store.Iterators  // of what is supposed
	past      *links.Identities // the same, as of the tip
	tip       *View
	caused    map[cause][]chainhash.Hash // what causes.add has found; no more of them than are pending, twice
	owned     bool                       // tip is closed with the view
	closed    bool
}

// Pending returns the view of the chain as it would be if what is pending were the next block; ok is
// false while nothing is set for the current tip. Close the view.
func (g *Graph) Pending() (view *PendingView, ok bool) {
	tip, err := g.At(nil)
	if err != nil {
		return nil, false
	}
	if view, ok = tip.Pending(); !ok {
		tip.Close()
		return nil, false
	}
	view.owned = true
	return view, true
}

// Pending returns the view of the chain as it would be if what is pending were the block after
// the view's; ok is false if the view is not as of the tip that it was opened under, or nothing was set for that.
// Close the one that is returned, before v, and ask one of the two at a time.
func (v *View) Pending() (view *PendingView, ok bool) {
	p := v.snapshot.pending.Load()
	if !p.known || v.height != v.snapshot.tip.Height {
		return nil, false
	}
	it, next := store.NewIterators(p.over), v.height+1
	return &PendingView{
		Identities: links.NewIdentities(p.state.Links, it, next, next, v.stillThere),
		Chains:     anchors.NewChains(it, next),
		supposed:   p,
		iterators:  it,
		past:       links.NewIdentities(p.state.Links, it, v.height, next, v.stillThere),
		tip:        v,
	}, true
}

// Close releases the view. Closing twice does nothing.
func (v *PendingView) Close() {
	if v.closed {
		return
	}
	v.closed = true
	v.iterators.Close()
	if v.owned {
		v.tip.Close()
	}
}

// Height returns the height of the supposed block: the tip's + 1.
func (v *PendingView) Height() uint32 { return v.tip.height + 1 }

// Tip returns the view as of the tip, which is open as long as v is.
func (v *PendingView) Tip() *View { return v.tip }

// Generation returns which of all that the graph has supposed since it was opened the view is of,
// counted from 1: two views of the same generation give the same answers.
func (v *PendingView) Generation() uint64 { return v.supposed.generation }

// Coverage says how far the view is of what the node's mempool has.
func (v *PendingView) Coverage() Coverage { return v.supposed.coverage }

// Len returns how many transactions are pending.
func (v *PendingView) Len() int { return len(v.supposed.txs) }

// Tx returns what is known of a pending transaction; ok is false if it is not pending.
func (v *PendingView) Tx(txid chainhash.Hash) (tx PendingTx, ok bool) {
	txs := v.supposed.txs
	if n := seek(txs, txid); n < len(txs) && txs[n].txid == txid {
		return txs[n].PendingTx, true
	}
	return tx, false
}

// Actions lists up to limit of the pending actions with what would become of them, in order of
// position, which is that of their txids in display order, after the cursor; nil begins with the first. next is nil
// at the end. A page of very long messages holds fewer than limit. It passes over the transactions
// that are no actions, 10 ns each.
func (v *PendingView) Actions(ctx context.Context, after *chainhash.Hash, limit int) (actions []links.ActionStatus, next *chainhash.Hash, err error) {
	txs := v.supposed.txs
	if after != nil {
		n := seek(txs, *after)
		if n < len(txs) && txs[n].txid == *after {
			n++
		}
		txs = txs[n:]
	}
	size := 0
	for i := range txs {
		if !txs[i].action {
			continue
		}
		if len(actions) == limit || size > links.PageBytes {
			return actions, &actions[len(actions)-1].TxID, nil
		}
		a, err := v.Action(txs[i].txid)
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return nil, nil, err
		}
		actions = append(actions, a)
		size += len(a.Message)
	}
	return actions, nil, nil
}

// MaxCauses is how many transactions are named at most that make something differ.
const MaxCauses = 100

// causes are pending transactions because of which something would differ.
type causes struct {
	view  *PendingView
	txids []chainhash.Hash
	more  bool // there may be others
}

// list returns them in order of position, each once.
func (c *causes) list() ([]chainhash.Hash, bool) {
	slices.SortFunc(c.txids, compareDisplayed)
	c.txids = slices.Compact(c.txids)
	if len(c.txids) > MaxCauses {
		return c.txids[:MaxCauses], true
	}
	return c.txids, c.more
}

// cause is an action because of which something may differ, and whether that may be as well because of what ended it.
type cause struct {
	txid chainhash.Hash
	by   bool
}

// add adds those that are pending of an action, of what it refers to, and of what that refers to: one that
// waited does something because of a pending one. by adds as well what ended it. Many keys are below the same links, so
// what was found is kept for as many as there can be because of what is pending.
func (c *causes) add(txid chainhash.Hash, by bool) error {
	at := cause{txid, by}
	found, known := c.view.caused[at]
	if !known {
		var err error
		if found, err = c.view.causesOf(at); err != nil {
			return err
		}
		if c.view.caused == nil {
			c.view.caused = make(map[cause][]chainhash.Hash)
		}
		if len(c.view.caused) < 2*len(c.view.supposed.txs) {
			c.view.caused[at] = found
		}
	}
	c.txids = append(c.txids, found...)
	return nil
}

// causesOf finds what causes.add adds.
func (v *PendingView) causesOf(c cause) (txids []chainhash.Hash, err error) {
	by := c.by
	for at := &c.txid; at != nil; {
		a, err := v.Action(*at)
		if err != nil {
			return nil, err
		}
		for _, txid := range []*chainhash.Hash{at, a.By} {
			if _, ok := v.Tx(deref(txid)); ok && (by || txid == at) {
				txids = append(txids, *txid)
			}
		}
		at, by = a.RefTx, false
	}
	return txids, nil
}

// deref returns a zero hash, which no transaction has, for none.
func deref(hash *chainhash.Hash) (h chainhash.Hash) {
	if hash != nil {
		h = *hash
	}
	return h
}

// turns adds those that cut or formed links on the way from a key to its root.
func (c *causes) turns(ctx context.Context, key protocol.KeyHash) error {
	accepts, more, err := c.view.past.Turns(ctx, key, MaxCauses)
	c.more = c.more || more
	for _, accept := range accepts {
		if err == nil {
			err = c.add(accept, true)
		}
	}
	return err
}

// WhyKey lists the pending transactions because of which Resolve of a key differs from what it is as
// of the tip: in order of position, MaxCauses at most; more tells whether there are others. Its cost is
// that of a few questions as of an older block (View.Resolve), and may be ErrWork.
func (v *PendingView) WhyKey(ctx context.Context, key protocol.KeyHash) (txids []chainhash.Hash, more bool, err error) {
	c := &causes{view: v}
	if err := c.turns(ctx, key); err != nil {
		return nil, false, err
	}
	is, err := v.Resolve(ctx, key)
	if err != nil {
		return nil, false, err
	}
	was, err := v.tip.Resolve(ctx, key)
	if err != nil {
		return nil, false, err
	}
	if is.ID != was.ID && is.ID != (chainhash.Hash{}) {
		// It may be named by what formed or cut a link beside its way, or have the name of a tree that came below it.
		if err := c.add(is.ID, true); err != nil {
			return nil, false, err
		}
		named, err := v.tip.Identity(is.ID)
		if err == nil {
			err = c.turns(ctx, named.Root)
		}
		if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, false, err
		}
		if len(c.txids) == 0 { // that tree came below it, left its name there, and went again
			if _, err := c.touches(is.ID, nil); err != nil {
				return nil, false, err
			}
		}
	}
	txids, more = c.list()
	return txids, more, nil
}

// WhyIdentity lists the pending transactions that would form and cut links of an identity, name
// or merge it, as WhyKey does; of one that has merged also those of the identity that it merged into, whose
// keys it has. And the keys whose own links those are, MaxCauses at most.
func (v *PendingView) WhyIdentity(id chainhash.Hash) (txids []chainhash.Hash, moved []protocol.KeyHash, more bool, err error) {
	ids := []chainhash.Hash{id}
	was, err := v.tip.Identity(id)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, nil, false, err
	}
	if was.MergedInto != nil {
		ids = append(ids, *was.MergedInto)
	}
	c := &causes{view: v}
	for _, id := range ids {
		if moved, err = c.touches(id, moved); err != nil {
			return nil, nil, false, err
		}
	}
	txids, more = c.list()
	return txids, moved, more, nil
}

// touches adds those that form and cut links of an identity, and to the keys that moved those whose own links these are.
func (c *causes) touches(id chainhash.Hash, moved []protocol.KeyHash) ([]protocol.KeyHash, error) {
	touches := c.view.supposed.touches
	first, _ := slices.BinarySearchFunc(touches, id, func(t touch, id chainhash.Hash) int { return store.CompareHashes(t.id, id) })
	for _, t := range touches[first:] {
		if t.id != id {
			break
		}
		if len(moved) == MaxCauses {
			c.more = true
			break
		}
		if err := c.add(t.by, false); err != nil {
			return nil, err
		}
		a, err := c.view.Action(t.by)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(moved, *a.Child) { // known of what forms or cuts a link
			moved = append(moved, *a.Child)
		}
	}
	return moved, nil
}

// WhyAction lists the pending transactions because of which an action is, or would be, what it would be then,
// as WhyKey does. ErrNotFound if there is no such action, not even a pending one.
func (v *PendingView) WhyAction(txid chainhash.Hash) ([]chainhash.Hash, error) {
	c := &causes{view: v}
	err := c.add(txid, true)
	txids, _ := c.list()
	return txids, err
}
