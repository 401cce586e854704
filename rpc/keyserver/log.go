package keyserver

import (
	"net/http"
	"strings"

	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/keyserver/tlog"
	tlogrpc "github.com/keytree-bch/keytree/rpc/tlog"
)

// LogPath is the prefix of a keyserver's transparency log.
const LogPath = "/keytree/"

// WithLog answers readers of a transparency log below LogPath, which pages of any origin may be, and
// leaves all else to next.
func WithLog(l *tlog.Log, next http.Handler, log zerolog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if path, ok := strings.CutPrefix(r.URL.Path, LogPath); ok {
			tlogrpc.Answer(w, r, path, l, log)
			return
		}
		next.ServeHTTP(w, r)
	})
}
