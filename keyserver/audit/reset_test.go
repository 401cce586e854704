package audit

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// resetWorld is a keyserver that has replaced its key, and the folder of an auditor who
// has convicted it of another history, which it does not show any more.
func resetWorld(t *testing.T) (w *world, dir string) {
	w = newWorld(t)
	w.server.grow(5)
	w.server.rotate(newKey(2))
	w.anchor()
	w.server.grow(3)
	dir = t.TempDir()
	w.audit(dir).want(t, Sound, "")
	honest := w.server
	rewrite(w, 12)
	w.audit(dir).want(t, Misbehaviour, TwoEntries)
	w.server = honest
	return w, dir
}

func copied(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copied")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

// wantReset checks that an audit goes on from the pins, and still knows the evidence.
func wantReset(t *testing.T, w *world, dir string) {
	t.Helper()
	r := w.audit(dir)
	r.want(t, Misbehaviour, TwoEntries)
	if r.Entries != uint64(len(w.server.entries)) || r.Anchors != 2 || len(r.Findings) != 1 {
		t.Errorf("%d entries, %d anchors, findings %+v", r.Entries, r.Anchors, r.Findings)
	}
	a := w.open(dir)
	defer a.Close()
	if p := a.pins(); p.Fingerprint == nil || *p.Fingerprint != w.server.entries[0].Hash() || !slices.Equal(p.Rotations, w.server.own[1:]) {
		t.Errorf("pins %+v", p)
	}
	if a.copy.kept != uint64(len(w.server.entries)) {
		t.Errorf("%d entries are kept", a.copy.kept)
	}
}

func TestReset(t *testing.T) {
	w, dir := resetWorld(t)
	for name, test := range map[string]struct {
		damage func(dir string) error
		pinned bool // the first entry is
	}{
		"nothing":     {func(string) error { return nil }, true},
		"entries":     {func(dir string) error { return os.Truncate(filepath.Join(dir, entriesFile), 100) }, true},
		"no entries":  {func(dir string) error { return os.Remove(filepath.Join(dir, entriesFile)) }, true},
		"anchors":     {func(dir string) error { return os.Truncate(filepath.Join(dir, anchorsFile), 100) }, true},
		"no anchors":  {func(dir string) error { return os.Remove(filepath.Join(dir, anchorsFile)) }, true},
		"the state":   {func(dir string) error { return os.WriteFile(filepath.Join(dir, stateFile), []byte("{"), 0o600) }, false},
		"a half file": {func(dir string) error { return os.WriteFile(filepath.Join(dir, otherFile), []byte("x"), 0o600) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := copied(t, dir)
			if err := test.damage(dir); err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second time there is nothing left to drop
				pins, err := Reset(w.config(dir))
				if err != nil {
					t.Fatal(err)
				}
				if pins.Genesis == nil || *pins.Genesis != w.genesis || (pins.Fingerprint != nil) != test.pinned || (len(pins.Rotations) == 1) != test.pinned {
					t.Errorf("pins %+v", pins)
				}
			}
			if files, err := os.ReadDir(filepath.Join(dir, evidenceDir)); err != nil || len(files) != 1 {
				t.Errorf("%d files of evidence, %v", len(files), err)
			}
			wantReset(t, w, dir)
		})
	}
}

// Whenever a process that resets a folder is killed, all is there or the pins are.
func TestResetKilled(t *testing.T) {
	w, dir := resetWorld(t)
	steps := 0
	for n := 0; n <= steps; n++ {
		dir := copied(t, dir)
		a := &Auditor{dir: dir, net: testNet, genesis: w.genesis}
		if err := errors.Join(a.lockDir(), a.readState()); err != nil {
			t.Fatal(err)
		}
		a.keepPins()
		all := a.resetSteps()
		steps = len(all)
		for _, step := range all[:n] {
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
		err := os.WriteFile(filepath.Join(dir, stateFile+".tmp"), []byte("{"), 0o600) // of the next step
		if err := errors.Join(err, a.lock.Unlock()); err != nil {
			t.Fatal(err)
		}
		w.server.fetched = 0
		wantReset(t, w, dir)
		if kept := w.server.fetched < 10; n == 0 && !kept || n == steps && kept {
			t.Errorf("after %d steps: %d entries were fetched", n, w.server.fetched)
		}
	}
}

func TestResetRefuses(t *testing.T) {
	w, dir := resetWorld(t)
	if _, err := Reset(w.config(t.TempDir())); !errors.Is(err, ErrNothingKept) {
		t.Errorf("an empty folder: %v", err)
	}
	other := w.config(dir)
	other.Genesis[0] ^= 1
	if _, err := Reset(other); !errors.Is(err, ErrOtherChain) {
		t.Errorf("another chain of anchors: %v", err)
	}
	a := w.open(dir)
	if _, err := Reset(w.config(dir)); !errors.Is(err, ErrLocked) {
		t.Errorf("another process: %v", err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	wantReset(t, w, dir)
}

// What is pinned stays so: another keyserver's hashchain is none after a reset, even
// where no anchor says so.
func TestResetKeepsFirstEntry(t *testing.T) {
	w, dir := resetWorld(t)
	if _, err := Reset(w.config(dir)); err != nil {
		t.Fatal(err)
	}
	honest := w.server
	w.server = newServer(t, newKey(9))
	w.server.grow(30)
	r := w.audit(dir)
	f := r.want(t, Misbehaviour, OtherServer) // the evidence from before holds
	if !strings.Contains(f.Text, "with the pinned") {
		t.Errorf("finding %q", f.Text)
	}
	w.server = honest
	wantReset(t, w, dir)
}
