package anchors

import (
	"fmt"
	"math"
	"sort"

	"github.com/keytree-bch/keytree/graph/store"
)

// AnchorEffects lists the effects of the view's block on chains of anchors: at most limit, from
// the one of number first on. It holds no more than those, whatever the block has. To find the first it reads two
// records for each bit of how many anchors the block has, and of how many chains it broke; and then one for each 16
// transactions and for each 1,700 broken chains.
func (v *Chains) AnchorEffects(first, limit int) (effects []Effect, err error) {
	b := blockEffects{txn: v.ledger.txn, height: v.height}
	if err := b.count(); err != nil {
		return nil, err
	}
	anchor, broken, err := b.find(first)
	for err == nil && len(effects) < limit {
		var next storedBreak
		if broken < b.breaks {
			next, err = b.breakAt(broken)
		}
		var t *storedTx
		switch {
		case err != nil:
		case anchor < b.anchors && (broken >= b.breaks || anchor <= int(next.tx)):
			if t, err = b.tx(uint32(anchor)); err == nil {
				effects = append(effects, t.added())
			}
			anchor++
		case broken < b.breaks:
			if t, err = b.tx(next.tx); err == nil {
				effects = append(effects, t.broke(&next))
			}
			broken++
		default:
			return effects, nil
		}
	}
	if err != nil {
		return nil, err
	}
	return effects, nil
}

// blockEffects finds the effects of a block by their numbers. They are one for each anchor, and one for each chain
// that was broken, behind the anchors up to the transaction that broke it. It holds a chunk of the transactions, and
// one of the breaks. One goroutine uses it.
type blockEffects struct {
	txn    *store.Txn
	height uint32

	anchors int // of the block; they come before the transactions that are none
	breaks  int // chains that the block's transactions broke

	txs    []storedTx // of a chunk; none before the first
	from   uint32     // the number of the first of them
	list   []byte     // a chunk of the breaks; none before the first
	listed uint32     // the number of that chunk
}

// count counts the anchors and the breaks.
func (b *blockEffects) count() error {
	var err error
	last := func(chunk int) bool { // whether no anchor comes behind the chunk
		if err == nil {
			err = b.readTxs(uint32(chunk) * TxsPerChunk)
		}
		return err != nil || len(b.txs) == 0 || !b.txs[len(b.txs)-1].isAnchor
	}
	most := 1
	for !last(most) {
		most *= 2
	}
	chunk := sort.Search(most, last)
	if last(chunk); len(b.txs) == 0 && chunk > 0 { // the last anchor is the last of all transactions
		last(chunk - 1)
	}
	if err != nil {
		return err
	}
	b.anchors = int(b.from)
	for i := range b.txs {
		if b.txs[i].isAnchor {
			b.anchors++
		}
	}
	end, any, err := store.LastChunk(b.txn, store.PrefixBreaks, b.height, math.MaxUint32)
	if err != nil || !any {
		return err
	}
	if err := b.readBreaks(end); err != nil {
		return err
	}
	size := int(end)*store.ChunkSize + len(b.list)
	if b.breaks = size / storedBreakSize; size%storedBreakSize != 0 {
		return fmt.Errorf("%w: a list of broken chains has the wrong length", store.ErrDamaged)
	}
	return nil
}

// find returns how many effects of each kind come before the one of a number.
func (b *blockEffects) find(number int) (anchors, breaks int, err error) {
	breaks = sort.Search(b.breaks, func(n int) bool {
		broken, readErr := b.breakAt(n)
		if readErr != nil {
			err = readErr
		}
		return n+min(int(broken.tx)+1, b.anchors) >= number
	})
	return number - breaks, breaks, err
}

// tx returns the transaction of a number, in the order in which they were applied.
func (b *blockEffects) tx(number uint32) (*storedTx, error) {
	if len(b.txs) == 0 || number-number%TxsPerChunk != b.from {
		if err := b.readTxs(number); err != nil {
			return nil, err
		}
	}
	n := int(number % TxsPerChunk)
	if n >= len(b.txs) {
		return nil, fmt.Errorf("%w: block %d lacks transaction %d of its anchors", store.ErrDamaged, b.height, number)
	}
	return &b.txs[n], nil
}

// readTxs reads the transactions that share a value with the one of a number; none if there are none.
func (b *blockEffects) readTxs(number uint32) error {
	chunk, err := store.Read(b.txn, txsKey(place{b.height, number}))
	if err != nil {
		return err
	}
	b.from = number - number%TxsPerChunk
	b.txs, err = decodeTxs(chunk)
	return err
}

// breakAt returns the break of a number. Each has the same size, and chunks do not end where breaks do.
func (b *blockEffects) breakAt(number int) (storedBreak, error) {
	var space [storedBreakSize]byte
	part := space[:0]
	for len(part) < storedBreakSize {
		at := number*storedBreakSize + len(part)
		if chunk := uint32(at / store.ChunkSize); len(b.list) == 0 || chunk != b.listed {
			if err := b.readBreaks(chunk); err != nil {
				return storedBreak{}, err
			}
		}
		at %= store.ChunkSize
		if at >= len(b.list) {
			return storedBreak{}, fmt.Errorf("%w: block %d lacks break %d of a chain of anchors", store.ErrDamaged, b.height, number)
		}
		part = append(part, b.list[at:min(len(b.list), at+storedBreakSize-len(part))]...)
	}
	return decodeBreak(part)
}

// readBreaks reads a chunk of the breaks.
func (b *blockEffects) readBreaks(chunk uint32) (err error) {
	b.listed = chunk
	b.list, err = store.Read(b.txn, store.ChunkKey(store.PrefixBreaks, b.height, chunk))
	return err
}
