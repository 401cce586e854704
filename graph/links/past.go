package links

import (
	"context"
	"errors"
	"fmt"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// MaxWork bounds the work of one question that goes from key to key. It is counted in steps: going to
// a key in memory, or looking at a node of the forest, is one; reading a
// record as of a height is recordWork. All of it takes some 5 to 80 ms of processor time.
const MaxWork = 100_000

const recordWork = 20

// ErrWork says that an answer takes more than MaxWork, because too many keys above the one asked
// about are linked otherwise since the block, some 5,000 at least. Ask as of a later block, or of the tip.
var ErrWork = errors.New("too many links have changed since then")

// spend counts steps of the question under way. ErrWork if there are more than MaxWork.
func (v *Identities) spend(steps int) error {
	if v.work += steps; v.work > v.most {
		return fmt.Errorf("%w: as of height %d it takes more than %d steps, ask as of a later block", ErrWork, v.height, v.most)
	}
	return nil
}

// Spent returns how many steps the last question has taken, of those that ErrWork counts.
func (v *Identities) Spent() int { return v.work }

// version reads the version as of the view of the thing with a stem, nil if there is none.
func (v *Identities) version(stem []byte) ([]byte, error) {
	if err := v.spend(recordWork); err != nil {
		return nil, err
	}
	return v.store.Version(stem, v.height)
}

// storedKey returns the record of a key as of the view from the store, an empty one if there is none.
func (v *Identities) storedKey(n int32) (r keyRecord, err error) {
	if err := v.spend(recordWork); err != nil {
		return r, err
	}
	return v.past.record(n)
}

// number returns the number of a key that a record names.
func (v *Identities) number(key protocol.KeyHash) (int32, error) {
	n := v.state.keys.Find(key)
	if n == none {
		return none, fmt.Errorf("%w: key %x stood in an identity, and is in none that is known", store.ErrDamaged, key)
	}
	return n, nil
}

// place is where a key stood in its tree.
type place struct {
	root  int32
	depth uint32
	id    chainhash.Hash // of the tree, zero if it has none
}

// maxKnown bounds Identities.known, which lets many questions of one view share the
// upper part of their ways.
const maxKnown = 1 << 17

// resolvePast says which identity was behind a key. It goes from the key to the next one above it whose link
// came later than the view, all at once: up to there everything was as it is. There the store has
// what was. It goes on from the parent that the key had, up to one that had none.
func (v *Identities) resolvePast(ctx context.Context, key protocol.KeyHash) (Resolution, error) {
	v.work = 0
	s := v.state
	r := Resolution{Key: key, Root: key}
	n := s.keys.Find(key)
	if n == none {
		r.Path = []protocol.KeyHash{key}
		return r, nil
	}
	type stop struct {
		key   int32
		depth uint32 // below which the key asked about was
	}
	var stops []stop
	var top place
	for at := n; ; {
		moved, err := v.movedAbove(at)
		if err != nil {
			return r, err
		}
		r.Depth += uint32(s.forest.Depth(at) - s.forest.Depth(moved))
		for k := at; len(r.Path) < MaxPath; k = s.forest.Parent(k) {
			if r.Path = append(r.Path, s.keys.Key(k)); k == moved {
				break
			}
		}
		if at == n && at != moved {
			parent, accept := s.keys.Key(s.forest.Parent(n)), s.namedBy.Ref(n).tx
			r.Parent, r.Accept = &parent, &accept
		}
		if p, ok := v.known[moved]; ok && len(r.Path) == MaxPath {
			top = p
			break
		}
		record, err := v.storedKey(moved)
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return r, err
		}
		stops = append(stops, stop{moved, r.Depth})
		if !record.hasParent {
			top = place{root: moved, id: record.id.tx}
			break
		}
		if moved == n {
			r.Parent, r.Accept = &record.parent, &record.accept.tx
		}
		if at, err = v.number(record.parent); err != nil {
			return r, err
		}
		r.Depth++
	}
	r.Root, r.ID = s.keys.Key(top.root), top.id
	r.Depth += top.depth
	r.Truncated = r.Depth >= MaxPath
	for _, at := range stops {
		v.remember(at.key, place{top.root, r.Depth - at.depth, top.id})
	}
	return r, nil
}

