package keyserver

import (
	"context"
	"iter"
	"sync"

	"github.com/keytree-bch/keytree/keyserver/store"
)

// mostShelved is how many shelves and KeyInits on them there are: at most about 20 MB. What
// is not on disk yet stays beyond that: one shelf for each call that waits.
const mostShelved = 100_000

// shelves hold the KeyInits of keys that were asked for lately, as they are after all that
// was decided, be it on disk or not. In the database Badger steps over every KeyInit that
// was ever removed, until it writes its tables anew, and where something waits to be written
// it sorts all of that first: whoever adds KeyInits and flushes them would have everybody
// wait for the writer, which looks at them for each call.
//
// What is not here is in the database as it is: a shelf leaves only when what has changed it
// last is on disk. Only the writer's goroutine run changes shelves.
type shelves struct {
	mu        sync.Mutex
	of        map[sigKeyHash]shelf // mu
	count     int                  // mu; of shelves and of what is on them
	most      int                  // mostShelved; tests make it small
	forgotten uint64               // mu; the last group that has changed a shelf which left
}

// shelf is the KeyInits of one key.
type shelf struct {
	held  []heldKeyInit // is replaced, never changed
	group uint64        // that has changed it last; 0 if none has since it was read
}

func newShelves() *shelves {
	return &shelves{of: make(map[sigKeyHash]shelf), most: mostShelved}
}

func (s *shelves) get(hash sigKeyHash) (held []heldKeyInit, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found, ok := s.of[hash]
	return found.held, ok
}

// offer puts a shelf that was read from the database when the group seen, at least, was on
// disk, as stored is now. It is not taken if there is one, or if what was read may be older
// than one that left.
func (s *shelves) offer(hash sigKeyHash, held []heldKeyInit, seen, stored uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, here := s.of[hash]; !here && seen >= s.forgotten {
		s.put(hash, shelf{held, 0}, stored)
	}
}

// change puts a shelf as a group changes it.
func (s *shelves) change(hash sigKeyHash, held []heldKeyInit, group, stored uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(hash, shelf{held, group}, stored)
}

// put is for who holds mu. If there is too much then, it takes half of it away, whichever.
func (s *shelves) put(hash sigKeyHash, new shelf, stored uint64) {
	s.take(hash)
	s.of[hash] = new
	s.count += 1 + len(new.held)
	if s.count <= s.most {
		return
	}
	for other, old := range s.of {
		if old.group <= stored && other != hash {
			s.take(other)
			s.forgotten = max(s.forgotten, old.group)
		}
		if s.count <= s.most/2 {
			return
		}
	}
}

// take is for who holds mu.
func (s *shelves) take(hash sigKeyHash) {
	if old, ok := s.of[hash]; ok {
		s.count -= 1 + len(old.held)
		delete(s.of, hash)
	}
}

// refuse takes away what was changed by a group that is not stored. The one before is.
func (s *shelves) refuse(stored uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for hash, shelf := range s.of {
		if shelf.group > stored {
			s.take(hash)
			s.forgotten = stored
		}
	}
}

// shelf returns a key's KeyInits: for the writer's goroutine run as they are after all that
// was decided, for others as they were a moment ago, on disk or about to be.
func (w *writer) shelf(ctx context.Context, hash sigKeyHash) (held []heldKeyInit, err error) {
	if held, ok := w.shelves.get(hash); ok {
		return held, nil
	}
	keep := w.running.Load() // else another server changes what is stored
	seen := w.state.Load().group
	err = w.db.View(ctx, func(view store.Reader) (err error) {
		held, err = readKeyInits(view, hash)
		return err
	})
	if err == nil && keep {
		w.shelves.offer(hash, held, seen, w.state.Load().group)
	}
	return held, err
}

// fetchShelves puts the KeyInits of some keys at hand.
func (w *writer) fetchShelves(ctx context.Context, of iter.Seq[sigKeyHash]) error {
	for hash := range of {
		if _, err := w.shelf(ctx, hash); err != nil {
			return err
		}
	}
	return nil
}
