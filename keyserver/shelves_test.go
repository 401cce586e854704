package keyserver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/keytree-bch/keytree/keyserver/keyinit"
	"github.com/keytree-bch/keytree/keyserver/store"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// limitShelves leaves so much room on a service's shelves.
func limitShelves(s *Service, most int) {
	s.writer.shelves.mu.Lock()
	defer s.writer.shelves.mu.Unlock()
	s.writer.shelves.most = most
}

// checkShelves holds the shelves of a service that nobody calls against what is on disk. What
// has expired at a time it does not look at: at its start, a service sweeps that away itself.
func checkShelves(s *Service, now uint64) error {
	w := s.writer.shelves
	w.mu.Lock()
	defer w.mu.Unlock()
	count := 0
	for hash, shelf := range w.of {
		count += 1 + len(shelf.held)
		var stored []heldKeyInit
		err := s.db.View(context.Background(), func(view store.Reader) (err error) {
			stored, err = readKeyInits(view, hash)
			return err
		})
		if err != nil {
			return err
		}
		order := func(a, b heldKeyInit) int { return slices.Compare(a.digest[:], b.digest[:]) }
		expired := func(h heldKeyInit) bool { return h.NotAfter <= now }
		held := slices.DeleteFunc(slices.Clone(shelf.held), expired)
		stored = slices.DeleteFunc(stored, expired)
		slices.SortFunc(held, order)
		slices.SortFunc(stored, order)
		if !slices.Equal(held, stored) {
			return fmt.Errorf("the shelf of %x has %d KeyInits, the database %d others", hash[:4], len(held), len(stored))
		}
	}
	if count != w.count {
		return fmt.Errorf("%d are counted, %d are there", w.count, count)
	}
	return nil
}

// TestPropertyShelves has groups decided, stored and refused while somebody reads what is on
// disk and offers it later, with room for little. What is on a shelf, or else on disk, is always
// what was decided last.
func TestPropertyShelves(t *testing.T) {
	type version map[byte]int // of each key's shelf: how many KeyInits there are on it
	hash := func(k byte) sigKeyHash { return sigKeyHash{k} }
	rapid.Check(t, func(t *rapid.T) {
		s := newShelves()
		s.most = rapid.IntRange(1, 30).Draw(t, "most")
		decided, disk, undecided := version{}, version{}, version{}
		var stored, group uint64 = 0, 1 // group is being decided; the one before may wait to be stored
		type reading struct {
			key  byte
			held int
			seen uint64
		}
		var readings []reading
		var waiting version // what the group before has decided, nil if it is stored
		copied := func(v version) version {
			c := version{}
			for k, n := range v {
				c[k] = n
			}
			return c
		}
		aKey := func() byte { return byte(rapid.IntRange(0, 5).Draw(t, "key")) }
		known := func(k byte) int { // as writer.shelf does for the writer
			held, ok := s.get(hash(k))
			if !ok {
				held = make([]heldKeyInit, disk[k])
				s.offer(hash(k), held, stored, stored)
			}
			return len(held)
		}
		t.Repeat(map[string]func(*rapid.T){
			"change": func(t *rapid.T) {
				k := aKey()
				n := known(k) + rapid.IntRange(-known(k), 5).Draw(t, "more")
				s.change(hash(k), make([]heldKeyInit, n), group, stored)
				decided[k] = n
			},
			"pass": func(t *rapid.T) {
				if waiting != nil {
					t.Skip("the one before is being stored")
				}
				waiting = copied(decided)
				undecided = waiting
				group++
			},
			"store": func(t *rapid.T) {
				if waiting == nil {
					t.Skip("nothing waits")
				}
				disk, waiting, stored = waiting, nil, group-1
			},
			"refuse": func(t *rapid.T) {
				if waiting != nil {
					t.Skip("the one before is being stored")
				}
				decided = copied(undecided)
				s.refuse(stored)
			},
			"read": func(t *rapid.T) {
				k := aKey()
				readings = append(readings, reading{k, disk[k], stored})
			},
			"offer": func(t *rapid.T) {
				if len(readings) == 0 {
					t.Skip("nothing was read")
				}
				i := rapid.IntRange(0, len(readings)-1).Draw(t, "reading")
				r := readings[i]
				readings = slices.Delete(readings, i, i+1)
				s.offer(hash(r.key), make([]heldKeyInit, r.held), r.seen, stored)
			},
			"": func(t *rapid.T) {
				for k := range byte(6) {
					held, ok := s.get(hash(k))
					if n := len(held); ok && n != decided[k] || !ok && disk[k] != decided[k] {
						t.Fatalf("key %d: %d are on its shelf (%v), %d on disk, %d were decided", k, n, ok, disk[k], decided[k])
					}
				}
			},
		})
	})
}

