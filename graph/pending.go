package graph

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"sort"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/anchors"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/graph/state"
	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
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

// pending is what is supposed of the next block after a snapshot's: nobody changes it.
type pending struct {
	changed chan struct{} // closed when something else is pending
	known   bool          // else the rest is zero

	generation uint64 // of all that the graph has supposed, counted from 1
	state      *state.State
	over       *store.Txn // the snapshot's, with what the block would write over it
	txs        []pendingTx
	touches    []touch
	coverage   Coverage
	bytes      int64 // that it takes, at most
}

// pendingTx is one of the supposed block's transactions, which are in order of their positions.
type pendingTx struct {
	txid   chainhash.Hash
	action bool
	PendingTx
}

// touch says that an action of the supposed block, or one that it releases, formed or cut a link of an
// identity. They are in order of the identities' ids, and of one in the order in which they happen.
type touch struct{ id, by chainhash.Hash }

func nothingPending() *pending { return &pending{changed: make(chan struct{})} }

// SetPending replaces what the graph supposes of the next block; nil: nothing is known of it, as
// when the node is behind or elsewhere, or is not followed any more. A new tip drops it at once.
// next stays the caller's, but for what messages and raw transactions it has, which must not change any more.
//
// ErrBlock if next does not follow the tip, or the tip has moved meanwhile: it is stale. ErrBlock
// as well if next has a transaction twice, one that is on the chain, or an anchor that is no transaction.
// ErrMemory if there is no room for it: give fewer transactions, or allow the process more. After
// an error nothing has changed; other errors are the store's.
//
// Its cost is that of connecting such a block, without writing it: nothing goes to the disk. Questions
// are answered and blocks connected meanwhile as ever. Calls wait for each other.
func (g *Graph) SetPending(next *PendingBlock) error {
	g.supposing.Lock()
	defer g.supposing.Unlock()
	base, err := g.hold()
	if err != nil {
		return err
	}
	defer base.release()
	p := nothingPending()
	if next != nil {
		if p, err = g.suppose(base, next); err != nil {
			return err
		}
	}
	return g.setPending(base, p)
}

// setPending makes something the pending of a snapshot, if that is the current one.
func (g *Graph) setPending(base *snapshot, p *pending) error {
	g.publishing.Lock()
	defer g.publishing.Unlock()
	if g.current.Load() != base {
		return fmt.Errorf("%w: another block has become the tip meanwhile, say what is pending after that", store.ErrBlock)
	}
	last := base.pending.Load()
	if !last.known && !p.known {
		return nil
	}
	g.generation++
	p.generation = g.generation
	base.pending.Store(p)
	close(last.changed)
	return nil
}

// suppose makes of a snapshot what it would be after a block.
func (g *Graph) suppose(base *snapshot, next *PendingBlock) (*pending, error) {
	if base.tip == nil || next.Height != base.tip.Height+1 || next.PrevHash != base.tip.Hash {
		return nil, fmt.Errorf("%w: what is pending would be block %d after %v, expected what follows the tip", store.ErrBlock, next.Height, next.PrevHash)
	}
	if left := store.UndoAbove(base.txn, base.tip.Height); left {
		return nil, fmt.Errorf("%w: a failed step has left something above the tip, wait for the next block", store.ErrBlock)
	}
	block, txs, err := next.block()
	if err != nil {
		return nil, err
	}
	p := nothingPending()
	p.known, p.txs, p.coverage = true, txs, next.Coverage
	if p.bytes, err = g.pendingNeeds(base, &block); err != nil {
		return nil, err
	}
	c := newChange(base, len(block.Actions))
	c.StageBytes = math.MaxInt
	if err := c.apply(&block); err != nil {
		return nil, err
	}
	// What undoes a block is of no use, and some bytes for each action.
	c.Entries = slices.DeleteFunc(c.Entries, func(e store.Entry) bool { return e.Key[0] == store.PrefixUndo })
	p.state, p.over = c.next.state, base.txn.Over(c.Entries)
	p.touches, err = p.touched(next.Height)
	return p, err
}

