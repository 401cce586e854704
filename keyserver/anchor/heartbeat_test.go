package anchor

import (
	"errors"
	"os"
	"testing"
	"time"
)

// TestHeartbeat has a keyserver at rest repeat its last anchor when blocks say that it is
// time, and never sooner, whatever happens to the clock and to the files.
func TestHeartbeat(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(r *rig) // a moment before the heartbeat is due
	}{
		{"nothing", func(*rig) {}},
		{"the clock jumps ahead", func(r *rig) { r.now = r.now.Add(365 * 24 * time.Hour) }},
		{"the clock jumps back", func(r *rig) { r.now = r.now.Add(-365 * 24 * time.Hour) }},
		{"the state file is lost", func(r *rig) {
			if err := os.Remove(r.p.state.path); err != nil {
				r.t.Fatal(err)
			}
			r.start()
		}},
		{"the state file is lost, and the clock jumps ahead", func(r *rig) {
			if err := os.Remove(r.p.state.path); err != nil {
				r.t.Fatal(err)
			}
			r.now = r.now.Add(365 * 24 * time.Hour)
			r.start()
		}},
		{"a backup is restored", func(r *rig) {
			r.ks = r.ks.backup()
			if err := errors.Join(os.Remove(r.p.state.path), os.Rename(r.p.state.path+".old", r.p.state.path)); err != nil {
				r.t.Fatal(err)
			}
			r.start()
		}},
		{"the last block is undone", func(r *rig) { r.w.clock = r.w.clock.Add(-20 * time.Minute); r.w.reorg(1, true) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t)
			r.start()
			r.fund(1_000_000)
			r.step()
			r.w.mine(1)
			r.step()
			old, err := os.ReadFile(r.p.state.path)
			if err == nil {
				err = os.WriteFile(r.p.state.path+".old", old, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			r.anchor()
			r.w.mine(1)
			r.step()
			r.w.mine(24*6 - 1) // blocks of ten minutes
			r.step()
			due := r.p.Status().Heartbeat
			test.do(r)
			r.step()
			if s := r.p.Status(); len(s.Pending) > 0 || due == nil || s.Heartbeat == nil || !s.Heartbeat.Equal(*due) {
				t.Fatalf("before the time: %+v, due at %v", s, due)
			}
			r.w.mine(1)
			r.step()
			s := r.p.Status()
			if len(s.Pending) != 1 || s.Pending[0].Position != s.Last.Position || s.Heartbeat != nil {
				t.Fatalf("when it is time: %+v", s)
			}
			r.now = r.now.Add(48 * time.Hour)
			r.step() // one that waits is enough
			r.w.mine(1)
			r.step()
			r.w.mine(24*6 - 1)
			r.step()
			r.wantOne(3)
			r.w.mine(1)
			r.step()
			r.w.mine(1)
			r.step()
			c := r.wantOne(4)
			if c.Last.Position != 1 || c.anchors[2].Head != c.anchors[1].Head {
				t.Errorf("the last anchor is at position %d", c.Last.Position)
			}
		})
	}
}
