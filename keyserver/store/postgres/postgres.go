// Package postgres keeps a keyserver's data in PostgreSQL, 15 or later, which several machines
// can reach, and which can have replicas.
//
// Keys and values are rows of one table. A commit is one transaction. A View is another, which
// reads one snapshot.
//
//	place.go     what the URL says; opening, making and reading a store
//	schema.go    the tables, and how they come from one version to the next
//	settings.go  what the server must be set to, and what is only warned of
//	commit.go    commits, and finding out whether one has landed
//	lease.go     who writes: the lease, its renewal, taking over
//	read.go      what a reader reads
//	errors.go    what the server's errors mean to the store
//
// # What a commit promises
//
//  1. It checks the lease, takes the next number, writes, and commits. The server answers when
//     the write-ahead log is on disk, and with synchronous_standby_names on that of replicas.
//  2. If a statement before COMMIT fails, nothing has landed. It is done again where that can
//     help: after a serialization failure, a deadlock, or with another connection.
//  3. COMMIT may take as long as replicas are away. If the connection ends after it was sent, the
//     store connects anew and asks whether the number of the commit is there. It locks the row of that number first, so the old
//     transaction has ended. It commits that question, so what it has read is as durable as any
//     commit: a commit that a replica does not have yet is not taken for one that it has.
//  4. A wait for replicas that somebody cancels ends with a warning only. It counts as 3.
//
// # One writer
//
// Whoever opens the store to write gets the next epoch, and each commit demands its own in its
// transaction. So a writer that was paused or cut off, however long, commits nothing more as
// soon as another has taken over. Time decides only when somebody else may try:
//
//   - The writer renews its lease every half second, by a connection of its own.
//   - Another may take over when the lease was not renewed for 3 seconds by his own clock; after
//     1 second where the server has no session of the writer any more, as after a kill; at once
//     if the writer has closed the store.
//   - A writer that could not renew its lease for 3 seconds shows nothing more until it can: it
//     might show what is old.
//
// What never belongs here: what keys and values mean.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/keytree-bch/keytree/keyserver/store"
)

// database is an open store. It implements store.Shared.
type database struct {
	place  Place
	pool   *pgxpool.Pool
	closed atomic.Bool

	// A store that is only read reads the snapshot that frozen has exported; else both are zero.
	frozen   *pgx.Conn
	snapshot string

	writes commits // Commit's and TakeOver's goroutine

	leased atomic.Pointer[lease] // nil until this is the writer
	lost   chan struct{}         // closed when somebody else has become it
	losing sync.Once
	giveUp context.CancelFunc // ends a COMMIT that waits
}

// View implements store.Store.
func (d *database) View(ctx context.Context, read func(store.Reader) error) error {
	if err := d.Usable(); err != nil {
		return err
	}
	conn, err := d.begin(ctx)
	if err != nil {
		return translate(err)
	}
	defer end(conn)
	return read(reader{ctx, conn.Conn()})
}

// Usable implements store.Shared.
func (d *database) Usable() error {
	if d.closed.Load() {
		return store.ErrClosed
	}
	select {
	case <-d.lost:
		return d.replaced()
	default:
	}
	if l := d.leased.Load(); l != nil && !l.fresh() {
		return fmt.Errorf("%w: the lease of %s was not renewed for %v", store.ErrUnavailable, d.place, d.place.pace.patience)
	}
	return nil
}

// replaced is why a writer that was replaced does nothing more.
func (d *database) replaced() error {
	return fmt.Errorf("%w: another server has taken over %s", store.ErrLocked, d.place)
}

// lose says that somebody else has become the writer.
func (d *database) lose() { d.losing.Do(func() { close(d.lost); d.giveUp() }) }

// Lost implements store.Shared.
func (d *database) Lost() <-chan struct{} { return d.lost }

// limit is the most that one commit takes.
const (
	limitWrites = 50_000
	limitBytes  = 8 << 20
)

// Limit implements store.Store.
func (d *database) Limit() store.Weight { return store.Weight{Writes: limitWrites, Bytes: limitBytes} }

// Room implements store.Store: only PostgreSQL knows.
func (d *database) Room(uint64) error { return nil }

// sizeTime is how long Size waits for an answer.
const sizeTime = time.Second

// Size implements store.Store. It is 0 while nobody tells.
func (d *database) Size() uint64 {
	ctx, cancel := context.WithTimeout(context.Background(), sizeTime)
	defer cancel()
	var size int64
	if err := d.pool.QueryRow(ctx, "SELECT pg_total_relation_size('kv')").Scan(&size); err != nil {
		return 0
	}
	return uint64(size)
}

// Inspect implements store.Store. It compares each row with its checksum, in the server, and
// whether table and index have the same number of rows.
func (d *database) Inspect(ctx context.Context) error {
	if err := d.Usable(); err != nil {
		return err
	}
	conn, err := d.begin(ctx)
	if err != nil {
		return translate(err)
	}
	defer end(conn)
	if _, err := conn.Exec(ctx, "SET LOCAL enable_seqscan = on; SET LOCAL enable_indexscan = off; SET LOCAL enable_indexonlyscan = off; SET LOCAL enable_bitmapscan = off"); err != nil {
		return translate(err)
	}
	var inTable, wrong, inIndex int64
	err = conn.QueryRow(ctx, "SELECT count(*), count(*) FILTER (WHERE sum <> substr(sha256(int4send(length(key)) || key || value), 1, 8)) FROM kv").Scan(&inTable, &wrong)
	if err != nil {
		return translate(err)
	}
	if wrong > 0 {
		return fmt.Errorf("%w: %s: %d rows of table kv have another content than was written", store.ErrDamaged, d.place, wrong)
	}
	if _, err := conn.Exec(ctx, "SET LOCAL enable_seqscan = off; SET LOCAL enable_indexonlyscan = on"); err != nil {
		return translate(err)
	}
	if err := conn.QueryRow(ctx, "SELECT count(key) FROM kv").Scan(&inIndex); err != nil {
		return translate(err)
	}
	if inTable != inIndex {
		return fmt.Errorf("%w: %s: table kv has %d rows, its index %d", store.ErrDamaged, d.place, inTable, inIndex)
	}
	return nil
}

// Close implements store.Store.
func (d *database) Close() error {
	if d.closed.Swap(true) {
		return store.ErrClosed
	}
	var err error
	if l := d.leased.Load(); l != nil {
		err = l.end()
	}
	if d.frozen != nil {
		err = errors.Join(err, closeConn(d.frozen))
	}
	err = errors.Join(err, d.writes.close())
	d.giveUp()
	d.pool.Close()
	return err
}

// closeTime is how long the server is told that a connection ends. It notices by itself, too.
const closeTime = time.Second

// closeConn ends a connection.
func closeConn(conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	conn.Close(ctx) // the server rolls back what was not committed
	return nil
}
