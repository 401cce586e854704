package graph

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// What followings take of memory, about, in bytes.
const (
	followingMemory  = 600 // one, with what a note has of it
	followedMemory   = 80  // a key of one
	followedIDMemory = 110 // an identity of one
	// followedShare is which part of what the graph may take followings may have together.
	followedShare = 4
	// notesMemory is what older notes take at most.
	notesMemory = 4 << 20
)

// followers are all followings of a graph, and what the last steps have changed of them. That is found once for each step,
// after it was published, by Graph.watch: so no step and no question waits for it.
type followers struct {
	mu sync.Mutex

	// mu guards the rest, and the numbers and lists of the followings.

	watch   *links.Watch // of base; nil while nobody follows
	base    *snapshot    // up to which the notes go; held
	pending *pending     // the last of base's that the notes have

	all     []*Following // by number; nil: not in use
	unused  []int32      // these numbers
	keys    roll[protocol.KeyHash]
	ids     roll[chainhash.Hash] // by the identity that the one followed has merged into as of base, else itself
	steps   uint64               // that were looked at, or are
	notes   []*note              // the oldest first
	changed chan struct{}        // closed when there are other notes
	ended   bool                 // there will be no more

	bytes atomic.Int64  // that followings take; changed with mu held
	come  chan struct{} // has room for one: somebody has begun to follow
}

func newFollowers() *followers {
	f := &followers{changed: make(chan struct{}), come: make(chan struct{}, 1)}
	f.reset()
	return f
}

// reset drops all that is held for followings, when there are none. Called with mu held.
func (f *followers) reset() {
	f.watch, f.base, f.pending = nil, nil, nil
	f.all, f.unused, f.notes = nil, nil, nil
	f.keys, f.ids = newRoll[protocol.KeyHash](), newRoll[chainhash.Hash]()
}

// room returns ErrMemory if there is none for so many bytes more. Called with mu held.
func (f *followers) room(g *Graph, more int64) error {
	m := g.Memory()
	if most := min(m.Most/followedShare, m.Most-m.all()+m.Followed); m.Followed+more > most {
		const kib = 1 << 10
		return fmt.Errorf("%w: what is to be followed needs %d KiB, what is followed has %d KiB of the %d KiB that it may: follow less, or allow the process more than %d MiB",
			store.ErrMemory, more/kib, m.Followed/kib, max(0, most)/kib, g.opt.Memory>>20)
	}
	return nil
}

// add begins a following.
func (f *followers) add(g *Graph, following *Following) error {
	for {
		base, err := f.begin(g)
		if err != nil {
			return err
		}
		merged, err := base.survivorsNow(following.ids)
		f.mu.Lock()
		base.release()
		switch {
		case err != nil:
		case f.ended:
			err = errClosed
		case f.base != base: // there was a step meanwhile, or the others have left
			f.mu.Unlock()
			continue
		default:
			if err = f.room(g, following.bytes); err == nil {
				f.enter(following, merged)
			}
		}
		f.leave()
		f.mu.Unlock()
		return err
	}
}

// errClosed says that a graph does not answer any more.
var errClosed = errors.New("graph is closed")

// begin returns the snapshot up to which the notes go, to be released; the current one if there are none.
func (f *followers) begin(g *Graph) (*snapshot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return nil, errClosed
	}
	if f.base == nil {
		base, err := g.hold()
		if err != nil {
			return nil, err
		}
		f.base, f.watch = base, links.NewWatch(base.state.Links)
	}
	f.base.hold()
	return f.base, nil
}

// enter lists a following, whose identities have merged into some. Called with mu held.
func (f *followers) enter(following *Following, merged []chainhash.Hash) {
	f.bytes.Add(following.bytes)
	following.since = f.steps
	if n := len(f.unused); n > 0 {
		following.number = f.unused[n-1]
		f.unused = f.unused[:n-1]
		f.all[following.number] = following
	} else {
		following.number = int32(len(f.all))
		f.all = append(f.all, following)
	}
	following.entries = make([]int32, 0, len(following.keys)+len(following.ids))
	for i, key := range following.keys {
		entry, first := f.keys.add(key, following.number, i)
		if first {
			f.watch.Add(key)
		}
		following.entries = append(following.entries, entry)
	}
	for i := range following.ids {
		entry, _ := f.ids.add(merged[i], following.number, i)
		following.entries = append(following.entries, entry)
	}
	select {
	case f.come <- struct{}{}:
	default:
	}
}

// remove ends a following.
func (f *followers) remove(following *Following) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if following.number == none {
		return
	}
	for i, key := range following.keys {
		if f.keys.remove(following.entries[i]) {
			f.watch.Remove(key)
		}
	}
	for _, entry := range following.entries[len(following.keys):] {
		f.ids.remove(entry)
	}
	for _, n := range f.notes {
		delete(n.hits, following)
	}
	f.all[following.number] = nil
	f.unused = append(f.unused, following.number)
	f.bytes.Add(-following.bytes)
	following.number, following.entries = none, nil
	f.leave()
}

// leave drops all that is held for followings if nobody follows. Called with mu held.
func (f *followers) leave() {
	if len(f.unused) == len(f.all) && f.base != nil {
		f.base.release()
		f.reset()
	}
}

// end lets there be no more notes.
func (f *followers) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	close(f.changed)
	if f.base != nil {
		f.base.release()
		f.base = nil
	}
}

// relist brings the identities that are followed under those that they have merged into as of a snapshot, once a
// step has touched some. Called with mu held.
func (f *followers) relist(s *snapshot, names []chainhash.Hash) error {
	for _, name := range names {
		var entries []int32
		var ids []chainhash.Hash
		for number, e := range f.ids.of(name) {
			entries, ids = append(entries, number), append(ids, f.all[e.following].ids[e.at])
		}
		merged, err := s.survivorsNow(ids)
		if err != nil {
			return err
		}
		for i, number := range entries {
			if merged[i] != name {
				f.ids.delist(number)
				f.ids.enlist(merged[i], number)
			}
		}
	}
	return nil
}

// survivors returns, for each identity, the one that it has merged into as of a height of the snapshot's chain, else
// itself.
func (s *snapshot) survivors(ids []chainhash.Hash, height uint32) ([]chainhash.Hash, error) {
	into := slices.Clone(ids)
	it := store.NewIterators(s.txn)
	defer it.Close()
	view := links.NewIdentities(s.state.Links, it, height, s.tip.Height, func() error { return nil })
	for i, id := range ids {
		if i > 0 && id == ids[i-1] {
			into[i] = into[i-1]
			continue
		}
		switch identity, err := view.Identity(id); {
		case errors.Is(err, store.ErrNotFound):
		case err != nil:
			return nil, err
		case identity.MergedInto != nil:
			into[i] = *identity.MergedInto
		}
	}
	return into, nil
}

// survivorsNow is survivors as of the tip.
func (s *snapshot) survivorsNow(ids []chainhash.Hash) ([]chainhash.Hash, error) {
	if s.tip == nil || len(ids) == 0 {
		return ids, nil
	}
	return s.survivors(ids, s.tip.Height)
}
