package graph

import (
	"github.com/dgraph-io/badger/v4"

	"github.com/keytree-bch/keytree/graph/store"
)

// load derives the snapshot that a transaction sees, which reads by it from then on, but for its state.
func load(txn *badger.Txn, params Params) (*snapshot, error) {
	s := newSnapshot()
	s.undoFrom, s.txn = params.StartHeight, txn
	height, err := store.TipHeight(txn)
	if err != nil {
		return nil, err
	}
	if height != nil {
		record, err := store.ReadBlock(txn, *height)
		if err != nil {
			return nil, err
		}
		s.setBlock(*height, record)
	}
	if from, ok, err := store.UndoFrom(txn); err != nil {
		return nil, err
	} else if ok {
		s.undoFrom = from
	}
	return s, nil
}
