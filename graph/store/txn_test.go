package store

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/dgraph-io/badger/v4"
)

// TestTxnOver reads random records with the random writes of a change over them, which
// set, replace and delete: it reads what there would be if they had been written.
func TestTxnOver(t *testing.T) {
	db, err := badger.Open(badger.DefaultOptions("").WithInMemory(true).WithLogger(nil))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	random := rand.New(rand.NewPCG(1, 2))
	key := func() string { return fmt.Sprintf("%c%02d", 'a'+random.IntN(3), random.IntN(40)) }
	written := make(map[string]string)
	for n := range 60 {
		written[key()] = fmt.Sprint("under ", n)
	}
	written["b"] = ""
	if err := db.Update(func(txn *badger.Txn) error {
		for k, v := range written {
			if err := txn.Set([]byte(k), []byte(v)); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	under := NewTxn(db.NewTransaction(false))
	defer under.Discard()
	for range 200 {
		want, change := maps.Clone(written), make(map[string]Entry)
		for n := range random.IntN(60) {
			k := key()
			entry := Entry{[]byte(k), fmt.Appendf(nil, "over %d", n)}
			want[k] = string(entry.Value)
			if random.IntN(3) == 0 {
				entry.Value = nil
				delete(want, k)
			}
			change[k] = entry
		}
		txn := under.Over(slices.Collect(maps.Values(change)))
		for _, prefix := range []string{"", "a", "b", "b1", "c39", "d"} {
			var keys []string
			for k := range want {
				if bytes.HasPrefix([]byte(k), []byte(prefix)) {
					keys = append(keys, k)
				}
			}
			slices.Sort(keys)
			wantKeys(t, txn, prefix, prefix, keys, want)
			for range 5 {
				from := max(key(), prefix)
				n, _ := slices.BinarySearch(keys, from)
				wantKeys(t, txn, prefix, from, keys[n:], want)
				if bytes.HasPrefix([]byte(from), []byte(prefix)) {
					wantBefore(t, txn, prefix, from, keys[:n])
				}
			}
		}
		for range 20 {
			k := key()
			value, err := Read(txn, []byte(k))
			if v, ok := want[k]; err != nil || string(value) != v || (value != nil) != ok {
				t.Fatalf("Read(%s): %q, %v, want %q, %t", k, value, err, v, ok)
			}
		}
	}
	if value, err := Read(under.Over(nil), []byte("b")); err != nil || value == nil || len(value) > 0 {
		t.Fatalf("an empty value: %v, %v", value, err)
	}
}

// wantKeys goes through all keys with a prefix, from one on.
func wantKeys(t *testing.T, txn *Txn, prefix, from string, keys []string, values map[string]string) {
	t.Helper()
	it := NewIterator(txn, []byte(prefix))
	defer it.Close()
	n := 0
	for it.Seek([]byte(from)); it.Valid(); it.Next() {
		k, v := string(it.Item().KeyCopy()), ""
		if err := Visit(it.Item(), func(value []byte) error { v = string(value); return nil }); err != nil {
			t.Fatal(err)
		}
		if n == len(keys) || k != keys[n] || v != values[k] || !it.ValidForPrefix([]byte(k[:1])) || it.ValidForPrefix([]byte("x")) {
			t.Fatalf("key %d under %q from %q: %q, %q, want those of %q", n, prefix, from, k, v, keys)
		}
		n++
	}
	if n != len(keys) {
		t.Fatalf("%d keys under %q from %q, want %q", n, prefix, from, keys)
	}
}

// wantBefore goes back through all keys with a prefix that come before one, and through the last of them.
func wantBefore(t *testing.T, txn *Txn, prefix, before string, keys []string) {
	t.Helper()
	for _, limit := range []int{1, len(keys), len(keys) + 1} {
		var got []string
		if err := EachKeyBefore(txn, []byte(prefix), []byte(before), func(key []byte) (bool, error) {
			got = append(got, string(key))
			return len(got) < limit, nil
		}); err != nil {
			t.Fatal(err)
		}
		slices.Reverse(got)
		if want := keys[max(0, len(keys)-limit):]; len(keys) > 0 && !slices.Equal(got, want) || len(keys) == 0 && len(got) > 0 {
			t.Fatalf("%d keys under %q before %q: %q, want %q", limit, prefix, before, got, want)
		}
	}
}
