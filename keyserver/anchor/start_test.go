package anchor

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/txscript"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/protocol"
)

// TestRestoredBackup starts with hashchains that are not what was anchored.
func TestRestoredBackup(t *testing.T) {
	for _, test := range []struct {
		name      string
		confirmed bool // the last anchor
		lost      bool // the state file
		noKey     bool // the key file is lost, too
		reseed    bool // the hashchain goes on with other entries
		want      error
	}{
		{"ahead", true, false, false, false, ErrAhead},
		{"contradicts", true, false, false, true, ErrContradicts},
		{"ahead, state lost", true, true, false, false, ErrAhead},
		{"contradicts, state lost", true, true, false, true, ErrContradicts},
		{"ahead, state and key lost", true, true, true, false, ErrAhead},
		{"contradicts, state and key lost", true, true, true, true, ErrContradicts},
		{"unconfirmed ahead", false, false, false, false, ErrAhead},
		{"unconfirmed contradicts", false, false, false, true, ErrContradicts},
		{"unconfirmed ahead, state lost", false, true, false, false, ErrAhead},
		{"unconfirmed contradicts, state lost", false, true, false, true, ErrContradicts},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t)
			r.start()
			r.fund(1_000_000)
			r.step()
			r.w.mine(1)
			r.step()
			old := r.ks.backup()
			r.anchor()
			last := r.p.Status().Pending[0].TxID
			if test.confirmed {
				r.w.mine(1)
			}
			r.ks = old
			if test.reseed {
				r.ks.grow(t, 3, 1)
			}
			if test.lost {
				if err := os.Remove(r.p.state.path); err != nil {
					t.Fatal(err)
				}
			}
			if test.noKey {
				if err := os.Remove(r.p.keys.path); err != nil {
					t.Fatal(err)
				}
			}
			if err := r.open(); err != nil {
				t.Fatal(err)
			}
			r.w.behind = true // waits until the index is there
			ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, errAway)
			defer cancel()
			if err := r.p.Check(ctx); !errors.Is(err, errAway) {
				t.Fatalf("with an index that is behind: %v", err)
			}
			r.w.behind = false
			err := r.p.Check(t.Context())
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), last) || !strings.Contains(err.Error(), "position 1") {
				t.Errorf("got %v, want %v of anchor %s", err, test.want, last)
			}
		})
	}
}

// TestLostState takes the chain up again from what chain and mempool tell.
func TestLostState(t *testing.T) {
	for confirmed := range 4 {
		r := newRig(t)
		r.start()
		r.fund(1_000_000)
		for i := range 4 {
			r.anchor()
			if i < confirmed {
				r.w.mine(1)
			}
		}
		if err := os.Remove(r.p.state.path); err != nil {
			t.Fatal(err)
		}
		r.start()
		r.anchor()
		r.w.mine(1)
		r.step()
		r.wantOne(5)
		if s := r.p.Status(); s.Last.Number != 4 {
			t.Errorf("%d confirmed at the loss: the last one has number %d", confirmed, s.Last.Number)
		}
	}
}

