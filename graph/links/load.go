package links

import (
	"context"
	"encoding/binary"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/keytree-bch/keytree/graph/forest"
	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/graph/txids"
	"github.com/keytree-bch/keytree/protocol"
)

// Room is what of a state may be held.
type Room struct {
	Keys    int // in links
	Records int // of the state root
	Filters int // bytes of filters of txids
}

// Load derives a state that was new from the store. It believes what that says: whether the rules
// give the same is for package fsck to see. ErrMemory if there is no room for the keys, or for the records of the
// state root, if the state keeps them.
func (s *State) Load(txn *store.Txn, room Room) error {
	group, ctx := errgroup.WithContext(context.Background())
	var index txids.Index
	var actions ledger
	haveIndex, haveActions := make(chan struct{}), make(chan struct{}) // closed once there are
	group.Go(func() (err error) {
		if index, err = txids.Load(txn, room.Filters); err == nil {
			close(haveIndex)
		}
		return err
	})
	group.Go(func() error {
		if err := s.loadKeys(txn, room.Keys); err != nil {
			return err
		}
		if s.records != nil { // they follow from nothing else, and hardly ever ask for an action
			group.Go(func() error {
				return s.loadRecords(txn, room.Records, func(ref int32) (protocol.MapKey, error) {
					if err := wait(ctx, haveActions); err != nil {
						return protocol.MapKey{}, err
					}
					return s.keyByRef(&actions)(ref)
				})
			})
		}
		if err := s.loadActions(txn); err != nil {
			return err
		}
		actions = s.ledger(txn, never)
		close(haveActions)
		if err := wait(ctx, haveIndex); err != nil {
			return err
		}
		if err := s.SetIndex(txn, index); err != nil {
			return err
		}
		return s.loadWaiting(txn)
	})
	return group.Wait()
}

// wait waits for what another has to do first, until a context ends.
func wait(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// LoadIndex reads the index of txids from the store, with filters of so many bytes at most, and gives it to the state.
func (s *State) LoadIndex(txn *store.Txn, filters int) error {
	index, err := txids.Load(txn, filters)
	if err != nil {
		return err
	}
	return s.SetIndex(txn, index)
}

// SetIndex gives the state an index that was loaded, and adds the state's last actions, which are in none of its
// runs. It may know of later actions, which the state passes over. store.ErrDamaged if the last blocks have other actions
// than the state says.
func (s *State) SetIndex(txn *store.Txn, index txids.Index) error {
	s.index = index
	from := search(s.blocks.Len(), func(i int32) bool { return s.blocks.Ref(i).first > s.index.Flushed() })
	for i := max(0, from-1); i < s.blocks.Len(); i++ {
		var hashes []uint32
		var mentions []txids.Mention
		first := s.blocks.At(i).first
		err := eachAction(txn, s.blocks.At(i).height, func(a *storedAction) error {
			n := first + int32(len(hashes))
			of := a.hashes(&s.index)
			hashes = append(hashes, of[0])
			for _, hash := range of[1:] {
				mentions = append(mentions, txids.Mention{Hash: hash, Action: n})
			}
			return nil
		})
		if err != nil {
			return err
		}
		end := s.actions
		if i+1 < s.blocks.Len() {
			end = s.blocks.Ref(i + 1).first
		}
		if int(end-first) != len(hashes) {
			return fmt.Errorf("%w: block %d has %d actions, the state says %d", store.ErrDamaged, s.blocks.Ref(i).height, len(hashes), end-first)
		}
		s.index.Add(first, hashes, mentions)
	}
	return nil
}

// ForgetLater lets the index know of no later actions than the state, which is that of the tip.
func (s *State) ForgetLater() { s.index.Truncate(s.actions) }

// Hashes returns a function that returns the hashes by which the action of a number is found in the
// index; store.ErrDamaged if it cannot be read. It is not safe for concurrent use.
func (s *State) Hashes(txn *store.Txn) func(number int32) ([]uint32, error) {
	l := s.ledger(txn, never)
	return func(number int32) ([]uint32, error) {
		a, err := l.action(number)
		if err != nil {
			return nil, err
		}
		return a.hashes(&s.index), nil
	}
}

// loadKeys derives where the keys stand from all versions of their records: the newest of each counts.
func (s *State) loadKeys(txn *store.Txn, most int) error {
	var parents []forest.Link // by key; the forest is built of them in the end
	it := store.NewReader(txn, []byte{store.PrefixKey})
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		d := store.Decoder{Rest: it.Item().Key()[1:]}
		height := d.Uint32()
		d.Uint32()
		err := d.Finish("key of a chunk of versions of keys")
		if err == nil {
			err = store.Visit(it.Item(), func(chunk []byte) error {
				return keyVersionsIn(chunk, func(v *keyVersion) (err error) {
					parents, err = s.loadVersion(v, height, parents)
					return err
				})
			})
		}
		if err != nil {
			return err
		}
		if int(s.keys.Len()) > most {
			return fmt.Errorf("%w: there is room for %d keys in links, there are more", store.ErrMemory, most)
		}
	}
	for n := range s.keys.Len() {
		p := s.places.Ref(n)
		switch {
		case p.version == none:
			return fmt.Errorf("%w: there is no record of key %x, another refers to it", store.ErrDamaged, s.keys.Key(n))
		case p.next != none:
			s.places.Edit(p.next).previous = n
		case parents[n].Parent != none:
			s.places.Edit(parents[n].Parent).last = n
		}
	}
	if !s.forest.Build(parents) {
		return fmt.Errorf("%w: the links in force form a cycle", store.ErrDamaged)
	}
	return nil
}

