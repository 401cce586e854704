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
)

// TestRestoredBackup starts with hashchains that are not what was anchored.
func TestRestoredBackup(t *testing.T) {
	for _, test := range []struct {
		name      string
		confirmed bool // the last anchor
		lost      bool // the state file
		reseed    bool // the hashchain goes on with other entries
		want      error
	}{
		{"ahead", true, false, false, ErrAhead},
		{"contradicts", true, false, true, ErrContradicts},
		{"ahead, state lost", true, true, false, ErrAhead},
		{"contradicts, state lost", true, true, true, ErrContradicts},
		{"unconfirmed ahead", false, false, false, ErrAhead},
		{"unconfirmed contradicts", false, false, true, ErrContradicts},
		{"unconfirmed ahead, state lost", false, true, false, ErrAhead},
		{"unconfirmed contradicts, state lost", false, true, true, ErrContradicts},
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
		{"another chain altogether", func(r *rig) {
			r.w.blocks, r.w.salt = r.w.blocks[:1], []byte{9}
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
