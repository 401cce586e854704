package badger

import (
	"errors"
	"testing"

	"github.com/dgraph-io/badger/v4"

	"github.com/keytree-bch/keytree/keyserver/store"
)

// TestSnapshots: a snapshot is there for as long as somebody reads it, and no longer; who
// comes later reads the one after it.
func TestSnapshots(t *testing.T) {
	f := openFolder(t)
	var of snapshots
	if err := of.read(func(*badger.Txn) error { return nil }); !errors.Is(err, store.ErrClosed) {
		t.Errorf("before the first: %v", err)
	}
	first, second := f.db.NewTransaction(false), f.db.NewTransaction(false)
	ended := func(txn *badger.Txn) bool {
		_, err := txn.Get([]byte("a"))
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
	f := openFolder(t)
	before := f.db.NewTransaction(false)
	if err := f.Commit([]store.Write{{Key: []byte("a")}}); err != nil {
		t.Fatal(err)
	}
	count := func() (n uint64) {
		err := f.View(t.Context(), func(r store.Reader) (err error) {
			n, err = store.Count(r, []byte("a"))
			return err
		})
		if err != nil {
			t.Error(err)
		}
		return n
	}
	if n := count(); n != 1 {
		t.Errorf("%d keys after a commit, want 1", n)
	}
	f.snapshots.replace(before)
	if n := count(); n != 0 {
		t.Errorf("%d keys in the snapshot from before, want 0", n)
	}
}

func openFolder(t *testing.T) *folder {
	s, err := newPlace(t).Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s.(*folder)
}
