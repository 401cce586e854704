package anchor

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
)

// watched is a node and a hashchain that may only be asked.
type watched struct {
	*world
	*keyserver
	t *testing.T
}

func (w watched) Submit(context.Context, []byte) error {
	w.t.Error("looking around hands something to the node")
	return errAway
}

func (w watched) SetAnchorChain(context.Context, string) error {
	w.t.Error("looking around writes to the database")
	return errAway
}

// wantUntouched looks around, with and without asking the node, and checks that nothing
// becomes different by it: on disk, in the publisher, at the node.
func (r *rig) wantUntouched() {
	r.t.Helper()
	opt, before := r.p.opt, r.snapshot()
	r.p.opt.Node, r.p.opt.Hashchain = watched{r.w, r.ks, r.t}, watched{r.w, r.ks, r.t}
	defer func() { r.p.opt = opt }()
	for _, ask := range []bool{false, true, true} {
		f, err := r.p.observe(r.t.Context(), ask)
		if err != nil {
			continue // the node is away
		}
		for _, decide := range []func(*facts) (decision, error){(*facts).check, (*facts).publish, (*facts).handOn} {
			if _, err := decide(f); errors.Is(err, errAway) {
				r.t.Errorf("deciding asks: %v", err)
			}
		}
	}
	if after := r.snapshot(); !maps.EqualFunc(before, after, bytes.Equal) {
		r.t.Errorf("looking around has made\n%q of\n%q", after, before)
	}
}

// snapshot returns all files, and what the publisher holds besides caches.
func (r *rig) snapshot() map[string][]byte {
	r.t.Helper()
	s := make(map[string][]byte)
	err := fs.WalkDir(os.DirFS(r.dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			s[path], err = os.ReadFile(filepath.Join(r.dir, path))
		}
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	var held bytes.Buffer
	if r.p.state.genesis != nil {
		held.Write(r.p.state.genesis[:])
	}
	for _, a := range r.p.state.anchors {
		held.Write(a.txid[:])
	}
	for _, txid := range slices.SortedFunc(maps.Keys(r.p.offers), func(a, b chainhash.Hash) int { return bytes.Compare(a[:], b[:]) }) {
		held.Write(txid[:])
	}
	h := r.p.keys.holders()
	for _, key := range h.all() {
		held.Write(key[:])
	}
	held.Write(r.p.asked[:])
	held.WriteString(r.p.funds.counted.String())
	s["held"] = held.Bytes()
	return s
}

// TestObservingChangesNothing looks around in each state that a publisher gets into,
// before it acts. TestOneChain does so in random ones.
func TestObservingChangesNothing(t *testing.T) {
	r := newRig(t)
	look := func(what string, change func()) {
		t.Helper()
		t.Log(what)
		change()
		r.wantUntouched()
	}
	reopen := func() {
		if err := r.open(); err != nil {
			t.Fatal(err)
		}
	}
	away := func(*wire.MsgTx) error { return errAway }
	look("opened", reopen)
	look("no funds", r.start)
	look("funds", func() { r.fund(1_000_000) })
	look("genesis anchor stored", func() {
		r.w.refuse = away
		r.wantStep(errAway)
		r.w.refuse = nil
	})
	look("its fee refused", func() {
		r.w.refuse = func(*wire.MsgTx) error { return ErrFee }
		r.wantStep(ErrFee)
		r.w.refuse = nil
	})
	look("genesis anchor at the node", r.step)
	look("confirmed", func() { r.w.mine(1) })
	look("state file lost", func() {
		if err := os.Remove(r.p.state.path); err != nil {
			t.Fatal(err)
		}
		reopen()
	})
	look("state file lost, unconfirmed anchors", func() {
		r.start()
		r.anchor()
		r.anchor()
		if err := os.Remove(r.p.state.path); err != nil {
			t.Fatal(err)
		}
		reopen()
	})
	look("found again", r.start)
	look("next key prepared", func() {
		if err := r.p.keys.prepare(); err != nil {
			t.Fatal(err)
		}
	})
	look("baton to the next key stored, key not in place", func() {
		f, err := r.p.observe(t.Context(), true)
		if err != nil {
			t.Fatal(err)
		}
		d, err := f.next(r.p.keys.next.hash)
		if err == nil {
			err = r.p.act(t.Context(), f, d)
		}
		if err != nil {
			t.Fatal(err)
		}
		reopen()
	})
	look("old key kept", r.start)
	look("old key not needed any more", func() {
		r.step()
		r.w.mine(1)
		r.anchor()
		r.w.mine(settled)
	})
	look("all of it buried", func() { r.w.mine(buried) })
	look("a heartbeat is due", func() {
		r.step()
		r.w.clock = r.w.clock.Add(25 * time.Hour)
		r.w.mine(1)
	})
	look("undone", func() { r.w.reorg(3, false) })
	look("the node is away", func() { r.w.away = true })
}
