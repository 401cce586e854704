package keyserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/keyserver/store/postgres/postgrestest"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// registrants are 64 clients that register identities, one after the other.
type registrants struct {
	t      *testing.T
	s      *Service
	passes []error // what a call may fail with
	stop   context.CancelFunc
	done   sync.WaitGroup

	mu           sync.Mutex
	changed      *sync.Cond
	acknowledged map[*uid.Message]*uid.Reply // mu
	failed       int                         // mu
}

// register begins to register, until stop. Errors other than those that pass fail the test.
func register(t *testing.T, s *Service, passes ...error) *registrants {
	r := &registrants{t: t, s: s, passes: passes, acknowledged: make(map[*uid.Message]*uid.Reply)}
	r.changed = sync.NewCond(&r.mu)
	ctx, stop := context.WithCancel(t.Context())
	r.stop = stop
	head := s.lastText()
	for n := range uint64(stormClients) {
		r.done.Go(func() {
			for i := uint64(0); ctx.Err() == nil; i++ {
				m := messageAfter(s, head, fmt.Sprintf("n%s@example.org", letters(n<<12|i)), newKey(n<<12|i))
				reply, err := s.CreateUID(t.Context(), m, "")
				r.add(m, reply, err)
				if err != nil {
					time.Sleep(10 * time.Millisecond) // as clients do
				}
			}
		})
	}
	t.Cleanup(func() { stop(); r.done.Wait() })
	return r
}

func (r *registrants) add(m *uid.Message, reply *uid.Reply, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.changed.Broadcast()
	if err == nil {
		r.acknowledged[m] = reply
		return
	}
	r.failed++
	for _, passes := range r.passes {
		if errors.Is(err, passes) && !errors.Is(err, ErrFailed) {
			return
		}
	}
	r.t.Errorf("%s: %v", m.Content.Identity, err)
	r.stop()
}

// more waits until so many more are acknowledged, or so many more have failed.
func (r *registrants) more(acknowledged, failed int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for a, f := len(r.acknowledged), r.failed; len(r.acknowledged) < a+acknowledged || r.failed < f+failed; {
		if r.t.Failed() {
			return
		}
		r.changed.Wait()
	}
}

// end ends the clients, and checks that the chain is sound and has what was acknowledged. A commit may
// land a moment before the lease is renewed after an outage, and until it is nothing is read.
func (r *registrants) end() {
	r.t.Helper()
	r.stop()
	r.done.Wait()
	for deadline := time.Now().Add(time.Minute); r.s.Ready() != nil && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	mustCheck(r.t, r.s)
	for m, reply := range r.acknowledged {
		if stored, err := r.s.FetchUID(r.t.Context(), uid.Index(m.Hash())); err != nil || !bytes.Equal(stored, reply.Canonical()) {
			r.t.Fatalf("%s: acknowledged, and not stored: %v", m.Content.Identity, err)
		}
	}
	if size := r.s.Chain().Size; size != uint64(len(r.acknowledged))+1 {
		r.t.Logf("%d were acknowledged, the chain has %d entries", len(r.acknowledged), size)
	}
}

// onCluster has the stores of the test in a server, with parameters in the URL.
func onCluster(t *testing.T, c *postgrestest.Cluster, more url.Values) {
	t.Helper()
	t.Setenv(onPostgres, c.URL("postgres", more))
}

// needsClusters skips a test that starts servers of its own.
func needsClusters(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("it starts a PostgreSQL")
	}
}

// TestDataDiskFull fills the disk that PostgreSQL has the tables on, under load by 64 clients.
// Calls are refused while it is full, reads are answered, and when there is room again the service
// goes on by itself.
func TestDataDiskFull(t *testing.T) {
	needsClusters(t)
	c := postgrestest.Start(t)
	disk := c.SmallDisk(t, "small", 64)
	c.Tablespace(t, "small", disk)
	onCluster(t, c, url.Values{"default_tablespace": {"small"}})
	s := openTest(t, testOptions(t.TempDir(), newClock()))
	clients := register(t, s, ErrDiskFull)
	clients.more(10, 0)
	for range 2 {
		disk.Fill(t)
		clients.more(0, stormClients)
		if _, _, err := s.LastEntry(t.Context()); err != nil {
			t.Errorf("a read: %v", err)
		}
		disk.Empty(t)
		clients.more(stormClients, 0)
	}
	clients.end()
}

