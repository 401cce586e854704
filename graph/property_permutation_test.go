package graph_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"pgregory.net/rapid"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// TestPropertyPermutation: what order a block's actions have changes nothing but
// what is decided by position. The graph agrees with the model whatever the
// order; and it comes to the same state unless the block holds a tie.
func TestPropertyPermutation(t *testing.T) {
	checks(t, 60, 14, 4000)
	met := tally{}
	rapid.Check(t, func(t *rapid.T) {
		p := newPair(t, 0)
		w := newWorld(4 + pick(t, "keys beyond four", 9))
		p.connect(t, w.blocks(t, p.next(), pick(t, "blocks", 10))...)
		before := p.model.tip()

		b := w.block(t, p.next())
		p.connect(t, b)
		p.agree(t, w, 100)
		first := p.snapshot(t, w)
		p.disconnect(t)

		b.Actions = slices.Clone(b.Actions)
		order := make([]uint32, len(b.Actions))
		for i, a := range b.Actions {
			order[i] = a.Index
		}
		for i, index := range rapid.Permutation(order).Draw(t, "permuted") {
			b.Actions[i].Index = index
		}
		p.connect(t, b)
		p.agree(t, w, 100)
		second := p.snapshot(t, w)

		ties := findTies(before, b)
		for _, e := range p.model.tip().effects {
			met[fmt.Sprintf("%v: effect %d", ties, e.Type)]++
		}
		switch ties {
		case noTies:
			same(t, w, "state after the permuted block", second, first)
		case namingTies:
			same(t, w, "inForce after the permuted block", second.withoutIDs(), first.withoutIDs())
		}
	})
	var wanted []string
	for ties := noTies; ties <= conflicts; ties++ {
		for _, e := range []links.EffectType{links.LinkFormed, links.LinkCut, links.ActionRefused, links.IdentityMerged} {
			wanted = append(wanted, fmt.Sprintf("%v: effect %d", ties, e))
		}
	}
	met.report(t, wanted...)
}

// tie says what of a block's outcome depends on the order of its actions.
type tie int

const (
	noTies     tie = iota // nothing
	namingTies            // which of its links names a new identity, or is named by an older action
	conflicts             // which of its accepts or revokes wins
)

func (t tie) String() string {
	return [...]string{"no ties", "naming ties", "conflicts"}[t]
}

// findTies looks for what position decides in a block.
//
// Accepts conflict if some of them together are impossible though each by itself
// would do: they give one child a parent twice, or close a loop. Revokes conflict
// if they cut the same link.
func findTies(before *modelState, b graph.Block) tie {
	unlinked := before.begin(b)
	unlinked.refuseUnfit()
	unlinked.openRequests()
	unlinked.revokeSettled(before)
	linked := unlinked.clone()
	linked.accept()
	after := linked.clone()
	after.revokeOthers()

	for _, a := range after.actions {
		if a.reason == links.AlreadyRevoked && a.decided == b.Height && after.action(*a.refTx).decided == b.Height {
			return conflicts
		}
	}

	// What would become of each accept if it were alone.
	inForce := make(map[protocol.KeyHash][]protocol.KeyHash) // child to parents
	for child, l := range unlinked.links {
		inForce[child] = append(inForce[child], l.parent)
	}
	able := make(map[protocol.KeyHash]int)   // accepts that would put the child's link in force
	looped := make(map[protocol.KeyHash]int) // accepts that would be refused as LOOP
	for i, a := range unlinked.actions {
		if !a.undecided() || a.Kind != protocol.MLA {
			continue
		}
		alone := unlinked.clone()
		it := &alone.actions[i]
		request := alone.referredTo(it)
		if request == nil {
			continue
		}
		alone.decideAccept(it, request)
		switch {
		case it.state == links.StateInForce:
			able[*it.child]++
			inForce[*it.child] = append(inForce[*it.child], *it.parent)
		case it.reason == links.Loop:
			looped[*it.child]++
		}
	}
	for child, n := range able {
		if n > 1 || looped[child] > 0 {
			return conflicts
		}
		for key, steps := child, 0; len(inForce[key]) > 0; steps++ { // one parent each
			if steps > len(inForce) {
				return conflicts
			}
			key = inForce[key][0]
		}
	}

	// Position decides between two ids that are both named in this block, and if
	// several of its links join one tree then which of them names it.
	named := func(id chainhash.Hash) bool { return linked.action(id).height == b.Height }
	joined := make(map[protocol.KeyHash]bool)
	for child, l := range linked.links {
		if l.since != b.Height {
			continue
		}
		root := linked.root(child)
		if joined[root] {
			return namingTies
		}
		joined[root] = true
	}
	for _, e := range linked.effects {
		if e.Type == links.IdentityMerged && named(e.ID) && named(e.Into) {
			return namingTies
		}
	}
	return noTies
}

// snapshot is a state without positions.
type snapshot struct {
	Counts     store.Counts
	Resolve    []links.Resolution
	Members    [][]links.Member      // of each key's identity, ordered by key
	Identities []*links.Identity     // by naming tx
	Actions    []*links.ActionStatus // by tx
	ActionsOf  [][]chainhash.Hash    // by key, ordered by txid
}

// snapshot asks the graph for everything as of the tip.
func (p *pair) snapshot(t rapid.TB, w *world) snapshot {
	v := p.view(t, nil)
	defer v.Close()
	var s snapshot
	tip, _ := p.graph.Tip()
	s.Counts = tip.Counts
	for _, key := range w.keys {
		r := must(v.Resolve(context.Background(), key))(t)
		s.Resolve = append(s.Resolve, r)
		members := allMembers(t, v, r.ID, 100)
		// Siblings stand in the order in which they were linked.
		slices.SortFunc(members, func(a, b links.Member) int { return slices.Compare(a.Key[:], b.Key[:]) })
		s.Members = append(s.Members, members)
		var txids []chainhash.Hash
		for _, a := range allActions(t, v, key, 100) {
			txids = append(txids, a.TxID)
		}
		slices.SortFunc(txids, func(a, b chainhash.Hash) int { return slices.Compare(a[:], b[:]) })
		s.ActionsOf = append(s.ActionsOf, txids)
	}
	for _, tx := range w.txs {
		s.Identities = append(s.Identities, found(v.Identity(tx.TxID))(t))
		a := found(v.Action(tx.TxID))(t)
		if a != nil {
			a.Index = 0
		}
		s.Actions = append(s.Actions, a)
	}
	return s
}

func (s snapshot) withoutIDs() snapshot {
	s.Resolve = slices.Clone(s.Resolve)
	for i := range s.Resolve {
		s.Resolve[i].ID = chainhash.Hash{}
	}
	s.Identities = nil
	return s
}
