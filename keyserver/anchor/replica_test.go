package anchor

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	service "github.com/keytree-bch/keytree/keyserver"
	"github.com/keytree-bch/keytree/keyserver/store/postgres"
	"github.com/keytree-bch/keytree/keyserver/store/postgres/postgrestest"
	"github.com/keytree-bch/keytree/keyserver/token"
)

// TestLaggingReplica has a keyserver on PostgreSQL anchored, and a replica promoted that lacks what was
// anchored last. A server that knows nothing of it but the anchors shows nothing, whether it
// starts or takes over.
func TestLaggingReplica(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts two PostgreSQL")
	}
	primary := postgrestest.Start(t)
	replica := primary.Replica(t, "r1")
	primary.Set(t, "synchronous_standby_names = 'r1'")
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	open := func(c *postgrestest.Cluster, standby bool) *service.Service {
		t.Helper()
		place, err := postgres.Parse(c.URL("postgres", nil))
		if err != nil {
			t.Fatal(err)
		}
		s, err := service.Open(t.Context(), service.Options{
			Domain: testDomain, Place: place, Dir: filepath.Join(dir, "keyserver"), KeyFile: key, Tokens: token.Open{}, Held: true, Standby: standby,
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
	s := open(primary, false)
	keys, err := os.ReadFile(key) // as another server has them
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t)
	r.of = s
	r.start()
	s.Release()
	r.fund(1_000_000)
	r.step()
	r.w.mine(1)
	r.step()

	primary.Lose(t, replica)
	primary.Set(t, "synchronous_standby_names = ''")
	if _, err := s.RotateKey(t.Context()); err != nil { // an entry as any other
		t.Fatal(err)
	}
	r.now = r.now.Add(time.Hour)
	r.step()
	r.w.mine(1)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	primary.Kill(t)
	replica.Begin(t)
	replica.Promote(t)
	if err := os.WriteFile(key, keys, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, takeOver := range []bool{false, true} {
		s := open(replica, takeOver)
		r.of = s
		if err := r.open(); err != nil {
			t.Fatal(err)
		}
		if err := r.p.Check(t.Context()); !errors.Is(err, ErrAhead) {
			t.Errorf("taken over %v: got %v, want %v", takeOver, err, ErrAhead)
		}
		if _, err := s.SignedHead(t.Context()); !errors.Is(err, service.ErrHeld) {
			t.Errorf("taken over %v: it shows its head: %v", takeOver, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
