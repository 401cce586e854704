package links

import (
	"encoding/binary"
	"fmt"

	"github.com/keytree-bch/keytree/graph/store"
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

// effectsPerChunk is how many effects of a block share a value, so that one is found by its number. They
// take store.ChunkSize bytes at most.
const effectsPerChunk = store.ChunkSize / maxStoredEffect

// decodeStoredEffects reads the storedEffects of a block up to which there are so many
// actions.
func decodeStoredEffects(b []byte, actions int32) (storedEffects []storedEffect, err error) {
	d := store.Decoder{Rest: b}
	for len(d.Rest) > 0 {
		o, err := readStoredEffect(&d, actions)
		if err != nil {
			return nil, err
		}
		storedEffects = append(storedEffects, o)
	}
	return storedEffects, nil
}

// readStoredEffect reads one of a block up to which there are so many actions.
func readStoredEffect(d *store.Decoder, actions int32) (storedEffect, error) {
	action := func() int32 { return int32(d.Uvarint(uint64(max(0, actions-1)))) }
	o := storedEffect{effect: EffectType(d.Byte()), action: action()}
	switch o.effect {
	case RequestOpened, ActionWaiting, IdentityNamed:
	case LinkFormed, LinkCut:
		o.target, o.id = action(), action()
	case ActionRefused:
		o.reason = Reason(d.Byte())
	case IdentityMerged:
		o.target = action()
	default:
		return o, fmt.Errorf("%w: unknown effect %d", store.ErrDamaged, o.effect)
	}
	if d.Short() {
		return o, d.Finish("list of effects")
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

// Effects lists the effects of the view's block: at most limit, from the one of number first on.
// It holds no more than those, and reads one chunk of those before them, whatever the block has. passed is how
// many come before them: less than first if there are not so many.
func (v *Identities) Effects(first, limit int) (effects []Effect, passed int, err error) {
	if err := v.stillThere(); err != nil {
		return nil, 0, err
	}
	var chunk uint32 // with which to begin; the last one, if there are not so many effects
	if first >= effectsPerChunk {
		if chunk, _, err = store.LastChunk(v.ledger.txn, store.PrefixEffects, v.height, uint32(first/effectsPerChunk)); err != nil {
			return nil, 0, err
		}
	}
	stored := store.NewChunkReader(v.ledger.txn, store.PrefixEffects, v.height)
	stored.SkipTo(chunk)
	passed = int(chunk) * effectsPerChunk
	for len(effects) < limit {
		if left, err := stored.Fill(maxStoredEffect); err != nil || !left {
			return effects, passed, err
		}
		o, err := readStoredEffect(&stored.Decoder, v.ledger.known)
		if err != nil {
			return nil, 0, err
		}
		if passed < first {
			passed++
			continue
		}
		effect, err := effectOf(&v.ledger, &o)
		if err != nil {
			return nil, 0, err
		}
		effects = append(effects, effect)
	}
	return effects, passed, nil
}

// EffectsDiffer says where two lists of effects part, as they are stored, of a block up to which
// the state has the actions.
func (s *State) EffectsDiffer(stored, right []byte) string {
	a, err := decodeStoredEffects(stored, s.actions)
	if err != nil {
		return err.Error()
	}
	b, err := decodeStoredEffects(right, s.actions)
	if err != nil {
		return err.Error()
	}
	for n := range max(len(a), len(b)) {
		switch {
		case n >= len(a):
			return fmt.Sprintf("effect %d should be %+v, there is none", n, b[n])
		case n >= len(b):
			return fmt.Sprintf("effect %d is %+v, there should be none", n, a[n])
		case a[n] != b[n]:
			return fmt.Sprintf("effect %d is %+v, it should be %+v", n, a[n], b[n])
		}
	}
	return "they are encoded otherwise"
}
