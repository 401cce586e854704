package keyserver

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keytree-bch/keytree/keyserver/store"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

var errFault = errors.New("injected fault")

// TestWriteFails makes each kind of call's write fail, before and after it has
// landed. The service says so and serves nothing more; opened anew, the call has
// happened as a whole or not at all.
func TestWriteFails(t *testing.T) {
	inMemory(t)
	for _, landed := range []bool{false, true} {
		for name, call := range map[string]func(*testing.T, *Service) error{
			"CreateUID": func(t *testing.T, s *Service) error {
				_, err := s.CreateUID(t.Context(), message(s, "bert@example.org", newKey(2)), "")
				return err
			},
			"UpdateUID": func(t *testing.T, s *Service) error {
				first := messagesOf(t, s, "alice@example.org")[0]
				_, err := s.UpdateUID(t.Context(), next(first, newKey(1), newKey(3)), "")
				return err
			},
			"AddKeyInit": func(t *testing.T, s *Service) error {
				_, err := s.AddKeyInit(t.Context(), public(newKey(1)), keyInits(t, s, newKey(1), 1), free(1))
				return err
			},
			"FetchKeyInit": func(t *testing.T, s *Service) error {
				_, err := s.FetchKeyInit(t.Context(), uid.SigKeyHash(public(newKey(1))), "")
				return err
			},
			"RotateKey": func(t *testing.T, s *Service) error {
				_, err := s.RotateKey(t.Context())
				return err
			},
		} {
			t.Run(fmt.Sprintf("%s landed %v", name, landed), func(t *testing.T) {
				opt := testOptions(t.TempDir(), newClock())
				s := openTest(t, opt)
				mustCreate(t, s, message(s, "alice@example.org", newKey(1)))
				addAll(t, s, newKey(1), keyInits(t, s, newKey(1), 1)...)
				before := s.Chain().Size
				s.writer.commit = func(writes []store.Write) error {
					if landed {
						if err := s.db.Commit(writes); err != nil {
							return err
						}
					}
					return errFault
				}
				if err := call(t, s); !errors.Is(err, ErrFailed) || !errors.Is(err, errFault) {
					t.Errorf("got %v", err)
				}
				select {
				case <-s.Failed():
				default:
					t.Error("it goes on")
				}
				if err := s.Err(); !errors.Is(err, errFault) {
					t.Errorf("Err: %v", err)
				}
				if _, _, err := s.LastEntry(t.Context()); !errors.Is(err, ErrFailed) {
					t.Errorf("read: %v", err)
				}
				if _, err := s.FetchKeyInit(t.Context(), uid.SigKeyHash(public(newKey(9))), ""); !errors.Is(err, ErrFailed) {
					t.Errorf("write: %v", err)
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}

				s = openTest(t, opt)
				mustCheck(t, s)
				appends := name == "CreateUID" || name == "UpdateUID" || name == "RotateKey"
				if grown := s.Chain().Size > before; grown != (landed && appends) {
					t.Errorf("entry appended: %v", grown)
				}
				_, err := s.FetchKeyInit(t.Context(), uid.SigKeyHash(public(newKey(1))), "")
				if gone := errors.Is(err, ErrUnknown); gone != (landed && name == "FetchKeyInit") {
					t.Errorf("KeyInit: %v", err)
				}
				grow(t, s, 2)
				if _, err := s.RotateKey(t.Context()); err != nil {
					t.Error(err)
				}
				mustCheck(t, s)
			})
		}
	}
}