func TestMismatch(t *testing.T) {
	chained := func(t *testing.T) *rig {
		r := newRig(t)
		r.start()
		r.fund(1_000_000)
		r.step()
		r.w.mine(1)
		r.step()
		return r
	}
	for _, test := range []struct {
		name   string
		change func(r *rig)
		want   string
	}{
		{"key file missing", func(r *rig) { os.Remove(r.p.keys.path) }, "restore the anchor key"},
		{"another key", func(r *rig) {
			os.Remove(r.p.keys.path)
			r.p.keys.create(r.p.keys.path)
		}, "does not pay the key"},
		{"not a key", func(r *rig) { os.WriteFile(r.p.keys.path, []byte("secret"), 0o600) }, "expected a private key as WIF"},
		{"key of another network", func(r *rig) {
			os.Remove(r.p.keys.path)
			r.p.keys.net = &chaincfg.MainNetParams
			r.p.keys.create(r.p.keys.path)
		}, "another network"},
		{"key open to others", func(r *rig) { os.Chmod(r.p.keys.path, 0o644) }, "file is open to others"},
		{"state of another domain", func(r *rig) {
			r.p.state.domain = "example.net"
			r.p.state.save()
		}, `for the anchors of "example.net"`},
		{"state is not JSON", func(r *rig) { os.WriteFile(r.p.state.path, []byte("{"), 0o600) }, "unexpected end of JSON"},
		{"state names a chain that is not there", func(r *rig) {
			r.p.state.genesis, r.p.state.anchors = &chainhash.Hash{1}, nil
			r.p.state.save()
		}, "to begin another one would be a second history"},
		{"database names a chain that is not there", func(r *rig) {
			os.Remove(r.p.keys.path)
			os.Remove(r.p.state.path)
			r.ks.named = chainhash.Hash{1}.String()
		}, "which is not on this chain"},
		{"another chain altogether", func(r *rig) {
			r.w.blocks, r.w.times, r.w.salt = r.w.blocks[:1], r.w.times[:1], []byte{9}
			r.p.state.anchors = nil
			r.p.state.save()
		}, "is the node on another one"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := chained(t)
			test.change(r)
			err := r.open()
			if err == nil {
				err = r.p.Check(t.Context())
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the error repeats a key: %v", err)
			}
		})
	}
}

// TestInventedAnchors has a node tell of anchors that the key never signed: they would
// contradict the hashchain, and keep the keyserver from serving for good.
func TestInventedAnchors(t *testing.T) {
	script, err := (&protocol.Anchor{Domain: testDomain, Position: 99}).Script()
	if err != nil {
		t.Fatal(err)
	}
	for _, genesis := range []bool{true, false} {
		r := newRig(t)
		r.start()
		r.fund(1_000_000)
		spends := wire.OutPoint{Hash: r.w.blocks[1][0].TxHash()}
		if !genesis {
			r.step()
			r.w.mine(1)
			r.step()
			spends = r.p.state.anchors[0].baton()
		}
		own := r.p.keys.current
		unlock, err := txscript.NewScriptBuilder().AddData(append(make([]byte, 70), byte(protocol.HashType))).
			AddData(own.private.PubKey().SerializeCompressed()).Script()
		if err != nil {
			t.Fatal(err)
		}
		invented := wire.NewMsgTx(2)
		invented.AddTxIn(wire.NewTxIn(&spends, unlock))
		invented.AddTxOut(wire.NewTxOut(900_000, protocol.P2PKHScript(own.hash), wire.TokenData{}))
		invented.AddTxOut(wire.NewTxOut(0, script, wire.TokenData{}))
		r.w.mempool = append(r.w.mempool, invented)
		if err := r.open(); err != nil {
			t.Fatal(err)
		}
		if err := r.p.check(t.Context()); err != nil && isFinal(err) {
			t.Fatalf("genesis %v: %v", genesis, err)
		}
		r.w.mempool = nil // an honest node again
		r.start()
		r.anchor()
		r.w.mine(1)
		r.step()
		if genesis {
			r.wantOne(1)
		} else {
			r.wantOne(2)
		}
	}
}

// TestLostKey begins another chain, since the hashchain agrees with the one that
// nobody can go on with.
func TestLostKey(t *testing.T) {
	r := newRig(t)
	r.start()
	r.fund(1_000_000)
	r.anchor()
	r.w.mine(1)
	r.step()
	first := r.ks.AnchorChain()
	if err := errors.Join(os.Remove(r.p.keys.path), os.Remove(r.p.state.path)); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.fund(1_000_000)
	r.anchor()
	r.w.mine(1)
	r.step()
	if s := r.p.Status(); s.Last == nil || s.Last.Number != 0 || s.Chain == first || r.ks.AnchorChain() != s.Chain {
		t.Errorf("the chain was %s, the status is %+v, the database names %s", first, s, r.ks.AnchorChain())
	}
}
