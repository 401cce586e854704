package keyserver

import (
	"errors"
	"testing"

	"github.com/dgraph-io/badger/v4"
)

// TestSnapshots: a snapshot is there for as long as somebody reads it, and no longer; who
// comes later reads the one after it.
func TestSnapshots(t *testing.T) {
	s, _ := newTest(t)
	var of snapshots
	if err := of.read(func(*badger.Txn) error { return nil }); !errors.Is(err, ErrClosed) {
		t.Errorf("before the first: %v", err)
	}
	first, second := s.db.NewTransaction(false), s.db.NewTransaction(false)
	ended := func(txn *badger.Txn) bool {
		_, err := txn.Get([]byte{prefixHead})
		return errors.Is(err, badger.ErrDiscardedTxn)
	}
	of.replace(first)
	want := errors.New("what was read")
	err := of.read(func(txn *badger.Txn) error {
		of.replace(second)
		err := of.read(func(later *badger.Txn) error {
			if txn != first || later != second {
				t.Error("not the snapshots that there were")
			}
			return nil
		})
		if err != nil || ended(first) {
			t.Errorf("ended while it was read: %v", err)
		}
		return want
	})
	if err != want || !ended(first) || ended(second) {
		t.Errorf("%v; after it was read: %v, %v", err, ended(first), ended(second))
	}
	of.replace(nil)
	if !ended(second) {
		t.Error("one that nobody reads goes on")
	}
}

// TestReadersReadSnapshots: readers begin no transaction of their own, which would wait for a
// commit.
func TestReadersReadSnapshots(t *testing.T) {
	s, _ := newTest(t)
	before := s.db.NewTransaction(false)
	mustCreate(t, s, message(s, "alice@example.org", newKey(1)))
	if found, err := s.LookupUID(t.Context(), "alice@example.org"); len(found) != 1 || err != nil {
		t.Errorf("%v, %v", found, err)
	}
	s.writer.stable.replace(before)
	if found, err := s.LookupUID(t.Context(), "alice@example.org"); len(found) != 0 || err != nil {
		t.Errorf("in the snapshot from before: %v, %v", found, err)
	}
}