// TestDamageFound takes an entry away under a service that is open. Whichever call
// finds that is the last that is answered.
func TestDamageFound(t *testing.T) {
	inMemory(t)
	for name, call := range map[string]func(*Service, *uid.Message) error{
		"read":  func(s *Service, _ *uid.Message) error { _, _, err := s.LastEntry(t.Context()); return err },
		"check": func(s *Service, _ *uid.Message) error { return s.Check(t.Context()) },
		"write": func(s *Service, m *uid.Message) error { _, err := s.CreateUID(t.Context(), m, ""); return err },
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := newTest(t)
			mustCreate(t, s, message(s, "alice@example.org", newKey(1)))
			last := message(s, "carl@example.org", newKey(3))
			// By the writer, which looks only at what it wrote itself since a group began.
			if err := s.writer.do(t.Context(), func(t *tx) error { t.delete(entryKey(1)); return nil }); err != nil {
				t.Fatal(err)
			}
			if err := call(s, last); !errors.Is(err, ErrDamaged) {
				t.Errorf("got %v", err)
			}
			select {
			case <-s.Failed():
			default:
				t.Error("it goes on")
			}
			if err := s.Err(); !errors.Is(err, ErrFailed) || !errors.Is(err, ErrDamaged) {
				t.Errorf("Err: %v", err)
			}
			if _, err := s.CreateUID(t.Context(), last, ""); !errors.Is(err, ErrFailed) {
				t.Errorf("a write afterwards: %v", err)
			}
			if _, _, err := s.LookupUID(t.Context(), "alice@example.org", math.MaxUint64); !errors.Is(err, ErrFailed) {
				t.Errorf("a read afterwards: %v", err)
			}
		})
	}
}

