package graph

import (
	"errors"
	"reflect"
	"slices"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/graph/anchors"
	"github.com/keytree-bch/keytree/graph/store"
)

// TestAnchorProofsOfAChain reads the proofs of a chain from every number on, one of which
// is longer than a chunk, and expects those that each anchor has by itself.
func TestAnchorProofsOfAChain(t *testing.T) {
	c := newAnchorGraph(t)
	const here = "example.org"
	var chain, block []*wire.MsgTx
	serial := 0
	for i := range 3 * anchors.TxsPerChunk {
		serial++
		next := anchorTxOf(t, anchor(here, uint64(i), 1), serial)
		if i > 0 {
			next = anchorTxOf(t, anchor(here, uint64(i), 1), serial, batonOf(chain[i-1]))
		}
		if i == 20 {
			next.TxIn[0].SignatureScript = make([]byte, store.ChunkSize+100)
		}
		serial++
		chain, block = append(chain, next), append(block, next, anchorTxOf(t, anchor(here, 1, 1), serial))
		if i%20 == 19 || i == 3*anchors.TxsPerChunk-1 {
			c.connect(block...)
			block = nil
		}
	}
	v, err := c.g.At(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	var want []anchors.Proof
	for _, tx := range chain {
		proof, err := v.AnchorProof(tx.TxHash())
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, proof)
	}
	proofs := func(chain chainhash.Hash, from, limit int) (got []anchors.Proof) {
		err := v.EachAnchorProof(t.Context(), chain, uint32(from), func(p *anchors.Proof) (bool, error) {
			kept := *p
			kept.Raw, kept.Branch = slices.Clone(p.Raw), slices.Clone(p.Branch)
			got = append(got, kept)
			return len(got) < limit, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	id := chain[0].TxHash()
	for from := range want {
		for _, limit := range []int{1, 17, len(want)} {
			if got := proofs(id, from, limit); !reflect.DeepEqual(got, want[from:min(from+limit, len(want))]) {
				t.Fatalf("from %d at most %d: %d proofs, or others than each anchor has", from, limit, len(got))
			}
		}
	}
	if got := proofs(id, len(want), 5); len(got) != 0 {
		t.Errorf("%d proofs behind the last", len(got))
	}
	if got := proofs(chainhash.Hash{1}, 0, 5); len(got) != 0 {
		t.Errorf("of no chain: %d proofs", len(got))
	}
	enough := errors.New("enough")
	if err := v.EachAnchorProof(t.Context(), id, 0, func(*anchors.Proof) (bool, error) { return true, enough }); err != enough {
		t.Errorf("%v, want what was returned", err)
	}
}

// TestUnprovenAnchors reads the anchors of a block without what proves them: they are the same, and no
// block of them can be connected.
func TestUnprovenAnchors(t *testing.T) {
	c := newAnchorGraph(t)
	first := anchorTxOf(t, anchor("example.org", 1, 1), 1)
	c.connect(first, anchorTxOf(t, nil, 2), anchorTxOf(t, anchor("example.org", 2, 1), 3, batonOf(first)))
	txn := store.NewTxn(c.g.db.NewTransaction(false))
	defer txn.Discard()
	tip, _ := c.g.Tip()
	unproven, err := anchors.ReadUnproven(txn, tip.Height)
	if err != nil {
		t.Fatal(err)
	}
	proven, sound, err := anchors.ReadBlock(txn, tip.Height, tip.Hash, func(key []byte, why error) { t.Error(why) })
	if err != nil || !sound || len(proven.Txs) != 2 || !reflect.DeepEqual(unproven.Txs, proven.Txs) {
		t.Errorf("%d anchors without proof, %d with one: %v", len(unproven.Txs), len(proven.Txs), err)
	}
	if err := unproven.Check(tip.Hash); !errors.Is(err, ErrBlock) {
		t.Errorf("what is not proven is taken: %v", err)
	}
}
