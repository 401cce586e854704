// Package mempool keeps what a graph supposes of the next block equal to a node's mempool:
// the unconfirmed actions, anchors, and transactions that spend batons.
//
// The truth is the node's list, with which the follower compares what it has at the start,
// after every block, and every few seconds. What the node announces in between only has it
// compare earlier. It follows while the node's tip is the graph's; else nothing is supposed.
//
// A node is not believed. A transaction has to hash to its txid, and its author is
// established as in a block (protocol/SPEC.md §2): from what it spends, which is another
// transaction of the mempool, fetched whole, or an unspent output of the chain, and by its
// signature. In a block, miners have checked that; here nobody has, so it is always checked.
// What cannot be established is shown without an author. What a node can do by lying is
// to show transactions that it made up, by nobody, or to hold others back.
//
// What never belongs here: what an action means (graph), how a node is spoken to
// (indexer/node/...), anything that is written to a disk.
package mempool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/indexer/claims"
	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/protocol"
)

// Defaults of Options.
const (
	// DefaultPoll is how often the node's list is compared when nothing is announced.
	DefaultPoll = 5 * time.Second
	// DefaultMaxActions is how many transactions are shown.
	DefaultMaxActions = 100_000
)

const (
	// hintPause is how long the next comparison waits at least: many announcements make
	// one. It waits as long as the last one took, so that the node and this process have
	// half of their time for others.
	hintPause = 50 * time.Millisecond
	// awayPause is how long it waits where the node's tip is not the graph's, as in a catch-up.
	awayPause = 250 * time.Millisecond
	// tipTime and askTime bound a question for the node's tip, and any other: what the node said
	// before is not relied on for longer.
	tipTime = 5 * time.Second
	askTime = 15 * time.Second
	// tellEvery is how often the graph is told while a long comparison goes on.
	tellEvery = 2 * time.Second
	// fetchSize is how many transactions are fetched at a time: 64 MB at most.
	fetchSize = 64
	// maxHeard is how many bytes of announced transactions are remembered until the next
	// comparison.
	maxHeard = 4 << 20
)

// Options tune a Follower; the zero value is what a server wants.
type Options struct {
	Log        zerolog.Logger
	Poll       time.Duration // 0: DefaultPoll
	MaxActions int           // 0: DefaultMaxActions
}

// Graph is what a follower needs of a *graph.Graph.
type Graph interface {
	Tip() (tip graph.Tip, ok bool)
	Changed() <-chan struct{}
	Batons() []chainhash.Hash
	At(height *uint32) (*graph.View, error)
	SetPending(next *graph.PendingBlock) error
}

// Status is how what the graph supposes stands against the node's mempool.
type Status struct {
	Followed bool
	Reason   string // why it is not Followed, for people; empty if it is
	// What the node's list had when it was last compared, at AsOf; zero before.
	AsOf         time.Time
	Transactions int // all of them
	Shown        int // actions, anchors and those that spend a baton
	Omitted      int // what matters, or could, and was left out for its number; the newest
	Conflicts    int // left out for they spend what one that is shown spends: the node's list contradicts itself
	// Unestablished is how many are shown without an author because it could not be
	// established, and not because there is none.
	Unestablished int
	Unread        int // what the node listed but did not give, or gave something else for
	// Hints says how the node announces transactions: "stream" (bchd), "zmq" (BCHN), or
	// "polled" if it does not: then what is new shows when the list is compared.
	Hints string
	// DoubleSpendProofs says that the node keeps proofs of double spends.
	DoubleSpendProofs bool
}

// Follower follows the mempool of one node for one graph. Status may be called at any time,
// Run once.
type Follower struct {
	node  Node
	graph Graph
	net   *chaincfg.Params
	opt   Options

	mu     sync.Mutex
	status Status // mu

	// What follows belongs to Run.
	pool  *pool
	tip   graph.Tip                      // by which pool is judged
	heard map[chainhash.Hash]protocol.Tx // announced since the last comparison
	bytes int                            // of heard
	told  graph.Coverage                 // what the graph was told last
}

// New returns a follower that does nothing until Run. net is the graph's network.
func New(n Node, g Graph, net *chaincfg.Params, opt Options) *Follower {
	opt.Poll, opt.MaxActions = cmp.Or(opt.Poll, DefaultPoll), cmp.Or(opt.MaxActions, DefaultMaxActions)
	return &Follower{
		node: n, graph: g, net: net, opt: opt, pool: newPool(), heard: make(map[chainhash.Hash]protocol.Tx),
		status: Status{Reason: "the node has not been asked for its mempool yet"},
	}
}

