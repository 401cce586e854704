package graph

import (
	"github.com/dgraph-io/badger/v4"

	"github.com/keytree-bch/keytree/graph/state"
	"github.com/keytree-bch/keytree/graph/store"
)

// load derives the snapshot that a transaction sees, which reads by it from then on.
// ErrMemory if there are more than so many keys.
func load(txn *badger.Txn, params Params, most int) (*snapshot, error) {
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
	s.state, err = state.Load(txn, most)
	return s, err
}
