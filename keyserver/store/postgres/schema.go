package postgres

import (
	"context"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5"
)

// The tables of a store, in a schema of their own. The program makes and changes them.
//
//	table    column    type         what
//	version  version   int          how many of migrations were made; one row
//	kv       key       bytea        a key of the store, at least one byte; primary key
//	         value     bytea        its value, which may be empty
//	         sum       bytea        checksum of both: what does not agree was not written by keytree
//	writer   epoch     bigint       how often somebody has become the writer; primary key of the one row
//	         holder    text         who is it, for people; null if he has closed the store
//	         pid       int          of the server's process that his lease is renewed through
//	         started   timestamptz  when that process began, since a pid is used again
//	         beat      bigint       changes whenever the lease is renewed
//	commits  last      bigint       the number of the last commit, counted from the first; one row
//
// Each commit locks the row of its epoch FOR KEY SHARE and changes commits.last in its own
// transaction. Who takes over changes epoch, which is a key: that waits for the transactions
// that hold the row, and those that come later find no row. To renew the lease changes no key,
// so neither waits for the other.
func migrations() []string {
	return []string{`
		CREATE TABLE kv (key bytea PRIMARY KEY, value bytea NOT NULL, sum bytea NOT NULL);
		CREATE TABLE writer (epoch bigint PRIMARY KEY, holder text, pid int, started timestamptz, beat bigint NOT NULL) WITH (fillfactor = 10);
		CREATE TABLE commits (last bigint NOT NULL) WITH (fillfactor = 10);
		INSERT INTO writer VALUES (0, NULL, NULL, NULL, 0);
		INSERT INTO commits VALUES (0);
	`}
}

// migrating is the advisory lock that whoever makes or changes tables holds.
const migrating = 0x6b657974726565 // "keytree"

// migrate makes the tables, or changes those of an earlier keytree, within a transaction.
func migrate(ctx context.Context, tx pgx.Tx, schema string) error {
	if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", int64(migrating)); err != nil {
		return err
	}
	var there bool
	if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)", schema).Scan(&there); err != nil {
		return err
	}
	if !there { // else whoever may make none can have it made for him
		if _, err := tx.Exec(ctx, "CREATE SCHEMA "+pgx.Identifier{schema}.Sanitize()); err != nil {
			return err
		}
	}
	version, err := readVersion(ctx, tx)
	if err != nil {
		return err
	}
	if version < 0 {
		if _, err := tx.Exec(ctx, "CREATE TABLE version (version int NOT NULL)"); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "INSERT INTO version VALUES (0)"); err != nil {
			return err
		}
		version = 0
	}
	steps := migrations()
	if version > len(steps) {
		return fmt.Errorf("the tables in schema %s have version %d, expected at most %d: a later keytree has made them; use that one",
			schema, version, len(steps))
	}
	for _, step := range steps[version:] {
		if _, err := tx.Exec(ctx, step); err != nil {
			return err
		}
	}
	if version == len(steps) {
		return nil
	}
	_, err = tx.Exec(ctx, "UPDATE version SET version = $1", len(steps))
	return err
}

// querier is a connection or a transaction.
type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// readVersion returns the version of the tables, -1 if there are none.
func readVersion(ctx context.Context, q querier) (version int, err error) {
	var there bool
	if err := q.QueryRow(ctx, "SELECT to_regclass('version') IS NOT NULL").Scan(&there); err != nil || !there {
		return -1, err
	}
	err = q.QueryRow(ctx, "SELECT version FROM version").Scan(&version)
	return version, err
}

// checkVersion returns an error unless there are tables of this keytree's version.
func checkVersion(ctx context.Context, q querier, p Place) error {
	switch version, err := readVersion(ctx, q); {
	case err != nil:
		return err
	case version < 0:
		return fmt.Errorf("%s: no tables: %w", p, fs.ErrNotExist)
	case version != len(migrations()):
		return fmt.Errorf("%s: the tables have version %d, expected %d: keytree serve of this version converts earlier ones", p, version, len(migrations()))
	}
	return nil
}