// loadVersion puts a key where the next of all versions says, but for what follows from those of other
// keys. parents are those of all keys so far, by their numbers.
func (s *State) loadVersion(v *keyVersion, height uint32, parents []forest.Link) ([]forest.Link, error) {
	number := func(has bool, key protocol.KeyHash) int32 {
		if !has {
			return none
		}
		return s.place(key)
	}
	n := s.place(v.key)
	parent, first, next := number(v.hasParent, v.parent), number(v.hasFirst, v.first), number(v.hasNext, v.next)
	p := s.places.Edit(n)
	if v.previous != p.version {
		return parents, fmt.Errorf("%w: a version of key %x comes after version %d, it says after %d", store.ErrDamaged, v.key, p.version, v.previous)
	}
	p.request, p.first, p.next = none, first, next
	p.version, p.nth = s.versions.add(height), v.nth
	if s.nameKey(n, v.id, v.since); v.hasParent {
		s.nameKey(n, v.accept, v.since)
		p.request = v.request
	}
	for int(s.keys.Len()) > len(parents) {
		parents = append(parents, forest.Link{Parent: none})
	}
	parents[n] = forest.Link{Parent: parent, Since: v.since}
	return parents, nil
}

// loadActions counts the actions, and finds the end of each key's chain of those that
// mention it.
func (s *State) loadActions(txn *store.Txn) error {
	it := store.NewReader(txn, []byte{store.PrefixActions})
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		key := it.Item().Key()
		if len(key) != 9 {
			return fmt.Errorf("%w: the key of a chunk of actions has the wrong length", store.ErrDamaged)
		}
		if height := binary.BigEndian.Uint32(key[1:]); s.blocks.Len() == 0 || s.blocks.At(s.blocks.Len()-1).height != height {
			s.blocks.Append(blockSpan{height, s.actions})
		}
		if err := store.Visit(it.Item(), s.loadChunk); err != nil {
			return err
		}
	}
	return nil
}

// loadChunk takes note of the next actions.
func (s *State) loadChunk(chunk []byte) error {
	d := store.Decoder{Rest: chunk}
	for len(d.Rest) > 0 {
		a, err := decodeAction(d.Take(d.Length()))
		if err != nil {
			return err
		}
		keys, count := a.keys()
		for i, key := range keys[:count] {
			if n := s.keys.Find(key); n != none && a.mentions[i].chained() {
				p := s.places.Edit(n)
				p.mentioned, p.since = s.actions, a.mentions[i].since
			}
		}
		s.actions++
	}
	return d.Finish("chunk of actions")
}

// loadWaiting finds what somebody waits for: those who have waited, but for those who
// were decided since.
func (s *State) loadWaiting(txn *store.Txn) error {
	decided := make([]uint64, (int(s.actions)+63)/64) // bits, by action
	err := store.EachKey(txn, []byte{store.PrefixFate}, nil, func(key []byte) error {
		d := store.Decoder{Rest: key[1:]}
		n := d.Action()
		if err := d.Finish("key of a late fate"); err != nil || n >= s.actions {
			return fmt.Errorf("%w: what became of action %d, there are %d", store.ErrDamaged, n, s.actions)
		}
		decided[n/64] |= 1 << (n % 64)
		return nil
	})
	if err != nil {
		return err
	}
	return store.EachKey(txn, []byte{store.PrefixWaiting}, nil, func(key []byte) error {
		d := store.Decoder{Rest: key[1:]}
		w := wanted{by: protocol.Kind(d.Byte()), what: protocol.Reference(d.Hash())}
		n := d.Action()
		if err := d.Finish("key of an action that waits"); err != nil || n >= s.actions {
			return fmt.Errorf("%w: action %d waits, there are %d", store.ErrDamaged, n, s.actions)
		}
		if decided[n/64]&(1<<(n%64)) == 0 {
			s.waiting.add(w)
		}
		return nil
	})
}
