package graph

import (
	"fmt"
	"strings"

	"github.com/rs/zerolog"
)

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
