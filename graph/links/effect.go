package links

import (
	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
)

// EffectType says what an Effect is. Values are part of the canonical encoding.
type EffectType uint8

// The effects: the transitions of protocol/SPEC.md §3 and §5. Each lists its fields in the order of
// the canonical encoding.
const (
	RequestOpened  EffectType = 1 // Tx (MLR), Child, Parent
	LinkFormed     EffectType = 2 // Tx (MLA), Ref (MLR), Child, Parent, ID of the joined tree
	LinkCut        EffectType = 3 // Tx (MCR), Ref (MLA), Child, Parent, ID that the trunk keeps
	ActionRefused  EffectType = 4 // Tx, Kind, Reason, Author (zero if none)
	ActionWaiting  EffectType = 5 // Tx, Kind, Author, Reference (as pushed)
	IdentityNamed  EffectType = 6 // ID, Root
	IdentityMerged EffectType = 7 // ID, Into
	// 8 and 9 are those of anchors (anchors.EffectType).
)

// Effect is one transition. Fields that its type does not name are zero.
// Hashes are in internal byte order, Reference as pushed.
type Effect struct {
	Type      EffectType
	Kind      protocol.Kind
	Reason    Reason
	Tx        chainhash.Hash
	Ref       chainhash.Hash
	Child     protocol.KeyHash
	Parent    protocol.KeyHash
	Author    protocol.KeyHash
	Reference protocol.Reference
	ID        chainhash.Hash
	Into      chainhash.Hash
	Root      protocol.KeyHash
}

// Outcome is what became of an action of some kind: RequestOpened, LinkFormed, LinkCut,
// ActionRefused or ActionWaiting.
type Outcome struct {
	Kind protocol.Kind
	Type EffectType
}

// Tally counts outcomes. One that waited counts again when it is decided.
type Tally map[Outcome]uint64

// Outcomes lists all that there are.
func Outcomes() (all []Outcome) {
	for _, kind := range []protocol.Kind{protocol.MLR, protocol.MLA, protocol.MCR} {
		all = append(all, Outcome{kind, doneBy(kind)}, Outcome{kind, ActionRefused})
		if kind != protocol.MLR { // which refers to nothing
			all = append(all, Outcome{kind, ActionWaiting})
		}
	}
	return all
}

// doneBy is the effect of an action that is not refused.
func doneBy(kind protocol.Kind) EffectType {
	switch kind {
	case protocol.MLR:
		return RequestOpened
	case protocol.MLA:
		return LinkFormed
	}
	return LinkCut
}

func (t *Tally) add(e *Effect) {
	o := Outcome{e.Kind, e.Type}
	switch e.Type {
	case RequestOpened:
		o.Kind = protocol.MLR
	case LinkFormed:
		o.Kind = protocol.MLA
	case LinkCut:
		o.Kind = protocol.MCR
	case ActionRefused, ActionWaiting:
	default: // not of an action
		return
	}
	if *t == nil {
		*t = make(Tally)
	}
	(*t)[o]++
}

// appendTo appends the canonical encoding (protocol/SPEC.md §9).
func (e *Effect) appendTo(b []byte) []byte {
	b = append(b, byte(e.Type))
	switch e.Type {
	case RequestOpened:
		b = append(b, e.Tx[:]...)
		b = append(b, e.Child[:]...)
		b = append(b, e.Parent[:]...)
	case LinkFormed, LinkCut:
		b = append(b, e.Tx[:]...)
		b = append(b, e.Ref[:]...)
		b = append(b, e.Child[:]...)
		b = append(b, e.Parent[:]...)
		b = append(b, e.ID[:]...)
	case ActionRefused:
		b = append(b, e.Tx[:]...)
		b = append(b, byte(e.Kind), byte(e.Reason))
		b = append(b, e.Author[:]...)
	case ActionWaiting:
		b = append(b, e.Tx[:]...)
		b = append(b, byte(e.Kind))
		b = append(b, e.Author[:]...)
		b = append(b, e.Reference[:]...)
	case IdentityNamed:
		b = append(b, e.ID[:]...)
		b = append(b, e.Root[:]...)
	case IdentityMerged:
		b = append(b, e.ID[:]...)
		b = append(b, e.Into[:]...)
	}
	return b
}
