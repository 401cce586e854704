package graph

import (
	"encoding/binary"
	"fmt"

	"github.com/keytree-bch/keytree/protocol"
)

// storedEffect is an effect as it is stored: by number, a tenth as long as its
// canonical encoding, which follows from it and from the actions.
type storedEffect struct {
	effect EffectType
	action int32  // whose effect it is; IdentityNamed, IdentityMerged: that names the identity
	reason Reason // ActionRefused
	target int32  // LinkFormed, LinkCut: the action that it refers to; IdentityMerged: that names the surviving identity
	id     int32  // LinkFormed, LinkCut: as Effect.ID
	root   int32  // IdentityNamed: key
}

func (o *storedEffect) appendTo(b []byte) []byte {
	b = append(b, byte(o.effect))
	b = binary.AppendUvarint(b, uint64(o.action))
	switch o.effect {
	case LinkFormed, LinkCut:
		b = binary.AppendUvarint(b, uint64(o.target))
		b = binary.AppendUvarint(b, uint64(o.id))
	case ActionRefused:
		b = append(b, byte(o.reason))
	case IdentityNamed:
		b = binary.AppendUvarint(b, uint64(o.root))
	case IdentityMerged:
		b = binary.AppendUvarint(b, uint64(o.target))
	}
	return b
}

// maxStoredEffect is how many bytes a storedEffect has at most: a type and three numbers.
const maxStoredEffect = 1 + 3*binary.MaxVarintLen32

// decodeStoredEffects reads the storedEffects of a block up to which there are so many
// actions and keys.
func decodeStoredEffects(b []byte, actions, keys int32) (storedEffects []storedEffect, err error) {
	d := decoder{rest: b}
	for len(d.rest) > 0 {
		o, err := d.storedEffect(actions, keys)
		if err != nil {
			return nil, err
		}
		storedEffects = append(storedEffects, o)
	}
	return storedEffects, nil
}

// storedEffect reads one of a block up to which there are so many actions and keys.
func (d *decoder) storedEffect(actions, keys int32) (storedEffect, error) {
	action := func() int32 { return int32(d.uvarint(uint64(max(0, actions-1)))) }
	o := storedEffect{effect: EffectType(d.byte()), action: action()}
	switch o.effect {
	case RequestOpened, ActionWaiting:
	case LinkFormed, LinkCut:
		o.target, o.id = action(), action()
	case ActionRefused:
		o.reason = Reason(d.byte())
	case IdentityNamed:
		o.root = int32(d.uvarint(uint64(max(0, keys-1))))
	case IdentityMerged:
		o.target = action()
	default:
		return o, fmt.Errorf("%w: unknown effect %d", ErrDamaged, o.effect)
	}
	if d.short {
		return o, d.finish("list of effects")
	}
	return o, nil
}

// effectOf returns what an storedEffect says. reference returns what an action that
// waits refers to.
func (s *state) effectOf(o *storedEffect, reference func(action int32) (protocol.Reference, error)) (e Effect, err error) {
	a := s.actions.Ref(o.action)
	e.Type = o.effect
	switch o.effect {
	case IdentityNamed:
		e.ID, e.Root = s.txids.Key(o.action), s.keys.Key(o.root)
		return e, nil
	case IdentityMerged:
		e.ID, e.Into = s.txids.Key(o.action), s.txids.Key(o.target)
		return e, nil
	}
	e.Tx = s.txids.Key(o.action)
	switch o.effect {
	case RequestOpened:
		e.Child, e.Parent = s.keys.Key(a.child), s.keys.Key(a.parent)
	case LinkFormed, LinkCut:
		t := s.actions.Ref(o.target)
		e.Ref, e.ID = s.txids.Key(o.target), s.txids.Key(o.id)
		e.Child, e.Parent = s.keys.Key(t.child), s.keys.Key(t.parent)
	default:
		e.Kind, e.Reason = a.kind, o.reason
		if a.author != none {
			e.Author = s.keys.Key(a.author)
		}
		if o.effect == ActionWaiting {
			e.Reference, err = reference(o.action)
		}
	}
	return e, err
}
