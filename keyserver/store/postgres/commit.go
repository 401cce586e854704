package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/keytree-bch/keytree/keyserver/store"
)

const (
	// landingTime is how long a commit may take until COMMIT is sent, and then until it is known
	// whether it has landed, if the connection ends: the time in which the server is away is included,
	// but not that in which it is there and waits for a replica.
	landingTime = 30 * time.Second
	// retryEvery is the time between two tries.
	retryEvery = 100 * time.Millisecond
)

// The statements of a commit.
const (
	beginWriting = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
	holdEpoch    = "SELECT FROM writer WHERE epoch = $1 FOR KEY SHARE"
	takeNumber   = "UPDATE commits SET last = $1 WHERE last = $1 - 1"
	readNumber   = "UPDATE commits SET last = last RETURNING last" // it waits for who holds the row
	put          = `INSERT INTO kv (key, value, sum) SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::bytea[])
		ON CONFLICT (key) DO UPDATE SET value = excluded.value, sum = excluded.sum`
	remove = "DELETE FROM kv WHERE key = ANY($1::bytea[])"
)

// commits makes commits, by a connection of its own. It is for one goroutine at a time.
type commits struct {
	place  Place
	conn   *pgx.Conn // nil if there is none
	epoch  int64
	last   int64           // number of the last commit that has landed
	waits  context.Context // of COMMIT, which may take as long as replicas are away: ends when somebody else writes
	warned string          // what the server has warned of in the last transaction
}

// group is what a commit writes.
type group struct {
	keys, values, sums [][]byte
	removed            [][]byte
}

// newGroup leaves of several writes to a key the last one.
func newGroup(writes []store.Write) (g group) {
	last := make(map[string]int, len(writes))
	for i, w := range writes {
		last[string(w.Key)] = i
	}
	for i, w := range writes {
		switch {
		case last[string(w.Key)] != i:
		case w.Delete:
			g.removed = append(g.removed, w.Key)
		default:
			value := w.Value
			if value == nil {
				value = []byte{} // nil would be NULL
			}
			g.keys, g.values, g.sums = append(g.keys, w.Key), append(g.values, value), append(g.sums, sumOf(w.Key, value))
		}
	}
	return g
}

// errUnsure says that COMMIT was sent, and that nobody knows what came of it.
var errUnsure = errors.New("the connection ended before the commit was answered")

// errFenced says that somebody else is the writer. Nothing has landed.
var errFenced = errors.New("the lease has another epoch")

// Commit implements store.Store. It waits for a server that is away, up to 30 seconds.
func (d *database) Commit(writes []store.Write) error {
	switch {
	case d.closed.Load():
		return store.ErrClosed
	case d.leased.Load() == nil:
		return store.ErrReadOnly
	}
	select {
	case <-d.lost:
		return d.replaced()
	default:
	}
	err := d.writes.land(newGroup(writes))
	if errors.Is(err, errFenced) {
		d.lose()
		return fmt.Errorf("%w: %w", d.replaced(), err)
	}
	return err
}

// land tries until a group has landed, or cannot.
func (c *commits) land(g group) error {
	landing := c.place.pace.landing
	ctx, cancel := context.WithTimeout(context.Background(), landing)
	defer cancel()
	for {
		err := c.try(ctx, func(ctx context.Context, conn *pgx.Conn) error { return c.write(ctx, conn, g) })
		if errors.Is(err, errUnsure) {
			var landed bool
			settling, cancel := context.WithTimeout(context.Background(), landing)
			landed, err = c.settle(settling)
			cancel()
			if err != nil { // which wraps nothing that would say that it has not
				return fmt.Errorf("it is not known whether commit %d has landed: %v", c.last+1, err)
			}
			if !landed {
				continue
			}
		}
		switch {
		case err == nil:
			c.last++
			return nil
		case !again(err):
			return translate(err)
		}
		if pauseErr := pause(ctx, retryEvery); pauseErr != nil {
			return fmt.Errorf("%w: commit %d was given up after %v, nothing has landed: %w", store.ErrUnavailable, c.last+1, landing, err)
		}
	}
}

// settle finds out whether the commit behind the last one has landed. What it finds is durable.
func (c *commits) settle(ctx context.Context) (landed bool, err error) {
	for {
		var last int64
		err := c.try(ctx, func(ctx context.Context, conn *pgx.Conn) error {
			return conn.QueryRow(ctx, readNumber).Scan(&last)
		})
		switch {
		case err == nil && last != c.last && last != c.last+1:
			return false, fmt.Errorf("%w: expected commit %d or %d to be the last one, got %d", store.ErrDamaged, c.last, c.last+1, last)
		case err == nil:
			return last == c.last+1, nil
		case errors.Is(err, errFenced):
			return false, errors.New("another server has taken over meanwhile") // whether before or after it, nobody can tell
		case !again(err) && !errors.Is(err, errUnsure) && stateOf(err) != diskFull:
			return false, err
		}
		if err := errors.Join(pause(ctx, retryEvery), err); ctx.Err() != nil {
			return false, err
		}
	}
}

