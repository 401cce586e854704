package client

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/token"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// resyncWorld is a keyserver and the folder of a user with an identity and a contact.
func resyncWorld(t *testing.T) (s *server, dir string) {
	t.Helper()
	s = newServer(t, token.Open{})
	s.fill(2)
	dir = t.TempDir()
	c := s.mustInit(dir)
	must(c.Create(t.Context(), alice, testPassphrase, Registration{Paper: new(paper).show}))(t)
	s.register("bert@example.org")
	if _, err := s.service.RotateKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.fill(1)
	must(c.Sync(t.Context()))(t)
	must(c.Lookup(t.Context(), "bert@example.org"))(t)
	if err := errors.Join(c.Close(), os.WriteFile(filepath.Join(dir, evidenceDir, "kept.json"), []byte("{}"), 0o600)); err != nil {
		t.Fatal(err)
	}
	return s, dir
}

func copied(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copied")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

// wantWhole checks that a folder has everything.
func wantWhole(t *testing.T, s *server, c *Client) {
	t.Helper()
	truth := s.entries()
	if c.Size() != uint64(len(truth)) || c.Fingerprint() != truth[0].Hash() || c.Head() != truth[len(truth)-1].Hash() || len(c.ServerKeys()) != 2 {
		t.Errorf("%d entries, %d keys", c.Size(), len(c.ServerKeys()))
	}
	for _, name := range []string{alice, "bert@example.org"} {
		if _, err := c.Lookup(t.Context(), name); err != nil {
			t.Error(err)
		}
	}
	id := must(c.OpenIdentity(alice, testPassphrase))(t)
	if err := c.Confirm(t.Context(), id, 1, 1); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(c.path(evidenceDir, "kept.json")); err != nil {
		t.Error(err)
	}
	if err := c.Recheck(t.Context()); err != nil {
		t.Error(err)
	}
}

// What is wrong with the copy, Resync mends, and keeps what cannot be downloaded.
func TestResync(t *testing.T) {
	s, dir := resyncWorld(t)
	lookup := func(dir string) string { return filepath.Join(dir, lookupsDir, hashName("bert@example.org")) }
	for name, damage := range map[string]func(dir string) error{
		"nothing":            func(string) error { return nil },
		"an entry":           flipByte(3*hashchain.EntrySize + 99),
		"the first entry":    flipByte(99),
		"the end":            func(dir string) error { return os.Truncate(filepath.Join(dir, chainFile), 500) },
		"all of it":          func(dir string) error { return os.Remove(filepath.Join(dir, chainFile)) },
		"what was looked up": func(dir string) error { return os.WriteFile(lookup(dir), []byte("{"), 0o600) },
		"of another copy": func(dir string) error {
			return os.WriteFile(lookup(dir), []byte(`{"identity":"bert@example.org","searched":99,"found":[],"messages":[]}`), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := copied(t, dir)
			if err := damage(dir); err != nil {
				t.Fatal(err)
			}
			c, err := Open(dir, s.options())
			if err == nil {
				_, err = c.Lookup(t.Context(), "bert@example.org")
				err = errors.Join(err, c.Recheck(t.Context()), c.Close())
			}
			if name != "nothing" && (!errors.Is(err, ErrDamagedCopy) || !errors.Is(err, ErrDamaged) || errors.Is(err, ErrMisbehaviour)) {
				t.Errorf("damaged: %v", err)
			}
			if c, err = Resync(t.Context(), dir, s.options()); err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			wantWhole(t, s, c)
		})
	}
}

// What Resync cannot mend it says, and leaves as it is.
func TestResyncRefuses(t *testing.T) {
	s, dir := resyncWorld(t)
	truth := s.entries()
	other := newServer(t, token.Open{})
	other.fill(8)
	for name, test := range map[string]struct {
		wrong func(t *testing.T, dir string)
		want  error
	}{
		"another process has it": {func(t *testing.T, dir string) {
			c := must(Open(dir, s.options()))(t)
			t.Cleanup(func() { c.Close() })
		}, ErrLocked},
		"no folder":         {func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, stateFile)) }, ErrNotInitialized},
		"damaged state":     {func(t *testing.T, dir string) { os.WriteFile(filepath.Join(dir, stateFile), []byte("{"), 0o600) }, ErrDamaged},
		"another hashchain": {func(*testing.T, string) { s.show(other.entries()) }, ErrFingerprint},
		"nobody there":      {func(*testing.T, string) { s.put(hangUp) }, errHangUp},
	} {
		t.Run(name, func(t *testing.T) {
			dir := copied(t, dir)
			test.wrong(t, dir)
			before := must(os.ReadFile(filepath.Join(dir, chainFile)))(t)
			c, err := Resync(t.Context(), dir, s.options())
			if err == nil || c != nil || test.want != errHangUp && !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			if after := must(os.ReadFile(filepath.Join(dir, chainFile)))(t); string(after) != string(before) {
				t.Error("the copy has changed")
			}
			s.put(nil)
		})
	}
	// Somebody between shows the right first entry when asked for it alone.
	dir = copied(t, dir)
	asked := 0
	s.put(func(method string, params []byte, pass func() (map[string]any, error)) (map[string]any, error) {
		result, err := pass()
		if method == "KeyHashchain.FetchHashChain" {
			if asked++; asked > 1 {
				entries := result["HCEntries"].([]any)
				for i, e := range other.entries()[:len(entries)] {
					entries[i] = e.String()
				}
			}
		}
		return result, err
	})
	if c, err := Resync(t.Context(), dir, s.options()); !errors.Is(err, ErrFingerprint) || c.Size() != 0 {
		t.Errorf("got %v", err)
	} else if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	s.put(nil)
	// The pin has stayed, also for who is told of another.
	wrong := other.entries()[0].Hash()
	if _, err := Init(t.Context(), dir, s.url, "", &wrong, s.options()); !errors.Is(err, ErrFingerprint) {
		t.Errorf("got %v", err)
	}
	c := must(Open(dir, s.options()))(t)
	defer c.Close()
	must(c.Sync(t.Context()))(t)
	if c.Fingerprint() != truth[0].Hash() {
		t.Error("another fingerprint")
	}
	wantWhole(t, s, c)
}

