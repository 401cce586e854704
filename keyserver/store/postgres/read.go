package postgres

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/keytree-bch/keytree/keyserver/store"
)

// What a scan reads at once: so many rows at first, eight times as many each time, up to the most,
// but no more than so many bytes.
const (
	firstPage = 16
	mostPage  = 1024
	pageBytes = 1 << 20
)

const beginReading = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"

// tries is how many connections a View tries: those that wait may have ended unseen, with the
// server.
const tries = 3

// begin begins a transaction that reads one state, the present one.
func (d *database) begin(ctx context.Context) (conn *pgxpool.Conn, err error) {
	now := "SELECT 1" // the snapshot is that of the first statement
	if d.snapshot != "" {
		now = "SET TRANSACTION SNAPSHOT '" + d.snapshot + "'"
	}
	for range tries {
		if conn, err = d.pool.Acquire(ctx); err != nil {
			return nil, err
		}
		if _, err = conn.Conn().PgConn().Exec(ctx, beginReading+";"+now).ReadAll(); err == nil {
			return conn, nil
		}
		end(conn)
		if !unreachable(err) || ctx.Err() != nil {
			return nil, err
		}
	}
	return nil, err
}

// end ends a transaction that has only read. A connection that fails then leaves the pool.
func end(conn *pgxpool.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	_, _ = conn.Conn().PgConn().Exec(ctx, "COMMIT").ReadAll()
	conn.Release()
}

// reader reads in a transaction. It implements store.Reader.
type reader struct {
	ctx  context.Context // of the View
	conn *pgx.Conn
}

// Get implements store.Getter.
func (r reader) Get(key []byte) (value []byte, ok bool, err error) {
	var sum []byte
	err = r.conn.QueryRow(r.ctx, "SELECT value, sum FROM kv WHERE key = $1", key).Scan(&value, &sum)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, translate(err)
	}
	return value, true, check(key, value, sum)
}

// Keys implements store.Reader.
func (r reader) Keys(prefix, from []byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for row, err := range r.scan("key, ''::bytea, ''::bytea", prefix, from) {
			if !yield(row.key, err) {
				return
			}
		}
	}
}

// KeysBackward implements store.Reader.
func (r reader) KeysBackward(prefix, before []byte) iter.Seq2[[]byte, error] {
	const sql = "SELECT key, ''::bytea, ''::bytea FROM kv WHERE key >= $1 AND key < $3 ORDER BY key DESC LIMIT $2"
	return func(yield func([]byte, error) bool) {
		args := []any{append([]byte{}, prefix...), firstPage, before}
		for row, err := range r.pages(sql, args, func(last []byte) { args[2] = bytes.Clone(last) }) {
			if !yield(row.key, err) {
				return
			}
		}
	}
}

// Pairs implements store.Reader.
func (r reader) Pairs(prefix, from []byte) iter.Seq2[store.Pair, error] {
	return func(yield func(store.Pair, error) bool) {
		for row, err := range r.scan("key, value, sum", prefix, from) {
			if err == nil {
				err = check(row.key, row.value, row.sum)
			}
			if err != nil {
				yield(store.Pair{}, err)
				return
			}
			if !yield(store.Pair{Key: row.key, Value: row.value}, nil) {
				return
			}
		}
	}
}

// row is one of table kv.
type row struct{ key, value, sum []byte }

// scan reads rows from a key on.
func (r reader) scan(columns string, prefix, from []byte) iter.Seq2[row, error] {
	return func(yield func(row, error) bool) {
		if bytes.Compare(from, prefix) < 0 {
			from = prefix
		}
		if from == nil {
			from = []byte{}
		}
		sql := "SELECT " + columns + " FROM kv WHERE key >= $1 ORDER BY key LIMIT $2"
		args := []any{from, firstPage}
		if behind := behind(prefix); behind != nil {
			sql = "SELECT " + columns + " FROM kv WHERE key >= $1 AND key < $3 ORDER BY key LIMIT $2"
			args = append(args, behind)
		}
		r.pages(sql, args, func(last []byte) { args[0] = append(bytes.Clone(last), 0) })(yield)
	}
}

// pages reads rows page by page: a connection answers one question at a time, and a sequence may be
// read within another. The second argument of sql is how many rows a page has; goOn makes the
// arguments those of the page after the one that a key is the last of.
func (r reader) pages(sql string, args []any, goOn func(last []byte)) iter.Seq2[row, error] {
	return func(yield func(row, error) bool) {
		for size := firstPage; ; size = min(8*size, mostPage) {
			args[1] = size
			page, whole, err := r.page(sql, args)
			for _, row := range page {
				if !yield(row, nil) {
					return
				}
			}
			if err != nil {
				yield(row{}, err)
				return
			}
			if whole && len(page) < size {
				return
			}
			goOn(page[len(page)-1].key)
		}
	}
}

// page reads some rows; whole is false if there were too many bytes for all of them.
func (r reader) page(sql string, args []any) (page []row, whole bool, err error) {
	rows, err := r.conn.Query(r.ctx, sql, args...)
	if err != nil {
		return nil, false, translate(err)
	}
	defer rows.Close()
	held := 0
	for rows.Next() {
		if held > pageBytes {
			return page, false, nil
		}
		var found row
		if err := rows.Scan(&found.key, &found.value, &found.sum); err != nil {
			return page, false, translate(err)
		}
		held += len(found.key) + len(found.value)
		page = append(page, found)
	}
	return page, true, translate(rows.Err())
}

// behind returns the least key that is greater than all that begin with a prefix, nil if there
// is none.
func behind(prefix []byte) []byte {
	for n := len(prefix); n > 0; n-- {
		if prefix[n-1] < 0xff {
			b := bytes.Clone(prefix[:n])
			b[n-1]++
			return b
		}
	}
	return nil
}

// sumOf is the checksum of a row: the first 8 bytes of the SHA-256 of the key's length, as 4
// bytes, big-endian, the key and the value. Inspect has the server compute it, too.
func sumOf(key, value []byte) []byte {
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(key))))
	h.Write(key)
	h.Write(value)
	return h.Sum(nil)[:8]
}

// check returns ErrDamaged if a row is not as it was written.
func check(key, value, sum []byte) error {
	if !bytes.Equal(sum, sumOf(key, value)) {
		return fmt.Errorf("%w: the row of table kv with key %x has another content than was written", store.ErrDamaged, key)
	}
	return nil
}
