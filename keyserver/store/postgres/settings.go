package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// minVersion is PostgreSQL 15, as server_version_num.
const minVersion = 150000

// ErrSettings says that the server is set to lose what it has acknowledged, or cannot be
// written. Correct what is named.
var ErrSettings = errors.New("PostgreSQL is not set up for a keyserver")

// settings are those of the server, as the store's sessions have them.
type settings struct {
	version                          int
	fsync, pages, commit             string
	standbys, checksums, transaction string
}

func readSettings(ctx context.Context, q querier) (s settings, err error) {
	err = q.QueryRow(ctx, `SELECT current_setting('server_version_num')::int, current_setting('fsync'), current_setting('full_page_writes'),
		current_setting('synchronous_commit'), current_setting('synchronous_standby_names'), current_setting('data_checksums'),
		current_setting('transaction_read_only')`).
		Scan(&s.version, &s.fsync, &s.pages, &s.commit, &s.standbys, &s.checksums, &s.transaction)
	return s, err
}

// check returns ErrSettings if acknowledged commits could be lost.
func (s settings) check() error {
	for _, demand := range []struct {
		name, got string
		want      []string
	}{
		{"fsync", s.fsync, []string{"on"}},
		{"full_page_writes", s.pages, []string{"on"}},
		{"synchronous_commit", s.commit, []string{"on", "remote_apply"}},
		{"transaction_read_only", s.transaction, []string{"off"}},
	} {
		if !slices.Contains(demand.want, demand.got) {
			return fmt.Errorf("%w: expected %s to be %q, got %q", ErrSettings, demand.name, demand.want, demand.got)
		}
	}
	if s.version < minVersion {
		return fmt.Errorf("%w: expected version 15 or later, got server_version_num %d", ErrSettings, s.version)
	}
	return nil
}

// warnings are what is lost if a disk is.
func (s settings) warnings() (found []string) {
	if s.standbys == "" {
		found = append(found, "synchronous_standby_names is empty: what the keyserver acknowledges is on one disk, and lost with it")
	}
	if s.checksums != "on" {
		found = append(found, "data_checksums is off: PostgreSQL does not notice what a disk changes (pg_checksums --enable)")
	}
	return found
}
