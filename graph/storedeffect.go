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
	case IdentityMerged:
		b = binary.AppendUvarint(b, uint64(o.target))
	}
	return b
}

// maxStoredEffect is how many bytes a storedEffect has at most: a type and three numbers.
const maxStoredEffect = 1 + 3*binary.MaxVarintLen32

// decodeStoredEffects reads the storedEffects of a block up to which there are so many
// actions.
func decodeStoredEffects(b []byte, actions int32) (storedEffects []storedEffect, err error) {
	d := decoder{rest: b}
	for len(d.rest) > 0 {
		o, err := d.storedEffect(actions)
		if err != nil {
			return nil, err
		}
		storedEffects = append(storedEffects, o)
	}
	return storedEffects, nil
}

// storedEffect reads one of a block up to which there are so many actions.
func (d *decoder) storedEffect(actions int32) (storedEffect, error) {
	action := func() int32 { return int32(d.uvarint(uint64(max(0, actions-1)))) }
	o := storedEffect{effect: EffectType(d.byte()), action: action()}
	switch o.effect {
	case RequestOpened, ActionWaiting, IdentityNamed:
	case LinkFormed, LinkCut:
		o.target, o.id = action(), action()
	case ActionRefused:
		o.reason = Reason(d.byte())
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

// effectOf returns what an effect says.
func effectOf(b book, o *storedEffect) (e Effect, err error) {
	e.Type = o.effect
	a, err := b.action(o.action)
	if err != nil {
		return e, err
	}
	switch o.effect {
	case IdentityNamed:
		e.ID = a.txid
		e.Root, err = namedRoot(b, o.action, &a)
		return e, err
	case IdentityMerged:
		into, err := b.action(o.target)
		e.ID, e.Into = a.txid, into.txid
		return e, err
	}
	e.Tx = a.txid
	switch o.effect {
	case RequestOpened:
		e.Child, e.Parent = a.child, a.parent
	case LinkFormed, LinkCut:
		target, err := b.action(o.target)
		if err != nil {
			return e, err
		}
		id, err := b.action(o.id)
		if err != nil {
			return e, err
		}
		of, err := fateOf(b, o.target, &target)
		if err != nil {
			return e, err
		}
		about, err := aboutOf(b, &target, &of)
		e.Ref, e.ID, e.Child, e.Parent = target.txid, id.txid, about.child, about.parent
		return e, err
	case ActionRefused, ActionWaiting:
		e.Kind, e.Reason, e.Author = a.kind, o.reason, a.author
		if o.effect == ActionWaiting {
			e.Reference = a.reference
		}
	}
	return e, nil
}

// namedRoot returns the root of the identity that an action named: a request names that
// of its parent, which was in none; a revoke that of the child that it cut off.
func namedRoot(b book, n int32, a *storedAction) (protocol.KeyHash, error) {
	if a.kind == protocol.MLR {
		return a.parent, nil
	}
	o, err := fateOf(b, n, a)
	if err != nil {
		return protocol.KeyHash{}, err
	}
	about, err := aboutOf(b, a, &o)
	return about.child, err
}
