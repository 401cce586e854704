package anchors

import (
	"encoding/binary"
	"sort"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// EffectType says what an Effect is. Values are part of the canonical encoding, and go on
// from links.EffectType.
type EffectType uint8

// The effects. Each lists its fields in the order of the canonical encoding.
const (
	AnchorAdded EffectType = 8 // Tx, Chain, Position, Head, Root, Author (zero if none), Domain
	ChainBroken EffectType = 9 // Tx, Chain, Break
)

// Effect is a transition of a chain of anchors. Fields that its type does
// not name are zero. Hashes are in internal byte order.
type Effect struct {
	Type   EffectType
	Tx     chainhash.Hash
	Chain  chainhash.Hash    // txid of the genesis anchor
	Anchor protocol.Anchor   // AnchorAdded
	Author *protocol.KeyHash // AnchorAdded; nil: the tx has none
	Break  protocol.Break    // ChainBroken
}

// appendTo appends the canonical encoding (protocol/SPEC.md §9).
func (e *Effect) appendTo(b []byte) []byte {
	b = append(b, byte(e.Type))
	b = append(b, e.Tx[:]...)
	b = append(b, e.Chain[:]...)
	if e.Type == ChainBroken {
		return append(b, byte(e.Break))
	}
	b = binary.LittleEndian.AppendUint64(b, e.Anchor.Position)
	b = append(b, e.Anchor.Head[:]...)
	b = append(b, e.Anchor.Root[:]...)
	var author protocol.KeyHash
	if e.Author != nil {
		author = *e.Author
	}
	b = append(b, author[:]...)
	return append(append(b, byte(len(e.Anchor.Domain))), e.Anchor.Domain...)
}

// effects lists the transitions that a transaction brought about, broken being the
// chains that it broke.
func (t *storedTx) effects(broken []storedBreak) (effects []Effect) {
	if t.isAnchor {
		e := Effect{Type: AnchorAdded, Tx: t.txid, Chain: t.chain, Anchor: t.record}
		if t.hasAuthor {
			e.Author = &t.author
		}
		effects = append(effects, e)
	}
	for _, b := range broken {
		effects = append(effects, Effect{Type: ChainBroken, Tx: t.txid, Chain: b.chain, Break: b.how})
	}
	return effects
}

// AnchorEffects lists the effects of the view's block on chains of anchors: at most limit, from
// the one of number first on. It holds no more than those, whatever the block has; of those before them it reads
// the broken chains, 20 ns each.
func (v *Chains) AnchorEffects(first, limit int) (effects []Effect, err error) {
	number, passed, err := v.transactionOf(first)
	if err != nil {
		return nil, err
	}
	first -= passed
	breaks, err := v.breaksFrom(number)
	for len(effects) < limit && err == nil {
		var txs []storedTx
		if txs, err = v.chunkOf(number); len(txs) <= int(number%TxsPerChunk) {
			break // first is behind the last
		}
		for _, t := range txs[number%TxsPerChunk:] {
			broken, err := breaksBy(breaks, number)
			if err != nil {
				return nil, err
			}
			for _, effect := range t.effects(broken) {
				switch {
				case first > 0:
					first--
				case len(effects) < limit:
					effects = append(effects, effect)
				}
			}
			number++
		}
		if len(txs) < TxsPerChunk {
			break
		}
	}
	return effects, err
}

// chunkOf reads the transactions of the view's block that share a value with the one of a
// number; none if there are none.
func (v *Chains) chunkOf(number uint32) ([]storedTx, error) {
	chunk, err := store.Read(v.ledger.txn, txsKey(place{v.height, number}))
	if err != nil || chunk == nil {
		return nil, err
	}
	return decodeTxs(chunk)
}

// breaksFrom returns a reader of the breaks of the view's block that has come to those by the transaction of a
// number.
func (v *Chains) breaksFrom(number uint32) (*store.ChunkReader, error) {
	r := store.NewChunkReader(v.ledger.txn, store.PrefixBreaks, v.height)
	for {
		tx, more, err := nextBreak(r)
		if err != nil || !more || tx >= number {
			return r, err
		}
		r.Take(storedBreakSize)
	}
}

// transactionOf returns the number of the transaction of the view's block that has its effect of number
// first, and how many effects come before those of that transaction. Transactions without a break have one effect: they
// are anchors.
func (v *Chains) transactionOf(first int) (number uint32, passed int, err error) {
	if first == 0 {
		return 0, 0, nil
	}
	anchors, err := v.anchorsInBlock()
	if err != nil {
		return 0, 0, err
	}
	breaks := store.NewChunkReader(v.ledger.txn, store.PrefixBreaks, v.height)
	for {
		tx, more, err := nextBreak(breaks)
		if err != nil {
			return 0, 0, err
		}
		if !more || first-passed < int(tx-number) {
			return number + uint32(first-passed), first, nil
		}
		number, passed = tx, passed+int(tx-number)
		broken, err := breaksBy(breaks, tx)
		if err != nil {
			return 0, 0, err
		}
		has := len(broken)
		if tx < anchors {
			has++
		}
		if first < passed+has {
			return number, passed, nil
		}
		number, passed = number+1, passed+has
	}
}

// anchorsInBlock counts the anchors of the view's block. They come before the transactions that are none.
func (v *Chains) anchorsInBlock() (uint32, error) {
	var err error
	last := func(chunk int) (txs []storedTx, is bool) { // whether no anchor comes behind the chunk
		txs, readErr := v.chunkOf(uint32(chunk) * TxsPerChunk)
		if readErr != nil {
			err = readErr
		}
		return txs, len(txs) == 0 || !txs[len(txs)-1].isAnchor
	}
	most := 1
	for _, is := last(most); !is; _, is = last(most) {
		most *= 2
	}
	chunk := sort.Search(most, func(i int) bool {
		_, is := last(i)
		return is
	})
	txs, _ := last(chunk)
	anchors := uint32(chunk) * TxsPerChunk
	for i := range txs {
		if txs[i].isAnchor {
			anchors++
		}
	}
	return anchors, err
}
