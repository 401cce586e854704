package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/keytree-bch/keytree/keyserver/store"
)

// steps are those of a commit, in their order, before which a test can step in.
func steps() []string { return []string{"begin", "epoch", "written", "commit"} }

// once returns an error at a step, the first time.
func once(step string, err error) func(string) error {
	var did bool
	return func(at string) error {
		if did || at != step {
			return nil
		}
		did = true
		return err
	}
}

// wantLast compares the number of the last commit, as it is stored.
func (d *database) wantLast(t *testing.T, want int64) {
	t.Helper()
	var last int64
	if err := d.pool.QueryRow(t.Context(), "SELECT last FROM commits").Scan(&last); err != nil || last != want {
		t.Errorf("%d commits are stored (%v), want %d", last, err, want)
	}
}

// statements: what fails before COMMIT is done again where that can help, and changes nothing
// where it cannot.
func statements(t *testing.T, w *world) {
	d := w.newPlace(t).open(t)
	commits := int64(0)
	for _, step := range steps() {
		for _, state := range []string{serializationFailure, deadlock, "57P01"} {
			d.writes.place.tamper = once(step, &pgconn.PgError{Code: state, SeverityUnlocalized: "ERROR"})
			if err := d.Commit([]store.Write{set("a", step+state)}); err != nil {
				t.Errorf("%s at %s: %v", state, step, err)
			}
			commits++
			if got := stored(t, d, "a"); got != step+state {
				t.Errorf("%s at %s: stored is %q", state, step, got)
			}
		}
		for state, want := range map[string]error{diskFull: store.ErrDiskFull, dataCorrupted: store.ErrDamaged} {
			before := stored(t, d, "a")
			d.writes.place.tamper = once(step, &pgconn.PgError{Code: state, SeverityUnlocalized: "ERROR"})
			if err := d.Commit([]store.Write{set("a", "lost")}); !errors.Is(err, want) {
				t.Errorf("%s at %s: got %v, want %v", state, step, err, want)
			}
			if got := stored(t, d, "a"); got != before {
				t.Errorf("%s at %s: stored is %q", state, step, got)
			}
		}
	}
	d.wantLast(t, commits)
}