// TestShelvesUnderLoad has many callers add, fetch, flush and sweep the KeyInits of a few keys,
// with room on the shelves for little, on a disk that is full now and then. Nothing is handed
// out twice, and in the end the shelves have what is stored.
func TestShelvesUnderLoad(t *testing.T) {
	inMemory(t)
	c := newClock()
	s := openTest(t, testOptions(t.TempDir(), c))
	limitShelves(s, 20)
	var asked atomic.Uint64
	s.writer.room = func(uint64) error {
		if asked.Add(1)%4 == 0 {
			return ErrDiskFull
		}
		return nil
	}
	again := func(call func() error) error {
		err := ErrDiskFull
		for errors.Is(err, ErrDiskFull) {
			err = call()
		}
		return err
	}
	const keys, callers, calls = 4, 16, 40
	for k := range uint64(keys) {
		m := message(s, fmt.Sprintf("n%s@example.org", letters(k)), newKey(k))
		if err := again(func() error { _, err := s.CreateUID(t.Context(), m, ""); return err }); err != nil {
			t.Fatal(err)
		}
	}
	var (
		calling sync.WaitGroup
		mu      sync.Mutex
		got     = make(map[string]int) // mu
	)
	for caller := range uint64(callers) {
		calling.Go(func() {
			random := rand.New(rand.NewPCG(caller, 1))
			for range calls {
				key := newKey(random.Uint64N(keys))
				err := again(func() (err error) {
					switch random.IntN(8) {
					case 0, 1:
						_, err = s.AddKeyInit(t.Context(), public(key), keyInits(t, s, key, 3), free(3))
					case 2:
						short := keyInit(t, s, key, random.Uint64(), time.Minute, false)
						_, err = s.AddKeyInit(t.Context(), public(key), []*keyinit.KeyInit{short}, free(1))
					case 3:
						nonce := s.now() - random.Uint64N(20)
						err = s.FlushKeyInit(t.Context(), public(key), nonce, keyinit.SignFlush(nonce, key))
					case 4:
						c.advance(time.Second)
						err = s.forgetExpired(t.Context())
					case 5:
						_, err = s.FetchFallback(t.Context(), uid.SigKeyHash(public(key)))
					default:
						var k []byte
						if k, err = s.FetchKeyInit(t.Context(), uid.SigKeyHash(public(key)), ""); err == nil {
							mu.Lock()
							got[string(k)]++
							mu.Unlock()
						}
					}
					return err
				})
				if err != nil && !errors.Is(err, ErrUnknown) && !errors.Is(err, ErrRate) && !errors.Is(err, uid.ErrExpired) {
					t.Error(err)
				}
			}
		})
	}
	calling.Wait()
	for k, n := range got {
		if n != 1 {
			t.Errorf("handed out %d times: %.80s", n, k)
		}
	}
	if len(got) == 0 {
		t.Error("nothing was handed out")
	}
	if err := checkShelves(s, 0); err != nil {
		t.Error(err)
	}
	mustCheck(t, s)
}

// TestSweepPieces has more expire than is removed in one transaction, of more keys than are
// looked at for one.
func TestSweepPieces(t *testing.T) {
	s, c := newTest(t)
	var commits atomic.Int32
	s.writer.commit = func(writes []store.Write) error { commits.Add(1); return s.db.Commit(writes) }
	const keys = forgetKeys + 5
	for k := range uint64(keys) {
		mustCreate(t, s, message(s, fmt.Sprintf("n%s@example.org", letters(k)), newKey(k)))
		addAll(t, s, newKey(k), keyInit(t, s, newKey(k), k, time.Minute, false))
	}
	for n := range uint64(forgetAtOnce/MaxKeyInitsPerCall + 1) { // more than are removed at once, of two keys
		addAll(t, s, newKey(n%2), keyInits(t, s, newKey(n%2), MaxKeyInitsPerCall)...)
	}
	flushed := newKey(2)
	addAll(t, s, flushed, keyInits(t, s, flushed, 3)...)
	if err := s.FlushKeyInit(t.Context(), public(flushed), s.now(), keyinit.SignFlush(s.now(), flushed)); err != nil {
		t.Fatal(err)
	}
	left := func(prefix byte) int { return int(count(t, s, prefix)) }
	for _, step := range []struct {
		after      time.Duration
		kept, used int
		pieces     int32
	}{
		{0, keys - 1 + forgetAtOnce + MaxKeyInitsPerCall, 4, 0},
		{2 * time.Minute, forgetAtOnce + MaxKeyInitsPerCall, 3, 2 + 1},
		{90 * day, 0, 0, 2 + 1},
	} {
		c.advance(step.after)
		commits.Store(0)
		if err := s.forgetExpired(t.Context()); err != nil {
			t.Fatal(err)
		}
		if i, y := left(prefixKeyInit), left(prefixExpiry); i != step.kept || y != step.kept {
			t.Errorf("%v later: %d KeyInits and %d dates of expiry are left, want %d", step.after, i, y, step.kept)
		}
		if n := left(prefixUsed); n != step.used {
			t.Errorf("%v later: %d used ones are remembered, want %d", step.after, n, step.used)
		}
		if n := commits.Load(); n != step.pieces {
			t.Errorf("%v later: removed in %d pieces, want %d", step.after, n, step.pieces)
		}
		if err := checkShelves(s, 0); err != nil {
			t.Error(err)
		}
	}
	mustCheck(t, s)
}