// Status returns how the mempool is followed now.
func (f *Follower) Status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.status
	s.Hints = cmp.Or(f.node.Announces(), "polled")
	return s
}

// errElsewhere says that the node's tip and the graph's are not the same.
var errElsewhere = errors.New("the node's tip is not the last block that is indexed")

// Run follows the mempool until ctx ends, and returns nil then. What goes wrong is said in the
// log, rarely, and in Status at once, and tried again. It returns an error only when the graph
// fails. When it returns the graph supposes nothing.
func (f *Follower) Run(ctx context.Context) error {
	trouble := node.NewTrouble(f.opt.Log, node.WarnEvery, "the node's mempool is not followed", "the node's mempool is followed again")
	announced := f.node.Announced()
	began := false
	for {
		changed := f.graph.Changed()
		start := time.Now()
		err := f.compare(ctx)
		if ctx.Err() != nil {
			return f.forget()
		}
		if err := f.note(err); err != nil {
			return err
		}
		pause := max(hintPause, time.Since(start))
		switch {
		case errors.Is(err, errElsewhere):
			pause = awayPause
		case err == nil:
			trouble.Over()
			if !began {
				began = true
				s := f.Status()
				f.opt.Log.Info().Int("transactions", s.Transactions).Int("shown", s.Shown).Str("hints", s.Hints).
					Bool("double_spend_proofs", s.DoubleSpendProofs).Msg("the node's mempool is followed")
			}
		default:
			trouble.Warn(err)
		}
		if announced, err = f.wait(ctx, announced, changed, pause); err != nil {
			return f.forget()
		}
	}
}

// note notes what came of a comparison. If it failed the graph supposes nothing any more.
func (f *Follower) note(failed error) error {
	p := f.pool
	if failed != nil {
		p.changed = true
		f.mu.Lock()
		f.status.Followed, f.status.Reason = false, failed.Error()
		f.mu.Unlock()
		return f.forget()
	}
	open := p.open()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status = Status{
		Followed: true, AsOf: f.told.AsOf, Transactions: len(p.known) + p.beyond, Shown: len(p.entries), Omitted: p.omitted(),
		Conflicts: p.fates[conflict], Unestablished: open, Unread: p.fates[unseen], DoubleSpendProofs: f.status.DoubleSpendProofs,
	}
	return nil
}

// forget has the graph suppose nothing. A new tip has it do so by itself.
func (f *Follower) forget() error {
	err := f.graph.SetPending(nil)
	if errors.Is(err, graph.ErrBlock) {
		return nil
	}
	return err
}

// wait waits until it is time for another comparison: after pause at least, and then as soon
// as something was announced that matters or the graph has changed. It returns announced, nil
// once that is closed, and an error when ctx has ended.
func (f *Follower) wait(ctx context.Context, announced <-chan []byte, changed <-chan struct{}, pause time.Duration) (<-chan []byte, error) {
	soon := time.Now().Add(pause)
	timer := time.NewTimer(max(pause, f.opt.Poll))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-timer.C:
			return announced, nil
		case <-changed:
			changed = f.graph.Changed()
			if tip, _ := f.graph.Tip(); tip.Hash != f.tip.Hash {
				timer.Reset(time.Until(soon))
			}
		case raw, open := <-announced:
			if !open {
				announced = nil
				continue
			}
			// If they come faster than they are looked at, some may have been lost.
			if lost := cap(announced) > 0 && len(announced) >= cap(announced)-1; f.hear(raw) || lost {
				timer.Reset(time.Until(soon))
			}
		}
	}
}

// hear remembers an announced transaction, so that it need not be fetched, and reports whether
// it matters.
func (f *Follower) hear(raw []byte) bool {
	if len(raw) > protocol.MaxTxSize {
		return false
	}
	tx, err := protocol.ParseTx(raw)
	if err != nil {
		return false
	}
	carrier := tx.Carrier(f.pool.batons)
	_, matters := claims.Of(&carrier)
	if _, ok := f.heard[carrier.TxID]; !ok && f.bytes+len(raw) <= maxHeard {
		f.heard[carrier.TxID] = tx
		f.bytes += len(raw)
	}
	return matters
}

