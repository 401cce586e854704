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

	"github.com/keytree-bch/keytree/graph/anchors"
	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
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

// crowd is a view with chains of anchors for the domain that strangers have made.
type crowd struct {
	View
	chains, own int // how many, and the number of the one that the key has made
	position    uint64
	author      protocol.KeyHash
	raw         protocol.Tx
	asked       int
}

func (c *crowd) AnchorChainsOf(_ context.Context, _ string, after *store.Position, limit int) (page []anchors.Chain, next *store.Position, _ error) {
	first := 0
	if after != nil {
		first = int(after.Height)
	}
	for i := first; i < min(first+limit, c.chains); i++ {
		c.asked++
		chain := anchors.Chain{ID: chainhash.Hash{1, byte(i), byte(i >> 8)}, Domain: testDomain}
		if chain.Genesis.Position = c.position; i == c.own {
			chain.Genesis.Author = &c.author
		}
		page = append(page, chain)
	}
	if first+limit < c.chains {
		next = &store.Position{Height: uint32(first + limit)}
	}
	return page, next, nil
}

func (c *crowd) AnchorProof(chainhash.Hash) (anchors.Proof, error) {
	return anchors.Proof{Raw: c.raw}, nil
}

// TestSearchIsBounded has strangers begin more chains than anybody wants to look at.
func TestSearchIsBounded(t *testing.T) {
	r := newRig(t)
	r.start()
	r.fund(1_000_000)
	r.step()
	raw := r.p.state.anchors[0].raw
	for _, test := range []struct {
		name           string
		chains, own    int
		position       uint64
		wantOwn, asked int
		unclaimed      int
		more           bool
	}{
		{"some", 3, -1, 7, 0, 3, 3, false},
		{"of another keyserver", 3, -1, 0, 0, 3, 0, false},
		{"too many to list", 500, 400, 7, 1, 500, maxUnclaimed, true},
		{"many of another keyserver", 500, 400, 0, 1, 500, 0, false},
		{"too many to look at", 3 * maxChains, maxChains / 2, 0, 1, maxChains, 0, true},
	} {
		v := &crowd{chains: test.chains, own: test.own, position: test.position, author: r.p.keys.current.hash, raw: raw}
		f := &facts{rules: rules{domain: testDomain}, head: r.ks.Chain(), keys: r.p.keys.holders()}
		s, err := r.p.search(t.Context(), v, f)
		if err != nil || len(s.own) != test.wantOwn || len(s.unclaimed) != test.unclaimed || s.more != test.more || v.asked != test.asked {
			t.Errorf("%s: %d own, %d unclaimed, more %v, %d looked at, %v", test.name, len(s.own), len(s.unclaimed), s.more, v.asked, err)
		}
	}
}
