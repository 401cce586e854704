package graph

import (
	"errors"
	"testing"

	"github.com/dgraph-io/badger/v4"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/graph/anchors"
	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// records lists the keys under a prefix.
func (g *Graph) records(t *testing.T, prefix byte) (keys [][]byte) {
	t.Helper()
	err := g.db.View(func(txn *badger.Txn) error {
		return store.EachKey(store.NewTxn(txn), []byte{prefix}, nil, func(key []byte) error {
			keys = append(keys, key)
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// TestMerkleNodesInChunks proves the anchors of a block whose merkle nodes take several
// records, and of one that has but one anchor. Without one of the records no wrong proof
// is given.
func TestMerkleNodesInChunks(t *testing.T) {
	c := newAnchorGraph(t)
	genesis := anchorTxOf(t, anchor("example.org", 0, 1), 0)
	var txs []*wire.MsgTx
	var proved []chainhash.Hash
	for serial := 1; serial <= 700; serial++ {
		if serial%3 == 0 {
			txs = append(txs, anchorTxOf(t, nil, serial)) // is passed over
			continue
		}
		txs = append(txs, anchorTxOf(t, anchor("example.org", 1, 1), serial))
		proved = append(proved, txs[len(txs)-1].TxHash())
	}
	c.connect(genesis)
	if n := len(c.g.records(t, store.PrefixMerkle)); n != 1 {
		t.Errorf("%d records of merkle nodes for one anchor", n)
	}
	c.connect(txs...)
	proved = append(proved, genesis.TxHash())
	chunks := c.g.records(t, store.PrefixMerkle)
	if len(chunks) < 10 {
		t.Fatalf("%d records of merkle nodes are too few to show anything", len(chunks))
	}
	// proven counts the anchors that have a proof; the others are found to lack one.
	proven := func() (n int) {
		t.Helper()
		txn := store.NewTxn(c.g.db.NewTransaction(false)) // the store as it is now, damage included
		defer txn.Discard()
		it := store.NewIterators(txn)
		defer it.Close()
		v := anchors.NewChains(it, 1)
		for _, txid := range proved {
			proof, err := v.AnchorProof(txid)
			if errors.Is(err, store.ErrDamaged) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			header, err := protocol.ParseHeader(proof.Header[:])
			if err != nil {
				t.Fatal(err)
			}
			if err := protocol.CheckMerkleBranch(proof.Raw, proof.Index, proof.Branch, header.MerkleRoot); err != nil || proof.Raw.TxID() != txid {
				t.Fatalf("anchor %v: the proof is of %v, %v", txid, proof.Raw.TxID(), err)
			}
			n++
		}
		return n
	}
	if n := proven(); n != len(proved) {
		t.Errorf("%d of %d proved have a proof", n, len(proved))
	}
	c.g.wantSound(t)
	for _, key := range chunks {
		var value []byte
		err := c.g.db.Update(func(txn *badger.Txn) (err error) {
			value, err = store.Read(store.NewTxn(txn), key)
			return errors.Join(err, txn.Delete(key))
		})
		if err != nil {
			t.Fatal(err)
		}
		if n := proven(); n == len(proved) {
			t.Errorf("all proved have a proof without the record %x", key)
		}
		if err := c.g.db.Update(func(txn *badger.Txn) error { return txn.Set(key, value) }); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := c.g.Disconnect(); err != nil {
			t.Fatal(err)
		}
	}
	if left := c.g.records(t, store.PrefixMerkle); len(left) > 0 {
		t.Errorf("%d records of merkle nodes are left of no blocks", len(left))
	}
}
