package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keytree-bch/keytree/keyserver/store"
)

// pace says how often a lease is renewed, and when it is over. Tests have another one.
type pace struct {
	beat     time.Duration // between two renewals
	poll     time.Duration // between two looks of who waits for it
	grace    time.Duration // after which it is over if the server has no session of the writer's
	patience time.Duration // after which it is over if it was not renewed
	landing  time.Duration // landingTime
}

func defaultPace() pace {
	return pace{beat: 500 * time.Millisecond, poll: 200 * time.Millisecond, grace: time.Second, patience: 3 * time.Second, landing: landingTime}
}

// The statements about the lease.
const (
	look = `SELECT epoch, beat, coalesce(holder, ''), holder IS NULL,
		EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = w.pid AND a.backend_start = w.started) FROM writer w`
	take = `UPDATE writer SET epoch = epoch + 1, holder = $3, pid = pg_backend_pid(), beat = 0,
		started = (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid())
		WHERE epoch = $1 AND beat = $2 RETURNING epoch`
	renew = `UPDATE writer SET beat = beat + 1, pid = pg_backend_pid(),
		started = (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid())
		WHERE epoch = $1 RETURNING current_setting('fsync'), current_setting('full_page_writes')`
	release = "UPDATE writer SET holder = NULL WHERE epoch = $1"
)

// seen is the lease as somebody sees it who does not have it.
type seen struct {
	epoch, beat int64
	holder      string
	free        bool // it was given back
	alive       bool // the server has the writer's session
}

// TakeOver implements store.Shared.
func (d *database) TakeOver(ctx context.Context) error { return d.acquire(ctx, true) }

// acquire becomes the writer as soon as nobody else is. Without wait, store.ErrLocked as soon
// as somebody else is seen to be it.
func (d *database) acquire(ctx context.Context, wait bool) error {
	if d.closed.Load() {
		return store.ErrClosed
	}
	var (
		last  seen
		since time.Time // when last was seen first; zero if nothing was
	)
	for {
		now, err := d.look(ctx)
		if err != nil && (!wait || ctx.Err() != nil) {
			return translate(err)
		}
		if err == nil {
			moved := now.epoch != last.epoch || now.beat != last.beat
			if moved && !now.free && !wait && !since.IsZero() {
				return fmt.Errorf("%w: %s is written by %s", store.ErrLocked, d.place, now.holder)
			}
			if moved || since.IsZero() {
				last, since = now, time.Now()
			}
			age, pace := time.Since(since), d.place.pace
			if now.free || !now.alive && age >= pace.grace || age >= pace.patience {
				taken, err := d.take(ctx, now)
				if taken || err != nil && (!wait || ctx.Err() != nil) {
					return translate(err)
				}
			}
		}
		if err := pause(ctx, d.place.pace.poll); err != nil {
			return err
		}
	}
}

func (d *database) look(ctx context.Context) (s seen, err error) {
	conn, err := d.pool.Acquire(ctx)
	if err != nil {
		return s, err
	}
	defer conn.Release()
	return s, conn.QueryRow(ctx, look).Scan(&s.epoch, &s.beat, &s.holder, &s.free, &s.alive)
}

// take becomes the writer, unless the lease is not any more what was seen. That is a commit:
// all that was written before it is as durable as it is.
func (d *database) take(ctx context.Context, s seen) (taken bool, err error) {
	c := &d.writes
	conn, err := c.connected(ctx)
	if err != nil {
		return false, err
	}
	c.warned = ""
	err = conn.QueryRow(ctx, take, s.epoch, s.beat, holder()).Scan(&c.epoch)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	if err == nil && c.warned != "" {
		err = fmt.Errorf("the server warns: %s", c.warned)
	}
	if err == nil { // those who have held the row have ended
		err = conn.QueryRow(ctx, "SELECT last FROM commits").Scan(&c.last)
	}
	if err != nil {
		c.drop()
		return false, err
	}
	l := &lease{of: d, epoch: c.epoch, done: make(chan struct{})}
	if err := l.renew(ctx); err != nil {
		return false, err
	}
	ctx, l.stop = context.WithCancel(context.Background())
	go l.keep(ctx)
	d.leased.Store(l)
	d.place.Log.Info().Stringer("store", d.place).Int64("epoch", l.epoch).Msg("this is the writer of the keyserver's store")
	return true, nil
}

// lease is what makes a process the writer. One goroutine, keep, renews it.
type lease struct {
	of      *database
	epoch   int64
	conn    *pgx.Conn    // keep's; nil if there is none
	renewed atomic.Int64 // when the last renewal began, in nanoseconds since Place.began
	stop    context.CancelFunc
	done    chan struct{} // closed when keep has ended
}

// fresh tells whether nobody else can have taken over.
func (l *lease) fresh() bool {
	return time.Since(l.of.place.began)-time.Duration(l.renewed.Load()) < l.of.place.pace.patience
}

// keep renews the lease until ctx ends or somebody else has it. While the server is away it tries as
// often as commits do, so that what was written as soon as it was back can soon be read.
func (l *lease) keep(ctx context.Context) {
	defer close(l.done)
	pace := l.of.place.pace
	failed := false
	for pause(ctx, l.next(failed)) == nil {
		tried, cancel := context.WithTimeout(ctx, pace.patience)
		err := l.renew(tried)
		cancel()
		switch {
		case errors.Is(err, errFenced):
			l.of.place.Log.Error().Stringer("store", l.of.place).Msg("another server has taken over the keyserver's store")
			l.of.lose()
			return
		case err != nil && ctx.Err() == nil && !failed:
			l.of.place.Log.Warn().Err(err).Msg("the lease of the keyserver's store could not be renewed: it is tried until it is")
		case err == nil && failed:
			l.of.place.Log.Info().Stringer("store", l.of.place).Msg("the lease of the keyserver's store was renewed again")
		}
		failed = err != nil
	}
}

// next is the time until the next renewal.
func (l *lease) next(failed bool) time.Duration {
	if failed {
		return min(retryEvery, l.of.place.pace.beat)
	}
	return l.of.place.pace.beat
}

// renew renews the lease once.
func (l *lease) renew(ctx context.Context) (err error) {
	began := time.Since(l.of.place.began)
	if err := l.connect(ctx); err != nil {
		return err
	}
	var set settings
	err = l.conn.QueryRow(ctx, renew, l.epoch).Scan(&set.fsync, &set.pages)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return errFenced
	case err != nil:
		closeConn(l.conn)
		return err
	case set.fsync != "on" || set.pages != "on":
		l.of.place.Log.Error().Str("fsync", set.fsync).Str("full_page_writes", set.pages).Msg("PostgreSQL is set to lose what was acknowledged: expected both on")
	}
	l.renewed.Store(began.Nanoseconds())
	return nil
}

// connect sees to it that there is a connection.
func (l *lease) connect(ctx context.Context) (err error) {
	if l.conn != nil && !l.conn.IsClosed() {
		return nil
	}
	l.conn, err = l.of.place.connect(ctx, func(c *pgx.ConnConfig) {
		c.RuntimeParams["synchronous_commit"] = "off" // no promise hangs on it, and it must not wait for replicas
	})
	return err
}

// end gives the lease back.
func (l *lease) end() error {
	l.stop()
	<-l.done // a renewal that was under way has lost its connection then
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	if l.connect(ctx) != nil {
		return nil // the lease is over in a few seconds
	}
	_, _ = l.conn.Exec(ctx, release, l.epoch) // likewise
	return closeConn(l.conn)
}
