package indexer

import (
	"maps"
	"slices"
	"sync"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/protocol"
)

// batons are the batons of anchor chains that walks look out for
// (protocol/SPEC.md §10). Each block may make some and spend some, so which ones there
// are as of a block shows only when those before it have been walked over; but
// blocks are walked over several at a time and in any order. So a walk looks out
// for those that are known when it begins, and notes how many have ever been. When
// the block's turn comes, and all before it have been walked over, inTurn tells
// whether it has missed one: then there has to be another walk.
//
// It is no harm to look out for too many. The graph knows which ones matter.
type batons struct {
	graph *graph.Graph

	mu    sync.Mutex
	known map[chainhash.Hash]foundBaton // mu
	set   *protocol.BatonSet            // mu; of all known; nil for none
	found int                           // mu; how many have been found
	limit int                           // mu; of known, at which it is time to forget some
	kept  int                           // how many are known at least before some are forgotten

	turn int // the number of the last one found in a block whose turn has come; belongs to who calls inTurn
}

// foundBaton is where a baton has come from.
type foundBaton struct {
	number int   // of the finding, from 1 on; 0: known from the start
	height int64 // of the block that makes it
}

// batonsKept is how many batons are kept at least before forgetting: some 10 MB.
const batonsKept = 1 << 16

// newBatons begins with the batons as of the graph's tip.
func newBatons(g *graph.Graph, kept int) *batons {
	b := &batons{graph: g, known: make(map[chainhash.Hash]foundBaton), kept: kept}
	for _, txid := range g.Batons() {
		b.known[txid] = foundBaton{height: -1}
	}
	b.remake()
	return b
}

// now returns the batons known now, nil for none, and how many have been found.
func (b *batons) now() (set *protocol.BatonSet, found int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.set, b.found
}

// add adds those that a block makes.
func (b *batons) add(height int64, txids []chainhash.Hash) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var added []chainhash.Hash
	for _, txid := range txids {
		if _, ok := b.known[txid]; !ok {
			b.found++
			b.known[txid] = foundBaton{b.found, height}
			added = append(added, txid)
		}
	}
	if len(b.known) > b.limit {
		b.forget()
	} else if len(added) > 0 {
		b.set = b.set.With(slices.Values(added))
	}
}

// forget drops those that the graph has seen spent. Called with mu held.
func (b *batons) forget() {
	// The tip may move on between the two questions: what is not among the batons
	// then has been spent before any block that is still to come.
	tip, started := b.graph.Tip()
	open := make(map[chainhash.Hash]bool)
	for _, txid := range b.graph.Batons() {
		open[txid] = true
	}
	maps.DeleteFunc(b.known, func(txid chainhash.Hash, from foundBaton) bool {
		return started && from.height <= int64(tip.Height) && !open[txid]
	})
	b.remake()
}

// remake makes the set of all that are known. Called with mu held, or before there
// is anybody else.
func (b *batons) remake() {
	b.limit, b.set = 2*len(b.known)+b.kept, nil
	if len(b.known) > 0 {
		b.set = protocol.NewBatonSet(maps.Keys(b.known))
	}
}

// inTurn is told of each block in order, when all up to it have been walked over:
// which transactions of it carry an anchor. It reports whether a walk that began
// when so many batons had been found has looked out for all that could be spent in
// the block.
func (b *batons) inTurn(anchors []chainhash.Hash, found int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, txid := range anchors {
		b.turn = max(b.turn, b.known[txid].number)
	}
	return b.turn <= found
}
