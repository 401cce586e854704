package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/keytree-bch/keytree/keyserver/store"
)

// SQLSTATEs of PostgreSQL, appendix A of its manual.
const (
	serializationFailure = "40001"
	deadlock             = "40P01"
	diskFull             = "53100"
	dataCorrupted        = "XX001"
	indexCorrupted       = "XX002"
)

// translate makes an error of the server's, or of the connection to it, one of the store's,
// too.
func translate(err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	is := error(nil)
	switch state := stateOf(err); {
	case state == diskFull:
		is = store.ErrDiskFull
	case state == dataCorrupted, state == indexCorrupted:
		is = store.ErrDamaged
	case unreachable(err):
		is = store.ErrUnavailable
	default:
		return err
	}
	return fmt.Errorf("%w: %w", is, err)
}

// stateOf returns the SQLSTATE of an error, "" if it is not the server's.
func stateOf(err error) string {
	if e := new(pgconn.PgError); errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// unreachable tells whether an error is about the connection or the server, not about what it
// was asked.
func unreachable(err error) bool {
	for _, ours := range []error{errFenced, ErrSettings, store.ErrDamaged} {
		if errors.Is(err, ours) {
			return false
		}
	}
	e := new(pgconn.PgError)
	if !errors.As(err, &e) {
		return true
	}
	switch e.Code[:2] {
	case "08", "25", "53", "57": // connection, transaction ended by a timeout, resources, operator
		return e.Code != diskFull
	}
	return fatal(err)
}

// fatal tells whether the server has ended the connection with an error.
func fatal(err error) bool {
	e := new(pgconn.PgError)
	return errors.As(err, &e) && (e.SeverityUnlocalized == "FATAL" || e.SeverityUnlocalized == "PANIC")
}

// again tells whether to do once more what has failed and has changed nothing.
func again(err error) bool {
	state := stateOf(err)
	return state == serializationFailure || state == deadlock || unreachable(err)
}
