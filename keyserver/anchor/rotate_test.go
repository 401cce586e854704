package anchor

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/protocol"
)

func TestRotate(t *testing.T) {
	r := newRig(t)
	r.start()
	if _, err := r.p.rotate(t.Context()); err == nil || !strings.Contains(err.Error(), "no anchor yet") {
		t.Errorf("before the first anchor: %v", err)
	}
	r.fund(1_000_000)
	r.step()
	r.w.mine(1)
	r.step()
	r.w.pay(r.p.keys.current.hash, 50_000, 0)
	r.w.mine(1)
	old := r.p.keys.current.hash
	r.w.refuse = func(*wire.MsgTx) error { return errAway }
	txid, err := r.p.rotate(t.Context()) // stored, and so decided
	if err != nil {
		t.Fatal(err)
	}
	r.w.refuse = nil
	r.start()
	if r.p.keys.current.hash == old || r.p.keys.previous == nil || r.p.keys.previous.hash != old || r.p.keys.next != nil {
		t.Fatalf("the keys are %+v", r.p.keys)
	}
	r.step()
	r.w.mine(1)
	r.step()
	if c := r.wantOne(2); c.Last.TxID != txid || c.Last.Position != 0 || *c.Last.Author != old {
		t.Errorf("the last anchor is %+v", c.Last)
	}
	if _, err := r.p.rotate(t.Context()); err == nil || !strings.Contains(err.Error(), "not buried yet") {
		t.Errorf("at once again: %v", err)
	}
	r.anchor()
	r.w.mine(1)
	r.step()
	if c := r.wantOne(3); *c.Last.Author != r.p.keys.current.hash {
		t.Error("the next anchor is not by the new key")
	}
	if _, err := os.Stat(previousFile(r.p.keys.path)); err != nil {
		t.Errorf("the old key is gone too early: %v", err)
	}
	r.w.mine(settled)
	r.step()
	if _, err := os.Stat(previousFile(r.p.keys.path)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old key is still there: %v", err)
	}
	// The new key alone knows its chain.
	if err := os.Remove(r.p.state.path); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.anchor()
	r.w.mine(1)
	r.step()
	r.wantOne(4)
}

// TestRotateKilled kills it between the steps of a change of keys.
func TestRotateKilled(t *testing.T) {
	for stage := range 3 {
		r := newRig(t)
		r.start()
		r.fund(1_000_000)
		r.step()
		r.w.mine(1)
		r.step()
		old := r.p.keys.current.hash
		if err := r.p.keys.prepare(); err != nil {
			t.Fatal(err)
		}
		next := r.p.keys.next
		if stage > 0 {
			f, err := r.p.observe(t.Context(), true)
			if err != nil {
				t.Fatal(err)
			}
			d, err := f.next(next.hash)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.p.act(t.Context(), f, d); err != nil {
				t.Fatal(err)
			}
		}
		if stage > 1 {
			if err := r.p.keys.write(previousFile(r.p.keys.path), r.p.keys.current.private); err != nil {
				t.Fatal(err)
			}
		}
		r.start()
		r.step()
		if stage == 0 {
			if r.p.keys.current.hash != old {
				t.Error("a key was replaced that no anchor names")
			}
			if _, err := r.p.rotate(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if r.p.keys.current.hash != next.hash {
			t.Errorf("stage %d: the key that was prepared is not in use", stage)
		}
		r.w.mine(1)
		r.anchor()
		r.w.mine(1)
		r.step()
		r.wantOne(3)
	}
}

// TestRotateWhileAnchoring has no anchor get deep before the next one follows.
func TestRotateWhileAnchoring(t *testing.T) {
	r := newRig(t)
	r.start()
	r.fund(1_000_000)
	r.step()
	r.w.mine(1)
	if _, err := r.p.rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	old := r.p.keys.previous.hash
	for range settled {
		r.w.mine(1)
		r.anchor()
		if r.p.keys.previous == nil {
			t.Fatal("the old key is gone too early")
		}
	}
	late := r.w.pay(old, r.p.cost(), 1)
	r.w.pay(old, r.p.cost()-1, 1) // is not worth waiting for
	foreign, err := (&protocol.Anchor{Domain: testDomain, Position: 99}).Script()
	if err != nil {
		t.Fatal(err)
	}
	bait := wire.NewMsgTx(2) // the baton of another chain is never taken up
	from := r.w.pay(protocol.KeyHash{1}, 1_000_000, 0)
	bait.AddTxIn(wire.NewTxIn(&from, nil))
	bait.AddTxOut(wire.NewTxOut(900_000, protocol.P2PKHScript(old), wire.TokenData{}))
	bait.AddTxOut(wire.NewTxOut(0, foreign, wire.TokenData{}))
	if err := r.w.Submit(t.Context(), rawOf(bait)); err != nil {
		t.Fatal(err)
	}
	r.w.mine(1)
	r.step()
	if r.p.keys.previous == nil {
		t.Fatal("the old key is gone with a payment to it")
	}
	r.anchor()
	r.w.mine(1)
	r.step()
	if r.w.spender(late) == nil || r.p.keys.previous != nil {
		t.Errorf("taken up: %v, old key: %v", r.w.spender(late) != nil, r.p.keys.previous)
	}
	if _, err := r.p.rotate(t.Context()); err != nil {
		t.Error(err)
	}
}