// TestLogDiskFull fills the disk that PostgreSQL has its write-ahead log on: it ends, and cannot
// start. When it can, the service goes on by itself.
func TestLogDiskFull(t *testing.T) {
	needsClusters(t)
	c := postgrestest.Start(t)
	disk := c.SmallDisk(t, "small", 256)
	c.MoveLog(t, disk)
	onCluster(t, c, nil)
	s := openTest(t, testOptions(t.TempDir(), newClock()))
	clients := register(t, s, ErrUnavailable, ErrDiskFull)
	clients.more(10, 0)
	disk.Fill(t)
	c.Exhaust(t)
	disk.Empty(t)
	c.Kill(t)
	c.Begin(t)
	clients.more(stormClients, 0)
	clients.end()
}

// TestServerKilled kills PostgreSQL and starts it again, under load by 64 clients: the service goes
// on by itself, and nothing that was acknowledged is lost.
func TestServerKilled(t *testing.T) {
	needsClusters(t)
	c := postgrestest.Start(t)
	onCluster(t, c, nil)
	s := openTest(t, testOptions(t.TempDir(), newClock()))
	clients := register(t, s, ErrUnavailable)
	rounds := 2
	if exhaustive() {
		rounds = 20
	}
	for range rounds {
		clients.more(stormClients, 0)
		c.Kill(t)
		c.Begin(t)
	}
	clients.more(stormClients, 0)
	clients.end()
}

// TestCutOff cuts a service off from its database, as if the network had ended: it says that it is not
// ready, so that who balances loads asks another one, and is ready again by itself.
func TestCutOff(t *testing.T) {
	needsClusters(t)
	link := postgrestest.Start(t).Link(t)
	t.Setenv(onPostgres, link.URL("postgres", nil))
	s := openTest(t, testOptions(t.TempDir(), newClock()))
	grow(t, s, 1)
	link.Cut(true)
	for s.Ready() == nil {
		time.Sleep(10 * time.Millisecond)
	}
	if err := s.Ready(); !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	if _, err := s.RotateKey(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a write: %v", err)
	}
	if _, err := s.FetchUID(t.Context(), [32]byte{}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a read: %v", err)
	}
	link.Cut(false)
	for s.Ready() != nil {
		time.Sleep(10 * time.Millisecond)
	}
	grow(t, s, 1)
	mustCheck(t, s)
}

// TestLaggingReplica has a synchronous replica. While it is away nothing is acknowledged. When it is
// promoted without the last transactions, since somebody has taken it out of
// synchronous_standby_names, the server that has acknowledged them does not go on with it.
func TestLaggingReplica(t *testing.T) {
	needsClusters(t)
	primary := postgrestest.Start(t)
	replica := primary.Replica(t, "r1")
	primary.Set(t, "synchronous_standby_names = 'r1'")
	dir := t.TempDir()
	onCluster(t, primary, nil)
	opt := testOptions(dir, newClock())
	opt.Acknowledged = filepath.Join(dir, "key.acknowledged")
	s := openTest(t, opt)
	grow(t, s, 3)

	primary.Lose(t, replica)
	m := message(s, "waits@example.org", newKey(99))
	created := make(chan error, 1)
	go func() { _, err := s.CreateUID(t.Context(), m, ""); created <- err }()
	primary.Await(t, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep')", created)
	select {
	case err := <-created:
		t.Fatalf("acknowledged without the replica: %v", err)
	default:
	}
	if size := s.Chain().Size; size != 4 {
		t.Errorf("%d entries are shown, of which the replica has 4", size)
	}
	replica.Begin(t)
	if err := <-created; err != nil {
		t.Fatal(err)
	}

	primary.Lose(t, replica)
	primary.Set(t, "synchronous_standby_names = ''")
	grow(t, s, 2)
	size := s.Chain().Size
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	primary.Kill(t)
	replica.Begin(t)
	replica.Promote(t)
	onCluster(t, replica, nil)
	lost := at(opt, opt.Dir)
	standing := lost
	standing.Standby = true
	for what, opt := range map[string]Options{"a start": lost, "a standby": standing} {
		again, err := Open(t.Context(), opt)
		if err == nil {
			again.Close()
		}
		if !errors.Is(err, ErrMismatch) || !strings.Contains(err.Error(), fmt.Sprintf("up to size %d", size)) {
			t.Errorf("%s: got %v", what, err)
		}
	}
}
