package tlog_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/keyserver"
	"github.com/keytree-bch/keytree/keyserver/store/postgres"
	"github.com/keytree-bch/keytree/keyserver/store/postgres/postgrestest"
	"github.com/keytree-bch/keytree/keyserver/tlog"
	"github.com/keytree-bch/keytree/keyserver/token"
	format "github.com/keytree-bch/keytree/protocol/tlog"
)

// TestLaggingReplica has servers on one PostgreSQL sign a log by turns, each with its own state file. The
// witnesses take what the second one signs, though the first has signed more than that one knew of.
// When a replica is promoted that lacks what they have cosigned, they say so before anything is shown.
func TestLaggingReplica(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts two PostgreSQL")
	}
	primary := postgrestest.Start(t)
	replica := primary.Replica(t, "r1")
	primary.Set(t, "synchronous_standby_names = 'r1'")
	dir := t.TempDir()
	serve := func(c *postgrestest.Cluster, key string, standby bool) *keyserver.Service {
		t.Helper()
		place, err := postgres.Parse(c.URL("postgres", nil))
		if err != nil {
			t.Fatal(err)
		}
		s, err := keyserver.Open(t.Context(), keyserver.Options{
			Domain: "example.org", Place: place, Dir: filepath.Join(dir, "keyserver"), KeyFile: filepath.Join(key, "key"), Tokens: token.Open{}, Held: true, Standby: standby,
		})
		if err == nil && standby {
			err = s.TakeOver(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	grow := func(s *keyserver.Service) { // by an entry as any other
		t.Helper()
		if _, err := s.RotateKey(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	opt := options(dir, nil)
	made := open(t, opt)
	w, policy := newWitnesses(t, made.Key())
	if err := made.Close(); err != nil {
		t.Fatal(err)
	}
	// cosigned signs, from the files in a folder, until witnesses have cosigned all that is there.
	cosigned := func(s *keyserver.Service, dir string) {
		t.Helper()
		opt := options(dir, s)
		opt.Policy, opt.Transport, opt.Shared = policy, w, true
		opt.Interval, opt.WitnessInterval = 10*time.Millisecond, 10*time.Millisecond
		l := open(t, opt)
		defer l.Close()
		if err := l.Check(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.Release()
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { l.Run(ctx); close(done) }()
		for {
			signed, _, err := l.Checkpoint()
			if c, openErr := format.Open(signed, l.Key()); err == nil && openErr == nil && c.Size == s.Chain().Size {
				break
			}
			if err := l.Err(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		stop()
		<-done
	}
	s := serve(primary, dir, false)
	cosigned(s, dir)
	other := copied(t, dir) // another server's, with the keys of now
	grow(s)
	cosigned(s, dir)
	grow(s)
	latest, err := os.ReadFile(filepath.Join(dir, "key"))
	if err == nil {
		err = os.WriteFile(filepath.Join(other, "key"), latest, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = serve(primary, other, true)
	cosigned(s, other)

	primary.Lose(t, replica)
	primary.Set(t, "synchronous_standby_names = ''")
	old := copied(t, other)
	grow(s)
	cosigned(s, other)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	primary.Kill(t)
	replica.Begin(t)
	replica.Promote(t)
	for name, test := range map[string]struct {
		state string
		want  error
	}{
		"by the state file": {other, tlog.ErrBehind},
		"by a witness":      {old, tlog.ErrOutgrown},
	} {
		for _, takeOver := range []bool{false, true} {
			s := serve(replica, old, takeOver)
			opt := options(copied(t, test.state), s)
			opt.Policy, opt.Transport, opt.Shared = policy, w, true
			l := open(t, opt)
			if err := l.Check(t.Context()); !errors.Is(err, test.want) {
				t.Errorf("%s, taken over %v: got %v, want %v", name, takeOver, err, test.want)
			}
			if _, err := s.SignedHead(t.Context()); !errors.Is(err, keyserver.ErrHeld) {
				t.Errorf("%s, taken over %v: it shows its head: %v", name, takeOver, err)
			}
			if err := errors.Join(l.Close(), s.Close()); err != nil {
				t.Error(err)
			}
		}
	}
}

// copied is a copy of a folder.
func copied(t *testing.T, dir string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"key", "log.key"} {
		if err := os.Chmod(filepath.Join(to, name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return to
}
