package postgres

import (
	"context"
	"fmt"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/keytree-bch/keytree/keyserver/store"
	"github.com/keytree-bch/keytree/keyserver/store/postgres/postgrestest"
	"github.com/keytree-bch/keytree/keyserver/store/storetest"
)

// world is a server with a place for each test.
type world struct {
	cluster *postgrestest.Cluster
	places  atomic.Int64
}

// place is a schema for one store. It implements storetest.Place.
type place struct {
	Place
	world *world
}

// newPlace returns a place where nothing is yet. A writer that lives is not taken for dead in
// it, however slow the machine.
func (w *world) newPlace(t *testing.T) place {
	t.Helper()
	p := w.parse(t, fmt.Sprintf("s%d", w.places.Add(1)))
	p.pace = pace{beat: 20 * time.Millisecond, poll: 5 * time.Millisecond, grace: 30 * time.Millisecond, patience: time.Minute, landing: landingTime}
	return place{p, w}
}

func (w *world) parse(t *testing.T, schema string) Place {
	t.Helper()
	p, err := Parse(w.url(schema))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (w *world) url(schema string) string {
	return w.cluster.URL("postgres", url.Values{"search_path": {schema}})
}

// exec runs SQL in the schema of a place.
func (p place) exec(t *testing.T, sql string) {
	t.Helper()
	conn := p.world.cluster.Connect(t, "postgres", url.Values{"search_path": {p.schema}})
	if _, err := conn.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// Crashed implements storetest.Place: a copy, of whose writer the server has no session.
func (p place) Crashed(t *testing.T) storetest.Place {
	t.Helper()
	copied := p.world.newPlace(t)
	sql := "BEGIN ISOLATION LEVEL REPEATABLE READ; CREATE SCHEMA " + copied.schema + ";"
	for _, table := range []string{"version", "kv", "writer", "commits"} {
		sql += fmt.Sprintf("CREATE TABLE %[1]s.%[2]s (LIKE %[2]s INCLUDING ALL); INSERT INTO %[1]s.%[2]s SELECT * FROM %[2]s;", copied.schema, table)
	}
	p.exec(t, sql+"UPDATE "+copied.schema+".writer SET pid = 0; COMMIT")
	return copied
}

// Damage implements storetest.Place.
func (p place) Damage(t *testing.T) {
	t.Helper()
	p.exec(t, "UPDATE kv SET value = set_byte(value, 0, get_byte(value, 0) # 1) WHERE key = '50'")
}

// TestStore runs all tests that need a server, on one.
func TestStore(t *testing.T) {
	w := &world{cluster: postgrestest.Start(t)}
	t.Run("Conformance", func(t *testing.T) {
		storetest.Run(t, func(t *testing.T) storetest.Place { return w.newPlace(t) })
	})
	for name, test := range map[string]func(*testing.T, *world){
		"Statements":  statements,
		"Failures":    failures,
		"LostAnswers": lostAnswers,
		"Fenced":      fenced,
		"MidCommit":   midCommit,
		"TakeOver":    takeOver,
		"Frozen":      frozen,
		"Stale":       stale,
		"Settings":    badSettings,
		"Versions":    versions,
	} {
		t.Run(name, func(t *testing.T) { test(t, w) })
	}
	t.Run("ReplicaAway", func(t *testing.T) { replicaAway(t, w) }) // alone: all commits wait
	t.Run("Restart", func(t *testing.T) { restart(t, w) })         // after the others: it ends the server
}

// open opens the store of a place to write until the test ends.
func (p place) open(t *testing.T) *database {
	t.Helper()
	s, err := p.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s.(*database)
}

func set(key, value string) store.Write {
	return store.Write{Key: []byte(key), Value: []byte(value)}
}

// stored returns the value of a key, "none" if there is none.
func stored(t *testing.T, s store.Store, key string) (value string) {
	t.Helper()
	err := s.View(context.Background(), func(r store.Reader) error {
		b, ok, err := r.Get([]byte(key))
		if value = string(b); !ok {
			value = "none"
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return value
}
