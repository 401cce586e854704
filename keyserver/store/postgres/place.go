package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/keyserver/store"
)

// DefaultSchema is where the tables are unless the URL says otherwise, by search_path.
const DefaultSchema = "keytree"

const (
	mostReaders    = 16              // connections for Views, unless the URL says pool_max_conns
	connectTime    = 5 * time.Second // to connect, unless the URL says connect_timeout
	inTransaction  = "3s"            // how long a transaction may wait for its client, who is cut off then
	noticeAbsence  = "2s"            // how often a server looks whether a client that waits is there
	keepAliveIdle  = 2 * time.Second
	keepAliveEvery = time.Second
	keepAliveCount = 3
)

// ErrURL says that a URL is not one of a store. The text of the error does not repeat it.
var ErrURL = errors.New("not the URL of a PostgreSQL store")

// Place is a schema of a database. It implements store.Place and store.SharedPlace.
type Place struct {
	Log zerolog.Logger // nowhere by default; is set before the place is used

	config *pgxpool.Config // is copied, never changed
	schema string
	name   string
	pace   pace
	began  time.Time // when it was parsed: what a lease counts time from
	// tamper, if not nil, comes before each statement of a commit, with its number, and has it
	// fail; tests do so.
	tamper func(step string) error
}

// Parse reads a URL as libpq has it: postgres://USER@HOST:PORT/DATABASE?PARAMETER=VALUE. The
// tables are in the schema that its search_path names, DefaultSchema without. It may name
// several hosts: the one that can be written is used. Passwords are refused, since others can
// read a command line: PGPASSWORD has it, or the file that passfile, PGPASSFILE or ~/.pgpass is.
// ErrURL.
func Parse(text string) (Place, error) {
	wrong := func(format string, args ...any) (Place, error) {
		return Place{}, fmt.Errorf("%w: "+format, append([]any{ErrURL}, args...)...)
	}
	u, err := url.Parse(text)
	if err != nil { // its text has the URL, and perhaps a password
		return wrong("expected postgres://USER@HOST:PORT/DATABASE, and it cannot be parsed")
	}
	if u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return wrong("expected postgres://USER@HOST:PORT/DATABASE")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return wrong("its parameters cannot be parsed")
	}
	_, secret := u.User.Password()
	if secret || query.Has("password") || query.Has("sslpassword") {
		return wrong("it holds a password, which others can read on a command line: give it in PGPASSWORD, or in a file that only its owner can read, ~/.pgpass or the one that passfile=FILE names")
	}
	config, err := pgxpool.ParseConfig(text)
	if err != nil {
		return wrong("%w", err)
	}
	schema := config.ConnConfig.RuntimeParams["search_path"]
	if schema == "" {
		schema = DefaultSchema
	}
	if !regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}$`).MatchString(schema) {
		return wrong("search_path: expected one schema of lower-case letters, digits and _, got %q", schema)
	}
	if !query.Has("pool_max_conns") {
		config.MaxConns = mostReaders
	}
	connection := config.ConnConfig
	if !query.Has("connect_timeout") {
		connection.ConnectTimeout = connectTime
	}
	dialer := &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: keepAliveIdle, Interval: keepAliveEvery, Count: keepAliveCount}}
	connection.DialFunc = dialer.DialContext
	connection.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	for name, value := range map[string]string{
		"search_path":                         schema,
		"idle_in_transaction_session_timeout": inTransaction,
		"client_connection_check_interval":    noticeAbsence,
		"default_transaction_isolation":       "read committed",
		"enable_seqscan":                      "off", // a plan that was made while a table was small stays
		"jit":                                 "off",
	} {
		connection.RuntimeParams[name] = value
	}
	for name, value := range map[string]string{"application_name": "keytree", "synchronous_commit": "on"} {
		if _, given := connection.RuntimeParams[name]; !given {
			connection.RuntimeParams[name] = value
		}
	}
	name := fmt.Sprintf("postgres://%s/%s (schema %s)", cmp.Or(u.Host, connection.Host), connection.Database, schema)
	return Place{config: config, schema: schema, name: name, pace: defaultPace(), began: time.Now()}, nil
}

// String implements store.Place.
func (p Place) String() string { return p.name }

// connect makes a connection that change, if not nil, has changed the settings of.
func (p Place) connect(ctx context.Context, change func(*pgx.ConnConfig)) (*pgx.Conn, error) {
	config := p.config.ConnConfig.Copy()
	if change != nil {
		change(config)
	}
	return pgx.ConnectConfig(ctx, config)
}

// connectToWrite connects to a server whose settings lose nothing that was committed, and refuses
// others.
func (p Place) connectToWrite(ctx context.Context, change func(*pgx.ConnConfig)) (*pgx.Conn, settings, error) {
	conn, err := p.connect(ctx, change)
	if err != nil {
		return nil, settings{}, translate(err)
	}
	set, err := readSettings(ctx, conn)
	if err != nil {
		err = translate(err)
	} else if err = set.check(); err != nil {
		err = fmt.Errorf("%s: %w", p, err)
	}
	if err != nil {
		closeConn(conn)
		return nil, settings{}, err
	}
	return conn, set, nil
}

// newDatabase returns a store that can be read, once the server can be reached.
func (p Place) newDatabase(ctx context.Context, change func(*pgx.ConnConfig)) (*database, error) {
	config := p.config.Copy()
	if change != nil {
		change(config.ConnConfig)
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	d := &database{place: p, pool: pool, lost: make(chan struct{})}
	d.writes.place = p
	d.writes.waits, d.giveUp = context.WithCancel(context.Background())
	return d, nil
}

// prepare makes the tables, and checks the server's settings.
func (p Place) prepare(ctx context.Context) error {
	conn, set, err := p.connectToWrite(ctx, nil)
	if err != nil {
		return err
	}
	defer closeConn(conn)
	for _, warning := range set.warnings() {
		p.Log.Warn().Stringer("store", p).Msg(warning)
	}
	return translate(pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return migrate(ctx, tx, p.schema) }))
}

// Open implements store.Place. ErrSettings if the server is not set to keep what it has
// acknowledged. It may take some seconds until another writer is seen to be gone.
func (p Place) Open(ctx context.Context) (store.Store, error) {
	d, err := p.openStandby(ctx)
	if err != nil {
		return nil, err
	}
	if err := d.acquire(ctx, false); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// OpenStandby implements store.SharedPlace. The errors are those of Open, but for
// store.ErrLocked.
func (p Place) OpenStandby(ctx context.Context) (store.Shared, error) {
	d, err := p.openStandby(ctx)
	if err != nil {
		return nil, err
	}
	return d, nil
}

func (p Place) openStandby(ctx context.Context) (*database, error) {
	if err := p.prepare(ctx); err != nil {
		return nil, err
	}
	return p.newDatabase(ctx, nil)
}

// OpenReadOnly implements store.Place. A replica will do, too.
func (p Place) OpenReadOnly(ctx context.Context) (store.Store, error) {
	reading := func(c *pgx.ConnConfig) {
		c.ValidateConnect = nil
		c.RuntimeParams["default_transaction_read_only"] = "on"
		c.RuntimeParams["idle_in_transaction_session_timeout"] = "0"
	}
	frozen, err := p.connect(ctx, reading)
	if err != nil {
		return nil, translate(err)
	}
	if err = checkVersion(ctx, frozen, p); err == nil {
		_, err = frozen.Exec(ctx, beginReading)
	}
	var snapshot string
	if err == nil {
		err = frozen.QueryRow(ctx, "SELECT pg_export_snapshot()").Scan(&snapshot)
	}
	var d *database
	if err == nil {
		d, err = p.newDatabase(ctx, reading)
	}
	if err != nil {
		closeConn(frozen)
		return nil, translate(err)
	}
	d.frozen, d.snapshot = frozen, snapshot
	return d, nil
}

// Create implements store.Place, in one transaction.
func (p Place) Create(ctx context.Context, fill func(store.Store) error) error {
	conn, _, err := p.connectToWrite(ctx, func(c *pgx.ConnConfig) { c.RuntimeParams["idle_in_transaction_session_timeout"] = "0" })
	if err != nil {
		return err
	}
	defer closeConn(conn)
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := migrate(ctx, tx, p.schema); err != nil {
			return translate(err)
		}
		// Who has opened it, and written nothing yet, is not the writer any more.
		if _, err := tx.Exec(ctx, "UPDATE writer SET epoch = epoch + 1, holder = NULL"); err != nil {
			return translate(err)
		}
		var any bool
		if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM kv)").Scan(&any); err != nil {
			return translate(err)
		}
		if any {
			return fmt.Errorf("%s is %w", p, store.ErrNotEmpty)
		}
		return fill(filling{ctx, tx})
	})
}

// filling is a store that is being made in a transaction. It implements store.Store.
type filling struct {
	ctx context.Context
	tx  pgx.Tx
}

// View implements store.Store.
func (f filling) View(ctx context.Context, read func(store.Reader) error) error {
	return read(reader{ctx, f.tx.Conn()})
}

// Commit implements store.Store.
func (f filling) Commit(writes []store.Write) error {
	g := newGroup(writes)
	if _, err := f.tx.Exec(f.ctx, put, g.keys, g.values, g.sums); err != nil {
		return translate(err)
	}
	_, err := f.tx.Exec(f.ctx, remove, g.removed)
	return translate(err)
}

// Limit implements store.Store.
func (f filling) Limit() store.Weight { return store.Weight{Writes: limitWrites, Bytes: limitBytes} }

// Room implements store.Store.
func (f filling) Room(uint64) error { return nil }

// Size implements store.Store.
func (f filling) Size() uint64 { return 0 }

// Inspect implements store.Store.
func (f filling) Inspect(context.Context) error { return nil }

// Close implements store.Store: the transaction ends with Create.
func (f filling) Close() error { return nil }

// holder names this process to people.
func holder() string {
	host, err := os.Hostname()
	if err != nil {
		host = "a host without a name"
	}
	return fmt.Sprintf("%s, process %d", host, os.Getpid())
}
