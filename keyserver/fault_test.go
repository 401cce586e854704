package keyserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dgraph-io/badger/v4"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
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
				s.writer.commit = func(txn *badger.Txn) error {
					if landed {
						if err := txn.Commit(); err != nil {
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
			if _, err := s.LookupUID(t.Context(), "alice@example.org"); !errors.Is(err, ErrFailed) {
				t.Errorf("a read afterwards: %v", err)
			}
		})
	}
}

// messagesOf returns the messages of an identity.
func messagesOf(t *testing.T, s *Service, identity string) (messages []*uid.Message) {
	t.Helper()
	err := s.view(func(txn *badger.Txn) error {
		for _, position := range positions(txn, identity) {
			m, err := readMessage(txn, identity, position)
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

// All calls that wait become one commit, as far as they fit; nobody is answered
// before it, and its failure is that of all of them.
func TestGroups(t *testing.T) {
	s, _ := newTest(t)
	var (
		waiting []*change
		commits int
		fault   error
		told    int // calls of waiting that had been answered when the group began
	)
	const unit = 1000 // bytes
	w := newWriter(s.db, s.writer.disk, (*badger.Txn).Commit, s.now)
	w.most = weight{w.limit.count, 100*unit + 1}
	w.changes = make(chan *change, maxGroup+10)
	w.state.Store(s.writer.state.Load())
	w.commit = func(txn *badger.Txn) error {
		commits++
		if answered(waiting) > told {
			t.Error("answered before the commit")
		}
		if fault != nil {
			return fault
		}
		return txn.Commit()
	}
	group := func(first *change) *change {
		told = answered(waiting)
		return w.group(first)
	}
	errRefused := errors.New("refused")
	send := func(units int, err error) {
		c := &change{ctx: t.Context(), result: make(chan error, 1), apply: func(tx *tx) error {
			key := tokenKey([32]byte{1})
			tx.set(key, make([]byte, max(0, units*unit-len(key)-writeOverhead)))
			return err
		}}
		waiting = append(waiting, c)
		w.changes <- c
	}
	expect := func(name string, answers ...error) {
		t.Helper()
		for i, want := range answers {
			select {
			case err := <-waiting[i].result:
				if !errors.Is(err, want) {
					t.Errorf("%s: call %d: got %v, want %v", name, i, err, want)
				}
			default:
				t.Errorf("%s: call %d is not answered", name, i)
			}
		}
		if len(w.changes) > 0 {
			t.Errorf("%s: %d wait", name, len(w.changes))
		}
		waiting = nil
	}

	send(1, nil)
	send(1, errRefused)
	send(1, nil)
	if left := group(<-w.changes); left != nil || commits != 1 {
		t.Errorf("%d commits, left %v", commits, left)
	}
	expect("one group", nil, errRefused, nil)

	send(1, errRefused)
	if group(<-w.changes); commits != 1 {
		t.Error("nothing was written, but committed")
	}
	expect("refused", errRefused)

	send(60, nil)
	send(40, nil)
	send(1, nil)
	left := group(<-w.changes)
	if left != waiting[2] || commits != 2 {
		t.Errorf("%d commits, left %v", commits, left)
	}
	if left = group(left); left != nil || commits != 3 {
		t.Errorf("%d commits, left %v", commits, left)
	}
	expect("two groups", nil, nil, nil)

	send(1000, nil) // alone it may be larger
	if group(<-w.changes); commits != 4 {
		t.Errorf("%d commits", commits)
	}
	expect("large", nil)

	send(1, nil)
	send(2000, nil) // no transaction has room for it
	if left = group(<-w.changes); left != waiting[1] || commits != 5 || group(left) != nil || commits != 5 {
		t.Errorf("too large: %d commits, left %v", commits, left)
	}
	expect("too large", nil, ErrTooBig)

	for range maxGroup + 1 {
		send(0, nil)
	}
	if group(<-w.changes); commits != 6 || len(w.changes) != 1 {
		t.Errorf("%d commits, %d wait", commits, len(w.changes))
	}
	group(<-w.changes)
	expect("many", make([]error, maxGroup+1)...)

	space := w.disk.Free
	w.disk.Free = func(string) (uint64, bool, error) { return 0, true, nil }
	send(60, nil)
	send(1, errRefused)
	send(60, nil)
	if left = group(<-w.changes); left != waiting[2] || group(left) != nil || commits != 7 {
		t.Errorf("disk full: %d commits, left %v", commits, left)
	}
	expect("disk full", ErrDiskFull, ErrDiskFull, ErrDiskFull)
	w.disk.Free = space

	fault = errFault
	send(60, nil)
	send(1, errRefused)
	send(60, nil)
	if left := group(<-w.changes); left != nil {
		t.Error("it goes on after a failure")
	}
	expect("failed", ErrFailed, ErrFailed, ErrFailed)
}

// TestWeight: what counts as below Badger's limit fits into one of its transactions,
// whatever the size of the writes, and little more does.
func TestWeight(t *testing.T) {
	s, _ := newTest(t)
	limit := s.writer.limit
	for _, size := range []int{0, 1, 20, 60, 90, 100, 1000, 100_000, 1_000_000} {
		txn := s.db.NewTransaction(true)
		var taken weight
		n := 0
		for ; ; n++ {
			w := &tx{}
			w.set(byHashKey(hashchain.Hash{byte(n), byte(n >> 8), byte(n >> 16)}), make([]byte, size))
			if next := taken.plus(w.weight()); !next.below(limit) {
				break
			} else {
				taken = next
			}
			w.txn = txn
			if err := w.flush(); err != nil {
				t.Fatalf("%d bytes: write %d: %v", size, n+1, err)
			}
		}
		more := 0
		for ; txn.Set([]byte{byte(more), byte(more >> 8)}, make([]byte, size)) == nil; more++ {
		}
		if more > n/10+1 {
			t.Errorf("%d bytes: %d writes are below the limit, and %d more fit", size, n, more)
		}
		txn.Discard()
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