func hangUp(string, []byte, func() (map[string]any, error)) (map[string]any, error) {
	return nil, errHangUp
}

// Whenever a process that begins the copy again is killed, the old one is there, or a
// new one with which the next process goes on; and the identities always.
func TestResyncKilled(t *testing.T) {
	s, dir := resyncWorld(t)
	steps := 0
	for n := 0; n == 0 || n <= steps; n++ {
		for _, half := range []bool{false, true} {
			dir := copied(t, dir)
			c := must(openState(dir, s.options()))(t)
			c.chain = must(openCopy(c.path(chainFile), 0, nil))(t)
			drop := c.drop()
			steps = len(drop)
			for _, step := range drop[:n] {
				if err := step(); err != nil {
					t.Fatal(err)
				}
			}
			if half { // of the next step: a file that is not whole, or not all files
				files := must(os.ReadDir(filepath.Join(dir, lookupsDir)))(t)
				for _, f := range files[:len(files)/2] {
					if err := os.Remove(filepath.Join(dir, lookupsDir, f.Name())); err != nil {
						t.Fatal(err)
					}
				}
				if err := os.WriteFile(filepath.Join(dir, stateFile+".tmp"), []byte("{"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(c.chain.Close(), c.lock.Unlock()); err != nil {
				t.Fatal(err)
			}
			c = must(Open(dir, s.options()))(t)
			if old := c.Size() == uint64(len(s.entries())); old != (n < 2) || !old && c.Size() != 0 {
				t.Errorf("after %d steps: %d entries", n, c.Size())
			}
			must(c.Sync(t.Context()))(t)
			wantWhole(t, s, c)
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// What a keyserver had signed before, Resync does not forgive.
func TestResyncAfterFork(t *testing.T) {
	f := newForger(t)
	f.fill(5)
	c, err := f.init()
	if err != nil {
		t.Fatal(err)
	}
	old := c.state.Covers
	f.entries = f.entries[:3]
	f.fill(6)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c, err = Resync(t.Context(), c.dir, f.options())
	t.Cleanup(func() { c.Close() })
	for range 2 {
		e := wantMisbehaviour(t, err, 5, "before this copy was begun")
		if string(e.Reply) != string(old.Canonical()) || e.Theirs != f.entries[5].String() {
			t.Errorf("evidence by reply %q, about %q", e.Reply, e.Theirs)
		}
		if reply, err := uid.ParseReply(e.Covers); err != nil || reply.Verify(e.Key) != nil {
			t.Errorf("what covers the new copy: %v", err)
		}
		_, err = c.Sync(t.Context())
	}
}
