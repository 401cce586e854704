package graph_test

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"slices"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"pgregory.net/rapid"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/protocol"
)

// mempool is what a pair supposes of the next block, and what the model makes of that.
type mempool struct {
	block graph.Block // as if it were mined: in the order of the txids
	state *modelState // after it
}

// suppose tells the graph and the model what is pending.
func (p *pair) suppose(t *rapid.T, actions []links.Action) *mempool {
	last := p.model.tip().block
	next := &graph.PendingBlock{Height: last.Height + 1, PrevHash: last.Hash, Actions: slices.Clone(actions)}
	if err := p.graph.SetPending(next); err != nil {
		t.Fatalf("SetPending: %v", err)
	}
	b := graph.Block{Height: next.Height, PrevHash: next.PrevHash, Actions: slices.Clone(actions)}
	slices.SortFunc(b.Actions, func(x, y links.Action) int { return bytes.Compare(displayed(x.TxID), displayed(y.TxID)) })
	for i := range b.Actions {
		b.Actions[i].Index = uint32(i + 1)
	}
	return &mempool{b, p.model.tip().next(b)}
}

func displayed(txid chainhash.Hash) []byte {
	slices.Reverse(txid[:])
	return txid[:]
}

// wantPending asks everything of what is pending; nil: nothing is.
func (p *pair) wantPending(t *rapid.T, w *world, m *mempool, limit int) {
	v, ok := p.graph.Pending()
	if ok != (m != nil) {
		t.Fatalf("something is pending: %t, expected %t", ok, m != nil)
	}
	if !ok {
		return
	}
	defer v.Close()
	m.state.answers(t, v, w, limit)
	same(t, w, "pending Effects", must(pendingEffects(v))(t), m.state.effects)
	var statuses []links.ActionStatus
	for i := range m.block.Actions {
		statuses = append(statuses, m.state.action(m.block.Actions[i].TxID).status())
	}
	same(t, w, "pending Actions", allPending(t, v, limit), statuses)
	p.wantReasons(t, w, v, m)
}

func pendingEffects(v *graph.PendingView) ([]links.Effect, error) {
	effects, _, err := v.Effects(0, 1000)
	return effects, err
}

func allPending(t *rapid.T, v *graph.PendingView, limit int) (all []links.ActionStatus) {
	var cursor *chainhash.Hash
	for {
		page, next, err := v.Actions(context.Background(), cursor, limit)
		if err != nil || len(page) > limit {
			t.Fatalf("a page of %d pending actions, limit %d, %v", len(page), limit, err)
		}
		all = append(all, page...)
		if next == nil {
			return all
		}
		cursor = next
	}
}

// wantReasons asks why answers differ: there is a reason for each that does, and reasons are pending.
func (p *pair) wantReasons(t *rapid.T, w *world, v *graph.PendingView, m *mempool) {
	confirmed := p.model.tip()
	pending := func(what string, of any, why []chainhash.Hash, differs bool) {
		for _, txid := range why {
			if _, ok := v.Tx(txid); !ok {
				t.Fatalf("%s %s: reason %s is not pending", what, show(w, of), show(w, txid))
			}
		}
		if differs && len(why) == 0 {
			t.Fatalf("%s %s differs for no reason", what, show(w, of))
		}
	}
	for _, key := range w.keys {
		why, more, err := v.WhyKey(context.Background(), key)
		if err != nil || more {
			t.Fatalf("WhyKey: %v, %t", err, more)
		}
		pending("key", key, why, !reflect.DeepEqual(confirmed.resolve(key), m.state.resolve(key)))
	}
	for _, key := range w.keys {
		for _, states := range []links.RequestState{links.OpenRequest, links.AcceptedRequest, links.AnyRequest} {
			got, more, err := v.ChangedRequests(context.Background(), key, states, 1000)
			if err != nil || more {
				t.Fatalf("ChangedRequests: %v, %t", err, more)
			}
			same(t, w, "ChangedRequests", got, changedRequests(confirmed, m.state, key, states))
		}
	}
	for _, tx := range w.txs {
		why, moved, more, err := v.WhyIdentity(tx.TxID)
		if err != nil || more {
			t.Fatalf("WhyIdentity: %v, %t", err, more)
		}
		if (len(moved) > 0) != (len(why) > 0) {
			t.Fatalf("identity %s: %d keys move because of %d", show(w, tx.TxID), len(moved), len(why))
		}
		pending("identity", tx.TxID, why, !reflect.DeepEqual(confirmed.identity(tx.TxID), m.state.identity(tx.TxID)) ||
			!reflect.DeepEqual(confirmed.members(tx.TxID), m.state.members(tx.TxID)))
		now := m.state.action(tx.TxID)
		why, err = v.WhyAction(tx.TxID)
		if now == nil {
			if !errors.Is(err, graph.ErrNotFound) {
				t.Fatalf("WhyAction of what is not pending: %v", err)
			}
			continue
		}
		before := confirmed.action(tx.TxID)
		pending("action", tx.TxID, why, before == nil || !reflect.DeepEqual(before.status(), now.status()))
	}
}