// messagesOf returns the messages of an identity.
func messagesOf(t *testing.T, s *Service, identity string) (messages []*uid.Message) {
	t.Helper()
	err := s.view(t.Context(), func(view store.Reader) error {
		all, err := positions(view, identity)
		if err != nil {
			return err
		}
		for _, position := range all {
			m, err := readMessage(view, identity, position)
			if err != nil {
				return err
			}
			messages = append(messages, m)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return messages
}

// groupsRig is a writer of its own on the database of a service, whose commits wait until
// they are let go.
type groupsRig struct {
	*writer
	t       *testing.T
	begun   chan int   // gets how many calls have been answered when a commit begins
	release chan error // ends that commit with this error, before it lands; nil lets it land

	mu      sync.Mutex
	waiting []*change // mu; those that were sent since the last expect
}

func newGroupsRig(t *testing.T) *groupsRig {
	s, _ := newTest(t)
	r := &groupsRig{t: t, begun: make(chan int), release: make(chan error)}
	r.writer = newWriter(s.db, nil, s.now)
	r.limit = store.Weight{Writes: 10_000, Bytes: 1200 * unit}
	r.most = store.Weight{Writes: r.limit.Writes, Bytes: 100 * unit}
	r.state.Store(s.writer.state.Load())
	r.commit = func(writes []store.Write) error {
		r.mu.Lock()
		n := answered(r.waiting)
		r.mu.Unlock()
		r.begun <- n
		if err := <-r.release; err != nil {
			return err
		}
		return s.db.Commit(writes)
	}
	r.start()
	t.Cleanup(r.stop)
	return r
}

const unit = 1000 // bytes that a call of a groupsRig writes, at most so many

// send hands the writer a call that writes so many units, and returns when it was decided.
func (r *groupsRig) send(units int, refusal error) {
	r.t.Helper()
	r.sendChange(func(tx *tx) error {
		if units > 0 {
			key := tokenKey([32]byte{1})
			tx.set(key, make([]byte, units*unit-len(key)-store.WriteOverhead))
		}
		return refusal
	})
}

func (r *groupsRig) sendChange(apply func(*tx) error) {
	decided := make(chan struct{}, 2)
	c := &change{ctx: r.t.Context(), result: make(chan error, 1), apply: func(tx *tx) error {
		defer func() { decided <- struct{}{} }()
		return apply(tx)
	}}
	r.mu.Lock()
	r.waiting = append(r.waiting, c)
	r.mu.Unlock()
	r.changes <- c
	<-decided
}

// expect waits for the answers of all calls that were sent since the last time.
func (r *groupsRig) expect(answers ...error) {
	r.t.Helper()
	for i, want := range answers {
		if err := <-r.waiting[i].result; !errors.Is(err, want) {
			r.t.Errorf("call %d: got %v, want %v", i, err, want)
		}
	}
	if len(answers) != len(r.waiting) {
		r.t.Errorf("%d calls, %d answers", len(r.waiting), len(answers))
	}
	r.mu.Lock()
	r.waiting = nil
	r.mu.Unlock()
}

// commits waits until a commit begins, when so many calls have been answered, and ends it.
func (r *groupsRig) commits(answered int, err error) {
	r.t.Helper()
	if got := <-r.begun; got != answered {
		r.t.Errorf("%d calls are answered when a commit begins, want %d", got, answered)
	}
	r.release <- err
}

var errRefused = errors.New("refused")

// TestGroups: what comes while a group is stored becomes the next one, as far as it fits;
// nobody is answered before his group is on disk, refusals included.
func TestGroups(t *testing.T) {
	r := newGroupsRig(t)
	r.send(1, nil)
	if n := <-r.begun; n != 0 {
		t.Errorf("%d are answered", n)
	}
	r.send(1, nil)
	r.send(1, errRefused)
	r.send(0, nil)
	r.release <- nil
	r.commits(1, nil)
	r.expect(nil, nil, errRefused, nil)

	r.send(1, errRefused) // nothing is written
	r.expect(errRefused)

	// A group of several takes no more than most.
	r.send(1, nil)
	<-r.begun
	r.send(60, nil)
	r.send(40, nil)
	r.send(1, nil) // of the next
	r.release <- nil
	r.commits(1, nil)
	r.commits(3, nil)
	r.expect(nil, nil, nil, nil)

	r.send(1000, nil) // alone it may be larger
	r.commits(0, nil)
	r.expect(nil)

	// No transaction has room for it, whatever else is written.
	r.send(1, nil)
	<-r.begun
	r.send(2000, nil)
	r.release <- nil
	r.expect(nil, ErrTooBig)

	// Two that fit alone, but not both into what is read at once.
	r.send(700, nil)
	<-r.begun
	r.send(700, nil)
	r.release <- nil
	r.commits(1, nil)
	r.expect(nil, nil)

	r.send(1, nil)
	<-r.begun
	for range maxGroup {
		r.send(1, errRefused)
	}
	r.release <- nil // without it nobody is taken any more
	r.send(1, nil)
	r.commits(1+maxGroup, nil)
	r.expect(append(append([]error{nil}, slices.Repeat([]error{errRefused}, maxGroup)...), nil)...)
}

// TestGroupsDiskFull: a group for which there is no room is refused as a whole, before
// anything is decided on top of it, and the one before is not touched by that.
func TestGroupsDiskFull(t *testing.T) {
	r := newGroupsRig(t)
	var full atomic.Bool
	r.room = func(uint64) error {
		if full.Load() {
			return ErrDiskFull
		}
		return nil
	}
	r.send(1, nil)
	<-r.begun
	r.send(60, nil)
	r.send(1, errRefused)
	full.Store(true)
	r.release <- nil
	r.expect(nil, ErrDiskFull, ErrDiskFull)
	r.send(1, nil)
	r.expect(ErrDiskFull)
	full.Store(false)
	r.send(1, nil)
	r.commits(0, nil)
	r.expect(nil)
}

// TestGroupsRefused: with a commit that stores nothing, for want of room or of the database, is
// refused what was decided on top of it, and the next calls are decided without.
func TestGroupsRefused(t *testing.T) {
	r := newGroupsRig(t)
	for _, why := range []error{ErrDiskFull, store.ErrUnavailable} {
		r.send(1, nil)
		<-r.begun
		r.send(60, nil)
		r.send(1, errRefused)
		r.send(60, nil) // of the next
		r.release <- fmt.Errorf("no commit: %w", why)
		r.commits(3, nil) // what was left over is decided alone
		r.expect(why, why, why, nil)
	}
	key := tokenKey([32]byte{2})
	has := func(want bool) {
		t.Helper()
		r.sendChange(func(tx *tx) error {
			if _, ok, err := tx.view.Get(key); err != nil || ok != want {
				t.Errorf("the key of a call that was refused is there: %v, %v", ok, err)
			}
			tx.set(key, nil)
			return nil
		})
	}
	has(false)
	<-r.begun
	r.release <- ErrDiskFull
	r.expect(ErrDiskFull)
	has(false)
	r.commits(0, nil)
	r.expect(nil)
	r.send(0, nil)
	r.expect(nil)
}

// TestReadAhead has calls that contradict each other read ahead at once, before any of them is
// decided: each is decided on what was decided since, and none asks the store again.
func TestReadAhead(t *testing.T) {
	s, _ := newTest(t)
	w := newWriter(s.db, s.db.Commit, s.now)
	w.far = true
	w.state.Store(s.writer.state.Load())
	w.start()
	t.Cleanup(w.stop)
	var decided, asked atomic.Int64
	for n := range byte(20) {
		id := tokenKey([32]byte{n})
		var calling sync.WaitGroup
		var spent atomic.Int64
		for range 16 {
			calling.Go(func() {
				err := w.do(t.Context(), func(tx *tx) error {
					read, isOverlay := tx.view.(overlay)
					if isOverlay {
						decided.Add(1)
						if _, isAhead := read.disk.(*ahead); !isAhead {
							asked.Add(1)
						}
					}
					_, there, err := tx.view.Get(id)
					if there {
						return ErrSpent
					}
					tx.set(id, nil)
					return err
				})
				if err == nil {
					spent.Add(1)
				} else if !errors.Is(err, ErrSpent) {
					t.Error(err)
				}
			})
		}
		calling.Wait()
		if got := spent.Load(); got != 1 {
			t.Errorf("one token was taken %d times", got)
		}
	}
	if asked.Load()*2 > decided.Load() {
		t.Errorf("%d of %d decisions have asked the store", asked.Load(), decided.Load())
	}
	// What is not remembered is not taken for known, nor what was refused.
	var p past
	for n := range uint64(mostPast + 1) {
		p.add(&group{state: state{group: n + 1}, writes: []write{{}}})
	}
	for group, want := range map[uint64]int{0: -1, 1: mostPast, 2: mostPast - 1, mostPast + 1: 0} {
		if over, ok := p.since(&ahead{group: group}); ok != (want >= 0) || ok && len(over) != want {
			t.Errorf("since group %d: %d groups, %v, want %d", group, len(over), ok, want)
		}
	}
	// A call that reads more than it did ahead asks the store.
	first := true
	if err := w.do(t.Context(), func(tx *tx) error {
		n := byte(1)
		if first {
			n, first = 0, false
		}
		_, there, err := tx.view.Get(tokenKey([32]byte{n}))
		if err == nil && !there {
			t.Errorf("token %d is not there", n)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

// TestGroupsFail: with a commit fails what was decided on top of it, and nothing is
// committed any more.
func TestGroupsFail(t *testing.T) {
	r := newGroupsRig(t)
	r.send(1, nil)
	<-r.begun
	r.send(60, nil)
	r.send(1, errRefused)
	r.send(60, nil)
	r.release <- errFault
	r.expect(ErrFailed, ErrFailed, ErrFailed, ErrFailed)
	if err := r.do(t.Context(), func(*tx) error { return nil }); !errors.Is(err, ErrFailed) {
		t.Errorf("afterwards: %v", err)
	}
}

// TestGroupsSee: a call is decided on what the calls before it have written and removed,
// whether that is on disk, or being stored, or waits with it.
func TestGroupsSee(t *testing.T) {
	r := newGroupsRig(t)
	id := func(n int) []byte { return tokenKey([32]byte{byte(n)}) }
	const calls = 60
	for n := range calls { // each adds its key, and removes that of the last but one
		r.sendChange(func(tx *tx) error {
			for before := range n {
				_, ok, err := tx.view.Get(id(before))
				if err != nil || ok != (before >= n-2) {
					t.Errorf("call %d sees the key of call %d: %v, %v", n, before, ok, err)
				}
			}
			tx.set(id(n), nil)
			if n >= 2 {
				tx.delete(id(n - 2))
			}
			return nil
		})
		if n%7 == 3 {
			<-r.begun
			r.release <- nil
		}
	}
	go func() {
		for {
			select {
			case <-r.begun:
				r.release <- nil
			case <-t.Context().Done():
				return
			}
		}
	}()
	r.expect(make([]error, calls)...)
}

// TestFullGroups has 64 writers at once whose groups are as full as they can be, with
// calls of every size at which something begins not to fit any more. What does not fit
// alone is refused, all else is stored.
func TestFullGroups(t *testing.T) {
	aboutFolders(t) // and how little fits into Badger's
	inMemory(t)
	opt := testOptions(t.TempDir(), newClock())
	opt.memTable = 128 << 10
	s := openTest(t, opt)
	limit := s.writer.limit
	const writers = 64
	round := byte(0)
	for _, size := range []int{0, 1000} { // of a value: writes are the limit, or bytes
		most := limit.Writes
		if size > 0 {
			one := store.Write{Key: tokenKey([32]byte{}), Value: make([]byte, size)}
			most = limit.Bytes / one.Weight().Bytes
		}
		var sizes []int64
		for _, around := range []int64{most / writers, most / 4, most / 3, most / 2, most} {
			for d := int64(-1); d <= 1; d++ {
				if n := around + d; n > 0 && !slices.Contains(sizes, n) {
					sizes = append(sizes, n)
				}
			}
		}
		for _, n := range sizes {
			round++
			var writing sync.WaitGroup
			for writer := range byte(writers) {
				writing.Go(func() {
					err := s.writer.do(t.Context(), func(tx *tx) error {
						for i := range n {
							tx.set(tokenKey([32]byte{round, writer, byte(i), byte(i >> 8)}), make([]byte, size))
						}
						return nil
					})
					if tooBig := n > most; errors.Is(err, ErrTooBig) != tooBig || !tooBig && err != nil {
						t.Errorf("%d writes of %d bytes, %d fit: %v", n, size, most, err)
					}
				})
			}
			writing.Wait()
			stored := count(t, s, prefixToken, round)
			if want := uint64(n) * writers; n > most && stored != 0 || n <= most && stored != want {
				t.Errorf("%d writes of %d bytes: %d are stored, want %d", n, size, stored, want)
			}
			if err := s.Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func answered(calls []*change) (n int) {
	for _, c := range calls {
		n += len(c.result)
	}
	return n
}

// A call that is given up while it waits is not made.
func TestGivenUp(t *testing.T) {
	s, _ := newTest(t)
	m := message(s, "alice@example.org", newKey(1))
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for range 20 {
		if _, err := s.CreateUID(ended, m, ""); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	if size := s.Chain().Size; size != 1 {
		t.Errorf("%d entries", size)
	}
	checkReplyOf(t, s, m, mustCreate(t, s, m))
}

// A table that gets damaged under a running service is found, and the service answers
// nothing any more.
func TestDamageWhileOpen(t *testing.T) {
	aboutFolders(t)
	s, _ := newTest(t)
	opt := s.opt
	mustCreate(t, s, message(s, "alice@example.org", newKey(1)))
	if err := s.Close(); err != nil { // what is in logs becomes a table
		t.Fatal(err)
	}
	s, err := Open(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.inspect(t.Context())
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	tables, err := filepath.Glob(filepath.Join(opt.Dir, "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatalf("tables %q, %v", tables, err)
	}
	content, err := os.ReadFile(tables[0])
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)/3] ^= 1
	file, err := os.OpenFile(tables[0], os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteAt(content, 0); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	s.inspect(t.Context())
	select {
	case <-s.Failed():
	default:
		t.Fatal("the service goes on")
	}
	if err := s.Err(); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), filepath.Base(tables[0])) {
		t.Errorf("it failed for %v", err)
	}
	if _, err := s.Capabilities(t.Context()); !errors.Is(err, ErrFailed) {
		t.Errorf("asked then: %v", err)
	}
}