// try runs a transaction of the writer once. errFenced and errUnsure are among its errors; after
// any other, nothing has landed.
func (c *commits) try(ctx context.Context, work func(context.Context, *pgx.Conn) error) error {
	conn, err := c.connected(ctx)
	if err != nil {
		return err
	}
	c.warned = ""
	if err := c.begin(ctx, conn, work); err != nil {
		c.rollback(ctx)
		return err
	}
	if err := c.tampered("commit"); err != nil {
		c.rollback(ctx)
		return err
	}
	tag, err := conn.Exec(c.waits, "COMMIT")
	if err == nil {
		err = c.tampered("committed")
	}
	switch {
	case err != nil && stateOf(err) != "" && !fatal(err):
		c.rollback(ctx)
		return err // the server has rolled it back
	case err != nil:
		c.drop()
		return fmt.Errorf("%w: %w", errUnsure, err)
	case tag.String() != "COMMIT":
		return fmt.Errorf("expected the answer COMMIT, got %q", tag)
	case c.warned != "":
		return fmt.Errorf("%w: the server warns: %s", errUnsure, c.warned)
	}
	return nil
}

// begin begins a transaction that holds the epoch, and does the work in it.
func (c *commits) begin(ctx context.Context, conn *pgx.Conn, work func(context.Context, *pgx.Conn) error) error {
	if err := c.tampered("begin"); err != nil {
		return err
	}
	var batch pgx.Batch
	batch.Queue(beginWriting)
	batch.Queue(holdEpoch, c.epoch)
	results := conn.SendBatch(ctx, &batch)
	_, err := results.Exec()
	var tag pgconn.CommandTag
	if err == nil {
		tag, err = results.Exec()
	}
	if err := errors.Join(err, results.Close()); err != nil {
		return err
	}
	if tag.RowsAffected() != 1 {
		return errFenced
	}
	if err := c.tampered("epoch"); err != nil {
		return err
	}
	return work(ctx, conn)
}

// write writes a group within a transaction.
func (c *commits) write(ctx context.Context, conn *pgx.Conn, g group) error {
	var batch pgx.Batch
	batch.Queue(takeNumber, c.last+1)
	if len(g.keys) > 0 {
		batch.Queue(put, g.keys, g.values, g.sums)
	}
	if len(g.removed) > 0 {
		batch.Queue(remove, g.removed)
	}
	results := conn.SendBatch(ctx, &batch)
	tag, err := results.Exec()
	for n := 1; n < batch.Len() && err == nil; n++ {
		_, err = results.Exec()
	}
	if err := errors.Join(err, results.Close()); err != nil {
		return err
	}
	if tag.RowsAffected() != 1 {
		return fmt.Errorf("%w: commit %d is not the last one, though nobody else may write", store.ErrDamaged, c.last)
	}
	return c.tampered("written")
}

// connected returns the connection, a new one if there is none.
func (c *commits) connected(ctx context.Context) (*pgx.Conn, error) {
	if c.conn != nil && !c.conn.IsClosed() {
		return c.conn, nil
	}
	conn, err := c.place.connect(ctx, func(config *pgx.ConnConfig) {
		config.OnNotice = func(_ *pgconn.PgConn, notice *pgconn.Notice) {
			if notice.SeverityUnlocalized == "WARNING" {
				c.warned = notice.Message
			}
		}
	})
	if err != nil {
		return nil, err
	}
	set, err := readSettings(ctx, conn)
	if err == nil {
		err = set.check() // another server may have come in the place of the first
	}
	if err != nil {
		return nil, errors.Join(err, closeConn(conn))
	}
	c.conn = conn
	return conn, nil
}

// rollback ends a transaction that has failed, or else the connection.
func (c *commits) rollback(ctx context.Context) {
	if c.conn == nil {
		return
	}
	if _, err := c.conn.Exec(ctx, "ROLLBACK"); err != nil {
		c.drop()
	}
}

// drop ends the connection.
func (c *commits) drop() {
	if c.conn != nil {
		closeConn(c.conn)
		c.conn = nil
	}
}

func (c *commits) close() error {
	c.drop()
	return nil
}

// tampered is what a test has a step fail with.
func (c *commits) tampered(step string) error {
	if c.place.tamper == nil {
		return nil
	}
	return c.place.tamper(step)
}

// pause waits, or returns ctx's error.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