// Since says which identity is behind a key as of the tip that the view was opened under, and whether that differs from
// what Resolve says, in any field. Of a key on whose way nothing has changed it costs no more than to find that out:
// now is zero then. Else it costs what Resolve does. ErrWork; other errors are the store's or the context's.
func (v *Identities) Since(ctx context.Context, key protocol.KeyHash) (now Resolution, differs bool, err error) {
	if err := v.stillThere(); err != nil {
		return now, false, err
	}
	if moved, err := v.moved(key); err != nil || !moved {
		return now, false, err
	}
	was, err := v.resolvePast(ctx, key)
	if err != nil {
		return now, false, err
	}
	now = v.state.resolve(key)
	return now, !now.Equal(was), nil
}

// moved tells whether a link on the way from a key to its root came later than the view, or the root had a parent as of
// the view, or another identity: else everything was as it is.
func (v *Identities) moved(key protocol.KeyHash) (bool, error) {
	v.work = 0
	s := v.state
	n := s.keys.Find(key)
	if v.tip || n == none {
		return false, nil
	}
	root, err := v.movedAbove(n)
	if err != nil || s.forest.Parent(root) != none {
		return true, err
	}
	if was, ok := v.known[root]; ok {
		return was.root != root || was.id != s.identity(root).tx, nil
	}
	record, err := v.storedKey(root)
	if err != nil || record.hasParent {
		return true, err
	}
	v.remember(root, place{root: root, id: record.id.tx})
	return record.id.tx != s.identity(root).tx, nil
}

// remember keeps where a key stood, unless too much is kept.
func (v *Identities) remember(n int32, was place) {
	if v.known == nil {
		v.known = make(map[int32]place)
	}
	if len(v.known) < maxKnown {
		v.known[n] = was
	}
}

// Turns lists the links because of which the way from a key up to its root is not what it was as of
// the view: those that were on it then and have been cut, and those that have come since, by their
// MLAs. One may be there twice. It lists at most limit of them; more tells whether there are others. Its
// cost is that of Resolve, and as much for the way as it is. ErrWork; other errors are the store's or the context's.
func (v *Identities) Turns(ctx context.Context, key protocol.KeyHash, limit int) (accepts []chainhash.Hash, more bool, err error) {
	if err := v.stillThere(); err != nil {
		return nil, false, err
	}
	v.work = 0
	s := v.state
	n := s.keys.Find(key)
	if n == none {
		return nil, false, nil
	}
	for at, top := n, false; !top; {
		moved, err := v.movedAbove(at)
		if err != nil {
			return nil, false, err
		}
		was, err := v.storedKey(moved)
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return nil, false, err
		}
		if is := s.record(moved); was.hasParent && (!is.hasParent || is.accept != was.accept) {
			accepts = append(accepts, was.accept.tx)
		}
		if top = !was.hasParent; !top {
			if at, err = v.number(was.parent); err != nil {
				return nil, false, err
			}
		}
		if len(accepts) > limit {
			return accepts[:limit], true, nil
		}
	}
	for at := n; at != none; at = s.forest.Parent(at) {
		moved, visited, _ := s.forest.Newer(at, v.height, v.most-v.work)
		if err := v.spend(visited); err != nil {
			return nil, false, err
		}
		if moved == none {
			break
		}
		if len(accepts) == limit {
			return accepts, true, nil
		}
		accepts = append(accepts, s.namedBy.Ref(moved).tx)
		at = moved
	}
	return accepts, false, nil
}

// movedAbove returns the nearest key, the given one first, then upwards, whose link came later than the view; the root
// if there is none.
func (v *Identities) movedAbove(n int32) (int32, error) {
	moved, visited, _ := v.state.forest.Newer(n, v.height, v.most-v.work)
	if err := v.spend(visited); err != nil {
		return none, err
	}
	if moved == none {
		return v.state.forest.Root(n), nil
	}
	return moved, nil
}
