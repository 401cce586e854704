package anchors

import (
	"encoding/binary"

	"github.com/gcash/bchd/chaincfg/chainhash"

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
		effects = append(effects, t.added())
	}
	for i := range broken {
		effects = append(effects, t.broke(&broken[i]))
	}
	return effects
}

// added is what an anchor brought about by being one.
func (t *storedTx) added() Effect {
	e := Effect{Type: AnchorAdded, Tx: t.txid, Chain: t.chain, Anchor: t.record}
	if t.hasAuthor {
		e.Author = &t.author
	}
	return e
}

// broke is what became of a chain that the transaction broke.
func (t *storedTx) broke(b *storedBreak) Effect {
	return Effect{Type: ChainBroken, Tx: t.txid, Chain: b.chain, Break: b.how}
}
