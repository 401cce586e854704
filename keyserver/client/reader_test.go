package client

import (
	"errors"
	"testing"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
)

func TestReader(t *testing.T) {
	f := newForger(t)
	for range 5 {
		f.seal("somebody@"+testDomain, hashchain.Hash{1})
	}
	r := NewReader(f.http.URL+"/", nil)
	for from := uint64(0); from <= 7; from++ {
		var got []hashchain.Entry
		for entries, err := range r.Entries(t.Context(), from) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, entries...)
		}
		if want := f.entries[min(from, 6):]; len(got) != len(want) || len(got) > 0 && got[0] != want[0] {
			t.Errorf("from position %d: %d entries, expected %d", from, len(got), len(want))
		}
	}
	for range r.Entries(t.Context(), 0) {
		break // and the rest is not wanted
	}
	reply, err := r.Reply(t.Context(), f.entries[0].UIDIndex())
	if err != nil || reply.Entry.HashchainEntry != f.entries[0].String() {
		t.Errorf("reply about position 0: %+v, %v", reply, err)
	}
	if _, err := r.Positions(t.Context(), "keyserver@"+testDomain); !errors.Is(err, ErrUnsupported) {
		t.Errorf("positions of a keyserver that offers none: got %v, expected %v", err, ErrUnsupported)
	}

	f.http.Close()
	failed := 0
	for _, err := range NewReader(f.http.URL+"/", nil).Entries(t.Context(), 0) {
		if err != nil {
			failed++
		}
	}
	if failed != 1 {
		t.Errorf("%d errors from a keyserver that is gone, expected 1", failed)
	}
}
