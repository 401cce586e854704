package graph

import (
	"cmp"
	"slices"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/anchors"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// Transaction is a transaction of a block that the graph was made of.
type Transaction struct {
	Index   uint32 // in the block
	TxID    chainhash.Hash
	HasLink bool              // it carries an action
	Anchors bool              // it carries an anchor, or has broken a chain of them
	Author  *protocol.KeyHash // nil if it has none, or carries neither action nor anchor
}

// Transactions returns those of the block that the view is as of, in order of index.
// ErrReorganised; ErrDamaged.
func (v *View) Transactions() ([]Transaction, error) {
	noMessage := func(store.Position, uint32) ([]byte, error) { return nil, nil }
	actions, err := links.ReadActions(v.snapshot.txn, v.height, noMessage)
	if err != nil {
		return nil, err
	}
	block, err := anchors.ReadUnproven(v.snapshot.txn, v.height)
	if err != nil {
		return nil, err
	}
	txs := make([]Transaction, 0, len(actions)+len(block.Txs))
	for i := range actions {
		a := &actions[i]
		txs = append(txs, Transaction{Index: a.Index, TxID: a.TxID, HasLink: true, Author: a.Author})
	}
	for i := range block.Txs {
		t := &block.Txs[i]
		found, ok := slices.BinarySearchFunc(txs[:len(actions)], t.Index, func(tx Transaction, index uint32) int { return cmp.Compare(tx.Index, index) })
		if ok {
			txs[found].Anchors = true
			continue
		}
		txs = append(txs, Transaction{Index: t.Index, TxID: t.Raw.TxID(), Anchors: true, Author: t.Author})
	}
	slices.SortFunc(txs, func(a, b Transaction) int { return cmp.Compare(a.Index, b.Index) })
	return txs, v.stillThere()
}