// block returns the supposed block, and its transactions in order of position.
func (next *PendingBlock) block() (b Block, txs []pendingTx, err error) {
	txs = make([]pendingTx, 0, len(next.Actions)+len(next.Anchors))
	add := func(txid chainhash.Hash, action bool) { txs = append(txs, pendingTx{txid, action, next.Txs[txid]}) }
	b = Block{Height: next.Height, PrevHash: next.PrevHash, Actions: slices.Clone(next.Actions)}
	for i := range b.Actions {
		add(b.Actions[i].TxID, true)
	}
	b.Anchors.Txs = slices.Clone(next.Anchors)
	ids := make([]chainhash.Hash, len(next.Anchors))
	for i := range next.Anchors {
		raw, err := protocol.ParseTx(next.Anchors[i].Raw)
		if err != nil {
			return b, nil, fmt.Errorf("%w: pending anchor %d: %w", store.ErrBlock, i, err)
		}
		ids[i] = raw.TxID()
		add(ids[i], false)
	}
	slices.SortStableFunc(txs, func(x, y pendingTx) int { return compareDisplayed(x.txid, y.txid) }) // actions first
	for i := 1; i < len(txs); i++ {
		if txs[i].txid == txs[i-1].txid && txs[i].action == txs[i-1].action {
			return b, nil, fmt.Errorf("%w: transaction %v is pending twice", store.ErrBlock, txs[i].txid)
		}
	}
	txs = slices.CompactFunc(txs, func(x, y pendingTx) bool { return x.txid == y.txid })
	index := func(txid chainhash.Hash) uint32 { return uint32(seek(txs, txid)) + 1 }
	for i := range b.Actions {
		b.Actions[i].Index = index(b.Actions[i].TxID)
	}
	for i := range b.Anchors.Txs {
		b.Anchors.Txs[i].Index = index(ids[i])
	}
	return b, txs, nil
}

// compareDisplayed compares two txids as they are displayed.
func compareDisplayed(a, b chainhash.Hash) int {
	slices.Reverse(a[:])
	slices.Reverse(b[:])
	return bytes.Compare(a[:], b[:])
}

// seek returns the number of the first transaction at or after a txid.
func seek(txs []pendingTx, txid chainhash.Hash) int {
	return sort.Search(len(txs), func(i int) bool { return compareDisplayed(txs[i].txid, txid) >= 0 })
}

// touchedAtOnce is how many effects are looked at at once.
const touchedAtOnce = 10_000

// touched lists which identities the supposed block at a height touches.
func (p *pending) touched(height uint32) (touches []touch, err error) {
	it := store.NewIterators(p.over)
	defer it.Close()
	view := links.NewIdentities(p.state.Links, it, height, height, func() error { return nil })
	var link chainhash.Hash // the last that was formed or cut, by its MLA or MCR
	for first := 0; ; first += touchedAtOnce {
		effects, _, err := view.Effects(first, touchedAtOnce)
		if err != nil {
			return nil, err
		}
		for i := range effects {
			switch e := &effects[i]; e.Type {
			case links.LinkFormed, links.LinkCut:
				link = e.Tx
				touches = append(touches, touch{e.ID, link})
			case links.IdentityNamed, links.IdentityMerged: // because of that link
				touches = append(touches, touch{e.ID, link})
			}
		}
		if len(effects) < touchedAtOnce {
			break
		}
	}
	slices.SortStableFunc(touches, func(x, y touch) int { return store.CompareHashes(x.id, y.id) })
	return slices.Clip(slices.Compact(touches)), nil
}

// PendingChanged returns a channel that is closed when something else has become pending: when it
// was set, or dropped by a new tip. Ask for it before Pending, so that nothing comes between the two.
func (g *Graph) PendingChanged() <-chan struct{} { return g.current.Load().pending.Load().changed }
