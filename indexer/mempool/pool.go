package mempool

import (
	"maps"
	"slices"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/indexer/claims"
	"github.com/keytree-bch/keytree/protocol"
)

// Bounds on what is remembered. Whoever pays fees decides how much there is, and a node that
// lies can make it up.
const (
	// maxListed is how many transactions a mempool may have to be followed. Blocks of 32 MB
	// have 140,000.
	maxListed = 1 << 20
	// maxKnown is how many of them are remembered, by their txids: some 25 MB. What is listed
	// beyond is not looked at, and counts as omitted.
	maxKnown = 1 << 18
	// maxBytes is what those take that are kept, in bytes.
	maxBytes = 128 << 20
	// keptMemory and spendMemory are what one takes, and each output that it spends, in bytes,
	// besides its claim.
	keptMemory  = 256
	spendMemory = 128
)

// fate is what has become of a transaction of the mempool.
type fate uint8

const (
	unseen   fate = iota // it has yet to be fetched
	plain                // nothing of it matters
	kept                 // it is shown
	leftOut              // it matters, but there was no room
	conflict             // it spends what a transaction that is kept spends
	onChain              // it is on the graph's chain, so it cannot be in the mempool
)

// known is what is remembered of a transaction that the node lists.
type known struct {
	first, last uint32 // comparisons in which it was listed
	fate        fate
}

// entry is a transaction that is kept.
type entry struct {
	claim  claims.Claim
	spends []wire.OutPoint
	bytes  int
	seen   time.Time
	open   bool // its author could not be established
}

// pool is what is known of the mempool. It belongs to one goroutine.
type pool struct {
	maxActions int // how many are kept at most

	round   uint32 // the number of the present comparison
	known   map[chainhash.Hash]known
	entries map[chainhash.Hash]*entry        // those that are kept
	spends  map[wire.OutPoint]chainhash.Hash // which of them spends what
	bytes   int                              // that they take
	fates   [onChain + 1]int                 // how many known ones there are of each
	late    []chainhash.Hash                 // left out, or in conflict; the oldest first
	beyond  int                              // listed beyond maxKnown
	batons  *protocol.BatonSet               // that are looked out for; nil for none
	doubted map[chainhash.Hash]struct{}      // the node has a proof that they were spent twice
	fresh   []chainhash.Hash                 // have yet to be looked at
	changed bool                             // since the graph was told
}

func newPool() *pool {
	return &pool{
		known: make(map[chainhash.Hash]known), entries: make(map[chainhash.Hash]*entry),
		spends: make(map[wire.OutPoint]chainhash.Hash), changed: true,
	}
}

// begin begins a comparison with the node's list.
func (p *pool) begin() {
	p.round++
	p.beyond, p.fresh = 0, p.fresh[:0]
}

// listed notes that the node lists a transaction.
func (p *pool) listed(txid chainhash.Hash) {
	k, ok := p.known[txid]
	switch {
	case ok && k.last == p.round:
		return
	case !ok && len(p.known) >= maxKnown:
		p.beyond++
		return
	case !ok:
		k.first = p.round
		p.fates[unseen]++
	}
	if k.fate == unseen {
		p.fresh = append(p.fresh, txid)
	}
	k.last = p.round
	p.known[txid] = k
}

// lateAgain is how many transactions that were left out, or in conflict, are looked at again
// in one comparison.
const lateAgain = 1000

// sweep forgets what is not listed any more. Of what was left out, or in conflict, the oldest
// are looked at again, before what is new.
func (p *pool) sweep() {
	dropped := false
	for txid, k := range p.known {
		if k.last != p.round {
			dropped = dropped || k.fate == kept
			p.forget(txid)
		}
	}
	p.late = slices.DeleteFunc(p.late, func(txid chainhash.Hash) bool {
		f := p.known[txid].fate
		return f != leftOut && f != conflict
	})
	if dropped {
		now := slices.Clone(p.late[:min(len(p.late), lateAgain)])
		p.late = slices.Delete(p.late, 0, len(now))
		for _, txid := range now {
			p.set(txid, unseen)
		}
		p.fresh = append(now, p.fresh...)
	}
}

// forget forgets a transaction.
func (p *pool) forget(txid chainhash.Hash) {
	p.set(txid, unseen)
	p.fates[unseen]--
	delete(p.known, txid)
}

// set notes what has become of a known transaction.
func (p *pool) set(txid chainhash.Hash, to fate) {
	k := p.known[txid]
	if k.fate == kept {
		e := p.entries[txid]
		delete(p.entries, txid)
		for _, out := range e.spends {
			delete(p.spends, out)
		}
		p.bytes -= e.bytes
		p.changed = true
	}
	p.fates[k.fate]--
	p.fates[to]++
	k.fate = to
	p.known[txid] = k
	if to == leftOut || to == conflict {
		p.late = append(p.late, txid)
	}
}