// failures: the server itself has each statement that writes fail once, and COMMIT, as it does where
// transactions cannot be put in order. The commit lands all the same, once.
func failures(t *testing.T, w *world) {
	for name, trigger := range map[string]string{
		"number": "TRIGGER once BEFORE UPDATE ON commits FOR EACH ROW",
		"insert": "TRIGGER once BEFORE INSERT ON kv FOR EACH ROW",
		"update": "TRIGGER once BEFORE UPDATE ON kv FOR EACH ROW",
		"delete": "TRIGGER once BEFORE DELETE ON kv FOR EACH ROW",
		"commit": "CONSTRAINT TRIGGER once AFTER UPDATE ON commits DEFERRABLE INITIALLY DEFERRED FOR EACH ROW",
	} {
		p := w.newPlace(t)
		d := p.open(t)
		if err := d.Commit([]store.Write{set("a", "1"), set("b", "1")}); err != nil {
			t.Fatal(err)
		}
		for _, state := range []string{serializationFailure, deadlock} {
			p.exec(t, fmt.Sprintf(`
				CREATE SEQUENCE times;
				CREATE FUNCTION once() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
					IF nextval('times') = 1 THEN RAISE SQLSTATE '%s'; END IF; -- which no rollback takes back
					RETURN coalesce(NEW, OLD);
				END $$;
				CREATE %s EXECUTE FUNCTION once()`, state, trigger))
			if err := d.Commit([]store.Write{set("a", state), {Key: []byte("b"), Delete: true}}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if a, b := stored(t, d, "a"), stored(t, d, "b"); a != state || b != "none" {
				t.Errorf("%s: stored are %q and %q", name, a, b)
			}
			var times int64
			if err := d.pool.QueryRow(t.Context(), "SELECT last_value FROM times").Scan(&times); err != nil || times < 2 {
				t.Errorf("%s: it was tried %d times, %v", name, times, err)
			}
			p.exec(t, "DROP FUNCTION once CASCADE; DROP SEQUENCE times")
			if err := d.Commit([]store.Write{set("b", "1")}); err != nil {
				t.Error(err)
			}
		}
		d.wantLast(t, 5)
	}
}

// lostAnswers: a commit whose answer is lost is found out about, whether it has landed or not.
func lostAnswers(t *testing.T, w *world) {
	d := w.newPlace(t).open(t)
	terminate := func() {
		pid := d.writes.conn.PgConn().PID()
		if _, err := d.pool.Exec(context.Background(), "SELECT pg_terminate_backend($1, 5000)", int32(pid)); err != nil {
			t.Error(err)
		}
	}
	commits := int64(0)
	for _, step := range append(steps(), "committed") {
		var did bool
		d.writes.place.tamper = func(at string) error {
			if did || at != step {
				return nil
			}
			did = true
			terminate()
			if at == "committed" {
				return net.ErrClosed // instead of the answer
			}
			return nil
		}
		if err := d.Commit([]store.Write{set("a", step)}); err != nil {
			t.Errorf("at %s: %v", step, err)
		}
		commits++
		if got := stored(t, d, "a"); got != step || !did {
			t.Errorf("at %s: stored is %q", step, got)
		}
	}
	d.wantLast(t, commits)
	d.writes.warned = ""
	var warned bool
	d.writes.place.tamper = func(at string) error { // as when somebody cancels the wait for a replica
		if at == "committed" && !warned {
			warned, d.writes.warned = true, "canceling wait for synchronous replication"
		}
		return nil
	}
	if err := d.Commit([]store.Write{set("a", "warned")}); err != nil {
		t.Error(err)
	}
	d.wantLast(t, commits+1)
}

// wantLost checks that a store that was replaced does nothing more.
func wantLost(t *testing.T, d *database) {
	t.Helper()
	select {
	case <-d.Lost():
	case <-t.Context().Done():
	}
	if err := d.Commit([]store.Write{set("a", "late")}); !errors.Is(err, store.ErrLocked) {
		t.Errorf("Commit: got %v, want %v", err, store.ErrLocked)
	}
	if err := d.View(t.Context(), func(store.Reader) error { t.Error("it is read"); return nil }); !errors.Is(err, store.ErrLocked) {
		t.Errorf("View: got %v, want %v", err, store.ErrLocked)
	}
}

// buried has the server say that the writer is gone, who is not.
func (p place) buried(t *testing.T) {
	t.Helper()
	p.exec(t, "UPDATE writer SET pid = 0")
}

// fenced: a writer that was replaced commits nothing more, whether it knows it or not.
func fenced(t *testing.T, w *world) {
	p := w.newPlace(t)
	p.pace.beat = time.Hour // the first one does nothing that would tell it
	first := p.open(t)
	if err := first.Commit([]store.Write{set("a", "first")}); err != nil {
		t.Fatal(err)
	}
	p.buried(t)
	second := p.open(t)
	if err := first.Commit([]store.Write{set("a", "late")}); !errors.Is(err, store.ErrLocked) {
		t.Errorf("got %v, want %v", err, store.ErrLocked)
	}
	wantLost(t, first)
	if got := stored(t, second, "a"); got != "first" {
		t.Errorf("stored is %q", got)
	}
	if err := second.Commit([]store.Write{set("a", "second")}); err != nil {
		t.Error(err)
	}
	second.wantLast(t, 2)
	if err := first.Close(); err != nil { // gives back nothing
		t.Error(err)
	}
	if err := second.Commit([]store.Write{set("a", "third")}); err != nil {
		t.Error(err)
	}
}

// midCommit: who takes over while a commit is under way waits for it, and goes on behind it;
// one that finds out nothing about its commit any more says so.
func midCommit(t *testing.T, w *world) {
	for _, step := range []string{"epoch", "written", "commit", "committed"} {
		p := w.newPlace(t)
		p.pace.beat = time.Hour
		first := p.open(t)
		p.buried(t)
		second := make(chan *database, 1)
		var taking sync.WaitGroup
		var did bool
		first.writes.place.tamper = func(at string) error {
			if did || at != step {
				return nil
			}
			did = true
			taking.Go(func() { second <- p.open(t) })
			if at == "committed" { // the answer is lost, and somebody else writes
				taking.Wait()
				return net.ErrClosed
			}
			return nil
		}
		err := first.Commit([]store.Write{set("a", step)})
		if step == "committed" {
			for _, sure := range []error{store.ErrLocked, store.ErrDiskFull, store.ErrClosed, store.ErrReadOnly} {
				if err == nil || errors.Is(err, sure) {
					t.Errorf("at %s: got %v, want that nobody knows", step, err)
				}
			}
		} else if err != nil {
			t.Errorf("at %s: %v", step, err)
		}
		taking.Wait()
		s := <-second
		if got := stored(t, s, "a"); got != step {
			t.Errorf("at %s: the second reads %q", step, got)
		}
		if err := s.Commit([]store.Write{set("b", step)}); err != nil {
			t.Errorf("at %s: the second: %v", step, err)
		}
		s.wantLast(t, 2)
	}
}

// takeOver: a standby reads what is committed, writes nothing, and takes over from one that has
// closed the store, or is gone; not from one that lives.
func takeOver(t *testing.T, w *world) {
	p := w.newPlace(t)
	first := p.open(t)
	standby, err := p.OpenStandby(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { standby.Close() })
	if err := first.Commit([]store.Write{set("a", "1")}); err != nil {
		t.Fatal(err)
	}
	if got := stored(t, standby, "a"); got != "1" {
		t.Errorf("the standby reads %q", got)
	}
	if err := standby.Commit([]store.Write{set("a", "2")}); !errors.Is(err, store.ErrReadOnly) {
		t.Errorf("got %v, want %v", err, store.ErrReadOnly)
	}
	given, cancel := context.WithTimeout(t.Context(), 10*p.pace.beat)
	defer cancel()
	if err := standby.TakeOver(given); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("from one that lives: %v", err)
	}
	if err := first.Commit([]store.Write{set("a", "3")}); err != nil {
		t.Error(err)
	}
	// Its connections end, as with the process, but it does not give the lease back.
	first.leased.Load().stop()
	<-first.leased.Load().done
	closeConn(first.leased.Load().conn)
	if err := standby.TakeOver(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := standby.Commit([]store.Write{set("a", "4")}); err != nil {
		t.Error(err)
	}
	if err := first.Commit([]store.Write{set("a", "5")}); !errors.Is(err, store.ErrLocked) {
		t.Errorf("got %v, want %v", err, store.ErrLocked)
	}
	if got := stored(t, standby, "a"); got != "4" {
		t.Errorf("stored is %q", got)
	}
}

// frozen: who only reads sees one state, and needs no writer's end.
func frozen(t *testing.T, w *world) {
	p := w.newPlace(t)
	if _, err := p.OpenReadOnly(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("where nothing is: %v", err)
	}
	d := p.open(t)
	if err := d.Commit([]store.Write{set("a", "1")}); err != nil {
		t.Fatal(err)
	}
	r, err := p.OpenReadOnly(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := d.Commit([]store.Write{set("a", "2")}); err != nil {
		t.Fatal(err)
	}
	if got := stored(t, r, "a"); got != "1" {
		t.Errorf("read is %q, as of later", got)
	}
}

// stale: a writer that could not renew its lease shows nothing until it can.
func stale(t *testing.T, w *world) {
	p := w.newPlace(t)
	p.pace.beat = time.Hour
	d := p.open(t)
	l := d.leased.Load()
	l.renewed.Add(-int64(p.pace.patience))
	if err := d.View(t.Context(), func(store.Reader) error { return nil }); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("got %v, want %v", err, store.ErrUnavailable)
	}
	l.renewed.Add(int64(p.pace.patience))
	if err := d.View(t.Context(), func(store.Reader) error { return nil }); err != nil {
		t.Error(err)
	}
}

// badSettings: a server that may lose what it has acknowledged is refused.
func badSettings(t *testing.T, w *world) {
	for _, commit := range []string{"off", "local", "remote_write"} {
		p, err := Parse(w.url("settings") + "&synchronous_commit=" + commit)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Open(t.Context()); !errors.Is(err, ErrSettings) {
			t.Errorf("synchronous_commit=%s: got %v, want %v", commit, err, ErrSettings)
		}
	}
	good := settings{version: minVersion, fsync: "on", pages: "on", commit: "on", transaction: "off"}
	for name, change := range map[string]func(*settings){
		"fsync":     func(s *settings) { s.fsync = "off" },
		"pages":     func(s *settings) { s.pages = "off" },
		"version":   func(s *settings) { s.version = 140010 },
		"read only": func(s *settings) { s.transaction = "on" },
	} {
		bad := good
		change(&bad)
		if err := bad.check(); !errors.Is(err, ErrSettings) {
			t.Errorf("%s: got %v, want %v", name, err, ErrSettings)
		}
	}
	if err := good.check(); err != nil || len(good.warnings()) != 2 {
		t.Errorf("%v, warnings %q", err, good.warnings())
	}
}

// versions: tables of a later keytree are left alone.
func versions(t *testing.T, w *world) {
	p := w.newPlace(t)
	if err := p.open(t).Close(); err != nil {
		t.Fatal(err)
	}
	p.exec(t, "UPDATE version SET version = 99")
	if _, err := p.Open(t.Context()); err == nil {
		t.Error("it was opened")
	}
	if _, err := p.OpenReadOnly(t.Context()); err == nil {
		t.Error("it was opened to be read")
	}
}

// replicaAway: a commit waits for a replica for as long as it is away, also longer than for a
// server; unless another writer comes.
func replicaAway(t *testing.T, w *world) {
	const waiting = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep')"
	for _, replaced := range []bool{false, true} {
		p := w.newPlace(t)
		p.pace.landing = time.Second // in which a slow machine has to begin the commit
		d := p.open(t)
		w.cluster.Set(t, "synchronous_standby_names = 'nobody'")
		committed := make(chan error, 1)
		go func() { committed <- d.Commit([]store.Write{set("a", "1")}) }()
		w.cluster.Await(t, waiting, committed)
		select {
		case err := <-committed:
			t.Errorf("it did not wait: %v", err)
		case <-time.After(p.pace.landing * 3 / 2):
		}
		if replaced {
			d.lose()
			if err := <-committed; err == nil {
				t.Error("acknowledged without the replica")
			}
		}
		w.cluster.Set(t, "synchronous_standby_names = ''")
		if replaced {
			continue
		}
		if err := <-committed; err != nil {
			t.Error(err)
		}
		if got := stored(t, d, "a"); got != "1" {
			t.Errorf("stored is %q", got)
		}
	}
}

// restart: the server is killed and started again under a writer, who goes on, and has lost
// nothing that was acknowledged.
func restart(t *testing.T, w *world) {
	d := w.newPlace(t).open(t)
	acknowledged := 0
	next := func() {
		acknowledged++
		if err := d.Commit([]store.Write{set("a", fmt.Sprint(acknowledged))}); err != nil {
			t.Fatalf("commit %d: %v", acknowledged, err)
		}
	}
	next()
	killed := make(chan struct{})
	go func() {
		defer close(killed)
		w.cluster.Kill(t)
		w.cluster.Begin(t)
	}()
	for again := true; again; {
		select {
		case <-killed:
			again = false
		default:
		}
		next()
	}
	next()
	if got := stored(t, d, "a"); got != fmt.Sprint(acknowledged) {
		t.Errorf("stored is %q, want %d", got, acknowledged)
	}
	d.wantLast(t, int64(acknowledged))
}