// changedRequests lists the requests asked of a key that one state has and the one before has not, or in another of the
// states: those that are new first, else the newest first.
func changedRequests(before, after *modelState, key protocol.KeyHash, states links.RequestState) (changes []graph.RequestChange) {
	was := make(map[chainhash.Hash]links.Request)
	for _, r := range before.requestsOf(key) {
		was[r.TxID] = r
	}
	var known []graph.RequestChange
	for _, r := range after.requestsOf(key) {
		old, ok := was[r.TxID]
		switch {
		case !ok && r.Link&states != 0:
			changes = append(changes, graph.RequestChange{Is: r})
		case ok && old.Link != r.Link && (old.Link|r.Link)&states != 0:
			known = append(known, graph.RequestChange{Was: &old, Is: r})
		}
	}
	return append(changes, known...)
}

// TestPropertyPending: after any sequence of connects, disconnects and restarts, and whatever is
// pending after any of them, the graph answers like the model of what is pending, and as of every height like
// that of what is confirmed. What is pending goes with the tip, and a block that holds just that gives the same
// answers.
func TestPropertyPending(t *testing.T) {
	checks(t, 5, 8, 300)
	met := tally{}
	rapid.Check(t, func(t *rapid.T) {
		p := newPair(t, rapid.SampledFrom([]uint32{0, 547000}).Draw(t, "start height"))
		w := newWorld(4 + pick(t, "keys beyond four", 9))
		var m *mempool
		p.connect(t, w.block(t, p.next()))
		t.Repeat(map[string]func(*rapid.T){
			"connect": func(t *rapid.T) {
				if len(p.model.states) >= mostBlocks {
					t.Skip("long enough")
				}
				m = nil
				p.connect(t, w.block(t, p.next()))
			},
			"suppose": func(t *rapid.T) {
				m = p.suppose(t, w.block(t, p.next()).Actions)
				met.state(m.state)
			},
			"suppose more": func(t *rapid.T) { // a chain that grows
				if m == nil {
					t.Skip("nothing to add to")
				}
				more := w.block(t, place{m.state, m.block.Height + 1}).Actions
				m = p.suppose(t, slices.Concat(m.block.Actions, more))
			},
			"suppose nothing": func(t *rapid.T) {
				if err := p.graph.SetPending(nil); err != nil {
					t.Fatal(err)
				}
				m = nil
			},
			"refuse": func(t *rapid.T) {
				last := p.model.tip().block
				next := &graph.PendingBlock{Height: last.Height + 1, PrevHash: last.Hash, Actions: w.block(t, p.next()).Actions}
				switch what := pick(t, "what", 4); {
				case what == 0:
					next.Height++
				case what == 1:
					next.PrevHash[0]++
				case what == 2 && len(next.Actions) > 0:
					next.Actions = append(next.Actions, next.Actions[0])
				case what == 3 && len(last.Actions) > 0:
					next.Actions = append(next.Actions, last.Actions[0])
				default:
					t.Skip("nothing to spoil")
				}
				if err := p.graph.SetPending(next); !errors.Is(err, graph.ErrBlock) {
					t.Fatalf("SetPending of a bad block: %v", err)
				}
			},
			"mine it": func(t *rapid.T) {
				if m == nil || len(p.model.states) >= mostBlocks {
					t.Skip("nothing to mine")
				}
				v, ok := p.graph.Pending()
				if !ok {
					t.Fatal("nothing is pending")
				}
				defer v.Close()
				b := w.emptyBlock(p.next())
				b.Actions = m.block.Actions
				p.connect(t, b)
				mined := p.view(t, nil)
				defer mined.Close()
				same(t, w, "Effects", must(p.graph.Events(b.Height, 0, 1000))(t).Effects, must(pendingEffects(v))(t))
				m.state.answers(t, v, w, 100) // it is held still
				m.state.answers(t, mined, w, 100)
				m = nil
			},
			"give back": func(t *rapid.T) { // a block whose transactions return to the mempool
				if len(p.model.states) < 2 {
					t.Skip("nothing below")
				}
				m = p.suppose(t, p.disconnect(t).Actions)
			},
			"fork": func(t *rapid.T) {
				n := min(p.forkDepth(t), len(p.model.states)-1)
				for range n {
					p.disconnect(t)
				}
				m = nil
				p.connect(t, w.blocks(t, p.next(), 1+pick(t, "blocks", n+1))...)
			},
			"restart": func(t *rapid.T) {
				p.restart(t)
				m = nil
			},
			"": func(t *rapid.T) {
				limit := pageSize(t)
				p.wantPending(t, w, m, limit)
				p.agree(t, w, limit)
			},
		})
		fresh := newPair(t, p.start)
		for _, s := range p.model.states {
			fresh.connect(t, s.block)
		}
		if got, want := p.tipHash(), fresh.tipHash(); got != want {
			t.Fatalf("state hash %x, of a graph to which nothing was pending %x", got, want)
		}
	})
	met.report(t, everyOutcome()...)
}