// keep keeps a transaction, unless there is no room, or what it spends is spent already.
func (p *pool) keep(e *entry) bool {
	txid := e.claim.TxID
	for _, out := range e.spends {
		if _, ok := p.spends[out]; ok {
			p.set(txid, conflict)
			return false
		}
	}
	if len(p.entries) >= p.maxActions || p.bytes+e.bytes > maxBytes {
		p.set(txid, leftOut)
		return false
	}
	p.set(txid, kept)
	p.entries[txid] = e
	for _, out := range e.spends {
		p.spends[out] = txid
	}
	p.bytes += e.bytes
	p.changed = true
	return true
}

// entryOf returns what is kept of a carrier.
func entryOf(claim claims.Claim, raw protocol.Tx, seen time.Time) *entry {
	e := &entry{claim: claim, seen: seen}
	for _, out := range raw.Inputs() {
		e.spends = append(e.spends, out)
	}
	e.bytes = keptMemory + claim.Memory() + spendMemory*len(e.spends)
	return e
}

// seek looks out for batons from now on, and reports whether any of them is new.
func (p *pool) seek(txids ...chainhash.Hash) (anew bool) {
	txids = slices.DeleteFunc(txids, p.batons.Has)
	if len(txids) > 0 {
		p.batons = p.batons.With(slices.Values(txids))
	}
	return len(txids) > 0
}

// again has the plain ones looked at again that were listed first in a comparison or after
// it: there is a baton that had not been looked out for.
func (p *pool) again(since uint32) {
	for txid, k := range p.known {
		if k.fate == plain && k.first >= since {
			p.set(txid, unseen)
			p.fresh = append(p.fresh, txid)
		}
	}
}

// reset looks out for the graph's batons and those of the transactions that are kept, and no
// others, and has looked at again what was judged by the tip before. Up to maxActions are kept
// from now on.
func (p *pool) reset(batons []chainhash.Hash, maxActions int) {
	p.maxActions = maxActions
	for txid, e := range p.entries {
		if e.claim.Anchor != nil && e.claim.Anchor.Carries {
			batons = append(batons, txid)
		}
	}
	before := p.batons
	p.batons = nil
	p.seek(batons...)
	if slices.ContainsFunc(batons, func(txid chainhash.Hash) bool { return !before.Has(txid) }) {
		p.again(0)
	}
	for txid, k := range p.known {
		if k.fate == onChain || k.fate == kept && p.entries[txid].open {
			p.set(txid, unseen)
		}
	}
	p.changed = true
}

// halve leaves the newest half of what is kept out, and keeps no more from now on. It reports
// false if there is nothing to be left out.
func (p *pool) halve() bool {
	byAge := slices.SortedFunc(maps.Values(p.entries), func(a, b *entry) int { return a.seen.Compare(b.seen) })
	p.maxActions = len(byAge) / 2
	for _, e := range byAge[p.maxActions:] {
		p.set(e.claim.TxID, leftOut)
	}
	return len(byAge) > 0
}

// doubt notes which transactions the node has double-spend proofs of.
func (p *pool) doubt(txids []chainhash.Hash) {
	doubted := make(map[chainhash.Hash]struct{})
	for _, txid := range txids {
		if _, ok := p.entries[txid]; ok {
			doubted[txid] = struct{}{}
		}
	}
	p.changed = p.changed || !maps.Equal(p.doubted, doubted)
	p.doubted = doubted
}

// omitted is how many transactions were left out that matter, or could.
func (p *pool) omitted() int { return p.fates[leftOut] + p.beyond }

// open is how many are kept whose author could not be established.
func (p *pool) open() (n int) {
	for _, e := range p.entries {
		if e.open {
			n++
		}
	}
	return n
}

// block is what is kept, as the block after a tip.
func (p *pool) block(tip graph.Tip, asOf time.Time) *graph.PendingBlock {
	b := &graph.PendingBlock{
		Height: tip.Height + 1, PrevHash: tip.Hash, Txs: make(map[chainhash.Hash]graph.PendingTx, len(p.entries)),
		Coverage: graph.Coverage{Omitted: p.omitted(), Complete: p.omitted() == 0 && p.fates[unseen] == 0, AsOf: asOf},
	}
	for txid, e := range p.entries {
		if action, ok := e.claim.Link(); ok {
			b.Actions = append(b.Actions, action)
		}
		if tx, ok := e.claim.AnchorTx(); ok {
			b.Anchors = append(b.Anchors, tx)
		}
		_, double := p.doubted[txid]
		b.Txs[txid] = graph.PendingTx{DoubleSpend: double, Seen: e.seen}
	}
	return b
}
