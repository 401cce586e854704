package statelog

import (
	"errors"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/keyserver/tlog"
	format "github.com/keytree-bch/keytree/protocol/tlog"
)

// TestServed proves the entry of every height that the checkpoint covers, and none beside. After the epoch has ended there
// is nothing to prove until the next one has signed.
func TestServed(t *testing.T) {
	r := newRig(t)
	r.mine(30, "")
	r.start()
	r.noticed()
	if _, err := r.Served(); !errors.Is(err, tlog.ErrNone) {
		t.Errorf("before the first checkpoint: %v", err)
	}
	r.pass(2 * time.Hour)
	r.await(1, 20)
	s, err := r.Served()
	if err != nil {
		t.Fatal(err)
	}
	if s.Newest() != 19 {
		t.Fatalf("the newest is %d, want 19", s.Newest())
	}
	policy, err := format.ParsePolicy([]byte("log " + r.Log(1).Key().String() + "\nquorum none\n"))
	if err != nil {
		t.Fatal(err)
	}
	for height := range s.Newest() + 1 {
		e, p, err := s.Entry(t.Context(), height)
		if err != nil {
			t.Fatal(err)
		}
		want, _, err := entryAt(r.graph, height)
		if err != nil || e != want {
			t.Errorf("entry %d: %+v, want %+v, %v", height, e, want, err)
		}
		b := e.Bytes()
		parsed, err := format.ParseProof(p.Marshal())
		if err == nil {
			_, err = parsed.Verify(b[:], policy)
		}
		if err != nil {
			t.Errorf("entry %d: %v", height, err)
		}
		b[100] ^= 1
		if _, err := s.Prove(t.Context(), uint64(height), b[:]); !errors.Is(err, format.ErrProof) {
			t.Errorf("another entry at %d: %v", height, err)
		}
	}
	if _, _, err := s.Entry(t.Context(), 20); !errors.Is(err, format.ErrProof) {
		t.Errorf("beyond the newest: %v", err)
	}
	if _, err := s.Prove(t.Context(), 20, nil); !errors.Is(err, format.ErrProof) {
		t.Errorf("beyond the newest: %v", err)
	}
	r.reorganise(20, "deep")
	eventually(t, "the next epoch", func() bool { return r.Status().Epoch == 2 })
	if _, err := r.Served(); !errors.Is(err, tlog.ErrNone) {
		t.Errorf("before the first checkpoint of the next epoch: %v", err)
	}
}
