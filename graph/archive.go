package graph

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/anchors"
	"github.com/keytree-bch/keytree/graph/badgerdb"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// Recorded is what the graph was made of, by one block, and what it adds up to there.
type Recorded struct {
	Tip
	Prev chainhash.Hash
	Txs  []Transaction // that matter, in order of index
}

// Transaction is a transaction of a block that matters to the graph.
type Transaction struct {
	Index   uint32 // in the block
	TxID    chainhash.Hash
	Anchors bool              // it carries an anchor, or has broken a chain of them
	Author  *protocol.KeyHash // nil if it has none, or carries neither action nor anchor
}

// Recorded returns what is recorded of the applied block at height. ErrHeight if there is none,
// ErrReorganised if it is taken back meanwhile.
func (g *Graph) Recorded(height uint32) (Recorded, error) {
	v, err := g.At(&height)
	if err != nil {
		return Recorded{}, err
	}
	defer v.Close()
	r, err := recorded(v.snapshot.txn, height, &v.block)
	return r, errors.Join(err, v.stillThere())
}

// recorded reads what is recorded of the block at a height, which has a record.
func recorded(txn *store.Txn, height uint32, record *store.Block) (Recorded, error) {
	r := Recorded{Tip: *record.Tip(height), Prev: record.Prev}
	noMessage := func(store.Position, uint32) ([]byte, error) { return nil, nil }
	actions, err := links.ReadActions(txn, height, noMessage)
	if err != nil {
		return r, err
	}
	block, err := anchors.ReadUnproven(txn, height)
	if err != nil {
		return r, err
	}
	for i := range actions {
		a := &actions[i]
		r.Txs = append(r.Txs, Transaction{Index: a.Index, TxID: a.TxID, Author: a.Author})
	}
	for i := range block.Txs {
		t := &block.Txs[i]
		at, ok := slices.BinarySearchFunc(r.Txs[:len(actions)], t.Index, func(tx Transaction, index uint32) int { return cmp.Compare(tx.Index, index) })
		if ok {
			r.Txs[at].Anchors = true
			continue
		}
		r.Txs = append(r.Txs, Transaction{Index: t.Index, TxID: t.Raw.TxID(), Anchors: true, Author: t.Author})
	}
	slices.SortFunc(r.Txs, func(a, b Transaction) int { return cmp.Compare(a.Index, b.Index) })
	return r, nil
}

// Archive is a graph that is only read, block by block: no state is made of it. It is for one
// goroutine at a time.
type Archive struct {
	params Params
	db     *badgerdb.DB
	txn    *store.Txn
	tip    *Tip // nil before the first block
}

// OpenArchive opens the graph in dir to be read, as graph/fsck does: the folder stays as it is, to the last byte and
// time, and no server may have it open. Errors are those of Open. Close it.
func OpenArchive(ctx context.Context, dir string, params Params, opt Options) (*Archive, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("there is no index: %w", err)
	}
	opt = opt.withDefaults()
	db, err := badgerdb.OpenReadOnly(ctx, badgerdb.Options{Badger: store.Options(dir, opt.MemTable, opt.BlockCache), MaxValue: store.MaxValue, Free: badgerdb.FreeSpace, Log: opt.Log}, nil)
	if err != nil {
		return nil, opening(dir, err)
	}
	a := &Archive{params: params, db: db, txn: store.NewTxn(db.NewTransaction(false))}
	if err := a.begin(); err != nil {
		return nil, errors.Join(opening(dir, err), a.Close())
	}
	return a, nil
}

// begin reads what the database is of, and its tip.
func (a *Archive) begin() error {
	value, err := store.Read(a.txn, []byte{store.PrefixFormat})
	if err != nil || value == nil { // made, but not begun
		return err
	}
	format, err := store.ParseFormat(value)
	if err == nil {
		err = format.Matches(a.params)
	}
	if err == nil {
		a.tip, err = store.ReadTip(a.txn)
	}
	return err
}

// Close closes the database.
func (a *Archive) Close() error {
	a.txn.Discard()
	return a.db.Close()
}

// Params returns what the archive was opened with.
func (a *Archive) Params() Params { return a.params }

// Tip returns the last block applied; ok is false if there is none.
func (a *Archive) Tip() (tip Tip, ok bool) {
	if a.tip == nil {
		return Tip{}, false
	}
	return *a.tip, true
}

// Recorded returns what is recorded of the applied block at height. ErrHeight if there is none.
func (a *Archive) Recorded(height uint32) (Recorded, error) {
	if a.tip == nil || height < a.params.StartHeight || height > a.tip.Height {
		return Recorded{}, fmt.Errorf("%w: there is no block at height %d", ErrHeight, height)
	}
	record, err := store.ReadBlock(a.txn, height)
	if err != nil {
		return Recorded{}, err
	}
	return recorded(a.txn, height, &record)
}
