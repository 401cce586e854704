package badgerfiles

import (
	"errors"
	"fmt"
	"strings"

	"github.com/dgraph-io/badger/v4"
	"github.com/rs/zerolog"
)

var (
	// ErrLocked says that somebody else has the database open.
	ErrLocked = errors.New("database in use")
	// ErrDamaged says that the database holds something else than was written.
	ErrDamaged = errors.New("database damaged")
)

func errLocked(dir string) error {
	return fmt.Errorf("%w: %s: is another keytree running on this folder?", ErrLocked, dir)
}

// Open opens the database in opt.Dir, whose files have been checked, or makes one
// there. ErrLocked, ErrDamaged, or Badger's other errors.
func Open(opt badger.Options, log zerolog.Logger) (*badger.DB, error) {
	db, err := badger.Open(opt.WithLogger(badgerLog{log}))
	switch {
	case err == nil:
		return db, nil
	case strings.Contains(err.Error(), "Cannot acquire directory lock"): // Badger has no error value for it
		return nil, errLocked(opt.Dir)
	case errors.Is(err, badger.ErrTruncateNeeded), errors.Is(err, badger.ErrEncryptionKeyMismatch):
		return nil, fmt.Errorf("%w: %s: %w", ErrDamaged, opt.Dir, err)
	}
	return nil, err
}

// badgerLog passes what Badger reports on; its chatter about files and levels
// is for debugging only.
type badgerLog struct{ zerolog.Logger }

func (l badgerLog) write(level zerolog.Level, format string, args []any) {
	l.WithLevel(level).Str("from", "badger").Msg(strings.TrimSpace(fmt.Sprintf(format, args...)))
}

func (l badgerLog) Errorf(format string, args ...any)   { l.write(zerolog.ErrorLevel, format, args) }
func (l badgerLog) Warningf(format string, args ...any) { l.write(zerolog.WarnLevel, format, args) }
func (l badgerLog) Infof(format string, args ...any)    { l.write(zerolog.DebugLevel, format, args) }
func (l badgerLog) Debugf(format string, args ...any)   { l.write(zerolog.TraceLevel, format, args) }
