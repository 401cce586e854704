package anchors

import (
	"fmt"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// ledger reads what the store has of anchors as of a block: it passes over what came later.
type ledger struct {
	txn  *store.Txn
	next uint32 // height of the first block that it does not see
}

// placeOf returns where a transaction is that is an anchor or broke a chain of them; ok is
// false if it is not on the chain.
func (l *ledger) placeOf(txid chainhash.Hash) (p place, ok bool, err error) {
	value, err := store.Read(l.txn, store.AnchorTxKey(txid))
	if err != nil || value == nil {
		return p, false, err
	}
	p, err = decodePlace(value)
	return p, err == nil && p.height < l.next, err
}

// baton is the right to go on with a chain of anchors: output 0 of its last one.
type baton struct {
	chain  chainhash.Hash // txid of the genesis anchor
	number uint32         // of the last anchor in the chain
	anchor protocol.Anchor
}

// baton returns the chain of anchors whose baton output 0 of a transaction is.
func (l *ledger) baton(txid chainhash.Hash) (b baton, err error) {
	p, ok, err := l.placeOf(txid)
	if err == nil && !ok {
		err = fmt.Errorf("%w: the anchor %v, whose output is a baton, is missing", store.ErrDamaged, txid)
	}
	if err != nil {
		return b, err
	}
	t, err := readTx(l.txn, p)
	return baton{t.chain, t.number, t.record}, err
}

// Draft is what the store has of anchors with what a change adds to it. Not safe for concurrent use.
type Draft struct {
	ledger                           // as of the block before the change
	anchors []tx                     // the change's own, and what may have broken a chain; block by block
	numbers map[chainhash.Hash]int32 // of anchors
}

// NewDraft returns a draft for a change that is made of what the store has of the blocks up to
// height next, that one excluded.
func NewDraft(txn *store.Txn, next uint32) *Draft {
	return &Draft{ledger: ledger{txn, next}, numbers: make(map[chainhash.Hash]int32)}
}

func (d *Draft) baton(txid chainhash.Hash) (baton, error) {
	if t := d.own(txid); t != nil {
		stored := t.stored()
		return baton{stored.chain, stored.number, stored.record}, nil
	}
	return d.ledger.baton(txid)
}

// own returns one of the change's own transactions that are an anchor or broke a
// chain of them; nil if it is none.
func (d *Draft) own(txid chainhash.Hash) *tx {
	if n, ok := d.numbers[txid]; ok && d.anchors[n].counts {
		return &d.anchors[n]
	}
	return nil
}

// OwnHeight returns the height of one of the change's own transactions that are an anchor
// or broke a chain of them; ok is false if it is none.
func (d *Draft) OwnHeight(txid chainhash.Hash) (height uint32, ok bool) {
	if t := d.own(txid); t != nil {
		return t.height, true
	}
	return 0, false
}

// HeightOf returns the height of a transaction that is an anchor or broke a
// chain of them; ok is false if it is not on the chain.
func (d *Draft) HeightOf(txid chainhash.Hash) (height uint32, ok bool, err error) {
	if height, ok = d.OwnHeight(txid); ok {
		return height, true, nil
	}
	p, ok, err := d.placeOf(txid)
	return p.height, ok, err
}