// compare makes the graph suppose what the node lists.
func (f *Follower) compare(ctx context.Context) error {
	tip, started := f.graph.Tip()
	if !started {
		return fmt.Errorf("%w: no block is indexed yet", errElsewhere)
	}
	if err := f.standsAt(ctx, tip); err != nil {
		return err
	}
	moved := tip.Hash != f.tip.Hash
	if moved {
		f.pool.reset(f.graph.Batons(), f.opt.MaxActions)
		f.tip = tip
	}
	f.pool.begin()
	asOf := time.Now()
	if err := f.list(ctx); err != nil {
		return err
	}
	f.pool.sweep()
	if moved {
		if err := f.dropConfirmed(); err != nil {
			return err
		}
	}
	if err := f.lookAll(ctx, asOf); err != nil {
		return err
	}
	if err := f.askProofs(ctx); err != nil {
		return err
	}
	if err := f.standsAt(ctx, tip); err != nil {
		return err
	}
	clear(f.heard)
	f.bytes = 0
	return f.tell(asOf)
}

// standsAt returns nil if the node's tip and the graph's are this one.
func (f *Follower) standsAt(ctx context.Context, tip graph.Tip) error {
	ctx, cancel := context.WithTimeout(ctx, tipTime)
	defer cancel()
	now, err := f.node.Tip(ctx)
	if err != nil {
		return err
	}
	if ours, _ := f.graph.Tip(); now.Hash != tip.Hash || ours.Hash != tip.Hash {
		return fmt.Errorf("%w: the node is at height %d, the index at %d", errElsewhere, now.Height, ours.Height)
	}
	return nil
}

// list goes through the node's list.
func (f *Follower) list(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	return f.node.Mempool(ctx, maxListed, f.pool.listed)
}

// lookAll looks at all transactions that have yet to be looked at.
func (f *Follower) lookAll(ctx context.Context, asOf time.Time) error {
	p := f.pool
	told := time.Now()
	since, missed := p.round+1, false // since: the first comparison with the parent of one that may have been passed over
	for {
		for len(p.fresh) > 0 {
			n := min(len(p.fresh), fetchSize)
			txids := p.fresh[:n]
			p.fresh = p.fresh[n:]
			for _, txid := range txids {
				_, ok := f.heard[txid]
				missed = missed || !ok && p.known[txid].first == p.round
			}
			first, err := f.look(ctx, txids, asOf)
			if err != nil {
				return err
			}
			since = min(since, first)
			if tip, _ := f.graph.Tip(); tip.Hash != f.tip.Hash {
				return fmt.Errorf("%w: the index is at height %d now", errElsewhere, tip.Height)
			}
			if time.Since(told) > tellEvery {
				if err := f.tell(asOf); err != nil {
					return err
				}
				told = time.Now()
			}
		}
		if since > p.round {
			break
		}
		p.again(since)
		since = p.round + 1
	}
	if missed && !f.told.AsOf.IsZero() { // all that was there before was not announced to us
		f.node.Missed()
	}
	return nil
}

// askProofs asks the node of which transactions it has double-spend proofs.
func (f *Follower) askProofs(ctx context.Context) error {
	prover, proves := f.node.(Prover)
	if proves && len(f.pool.entries) > 0 {
		ctx, cancel := context.WithTimeout(ctx, askTime)
		defer cancel()
		txids, err := prover.DoubleSpends(ctx)
		switch {
		case errors.Is(err, node.ErrUnsuitable):
			proves = false
		case err != nil:
			return err
		}
		f.pool.doubt(txids)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status.DoubleSpendProofs = proves
	return nil
}

// tell has the graph suppose what is kept, if that is not what it supposes already. Where the
// graph has no room for it, the newest half is left out, until the next block.
func (f *Follower) tell(asOf time.Time) error {
	for {
		next := f.pool.block(f.tip, asOf)
		same := next.Coverage.Omitted == f.told.Omitted && next.Coverage.Complete == f.told.Complete
		f.told = next.Coverage
		if !f.pool.changed && same {
			return nil
		}
		err := f.graph.SetPending(next)
		tip, _ := f.graph.Tip()
		switch {
		case err == nil:
			f.pool.changed = false
			return nil
		case errors.Is(err, graph.ErrBlock) && tip.Hash != f.tip.Hash:
			return fmt.Errorf("%w: %w", errElsewhere, err)
		case !errors.Is(err, graph.ErrMemory) || !f.pool.halve():
			return err
		}
	}
}
