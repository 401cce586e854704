package identity_test

import (
	"testing"
	"time"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/indexer/mempool"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// TestMempoolStatus has GetStatus tell how the mempool is followed, or why it is not.
func TestMempoolStatus(t *testing.T) {
	r := rpctest.New(t, graph.Block{Height: 0})
	status := func() *keytreev1.Mempool {
		t.Helper()
		s, err := r.Client.GetStatus(t.Context(), &keytreev1.GetStatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return s.Mempool
	}
	r.Follower.SetMempool(mempool.Status{Reason: "the node is away", Hints: "polled"})
	if m := status(); m.Available || m.Reason != "the node is away" || m.Hints != "" {
		t.Errorf("without a mempool it tells %v", m)
	}
	tip, _ := r.Graph.Tip()
	if err := r.Graph.SetPending(&graph.PendingBlock{Height: tip.Height + 1, PrevHash: tip.Hash}); err != nil {
		t.Fatal(err)
	}
	r.Follower.SetMempool(mempool.Status{
		Followed: true, AsOf: time.Now().Add(-time.Hour), Transactions: 9, Conflicts: 1, Unestablished: 2, Unread: 3, Hints: "zmq", DoubleSpendProofs: true,
	})
	if m := status(); !m.Available || m.Reason != "" || m.Listed != 9 || m.Conflicts != 1 || m.Unestablished != 2 || m.Unread != 3 ||
		m.Hints != "zmq" || !m.DoubleSpendProofs || m.GetComparedAgo() < 3600 {
		t.Errorf("it tells %v", m)
	}
}
