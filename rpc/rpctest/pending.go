package rpctest

import (
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/links"
)

// Omitted is how many transactions Suppose says to have left out.
const Omitted = 4

// Suppose lets anchors and actions be pending after the tip. Of the transaction spentTwice, "" for none,
// a proof of that is known, and it was seen just now, however long the test takes.
func (r *Rig) Suppose(t testing.TB, spentTwice string, anchors []AnchorTx, actions ...links.Action) {
	t.Helper()
	tip, _ := r.Graph.Tip()
	now := time.Now().Add(time.Hour)
	next := &graph.PendingBlock{
		Height: tip.Height + 1, PrevHash: tip.Hash, Actions: actions,
		Anchors:  new(Chain).Anchored(t, nil, anchors...).Anchors.Txs,
		Coverage: graph.Coverage{Omitted: Omitted, AsOf: now},
	}
	if spentTwice != "" {
		next.Txs = map[chainhash.Hash]graph.PendingTx{HashOf(spentTwice): {DoubleSpend: true, Seen: now}}
	}
	if err := r.Graph.SetPending(next); err != nil {
		t.Fatal(err)
	}
}
