// Package statelog answers readers of state logs over HTTP (protocol/STATELOG.md).
//
// What never belongs here: what is published, which indexer/statelog decides.
package statelog

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/keyserver/tlog"
	"github.com/keytree-bch/keytree/keyserver/witness"
	"github.com/keytree-bch/keytree/protocol"
	tlogrpc "github.com/keytree-bch/keytree/rpc/tlog"
	witnessrpc "github.com/keytree-bch/keytree/rpc/witness"
)

// Path is what all paths of state logs begin with.
const Path = "/state/"

// Logs are the state logs of an index.
type Logs interface {
	// Log returns the log of an epoch; nil if there is none.
	Log(epoch uint32) *tlog.Log
}

// NewHandler answers readers of the state logs of a network's blocks, and those who want theirs
// cosigned, if there is a witness for them: its submission prefix is Path without the last slash.
func NewHandler(network string, logs Logs, w *witness.Witness, log zerolog.Logger) http.Handler {
	prefix := strings.TrimSuffix(Path, "/")
	cosigns := http.NotFoundHandler()
	if w != nil {
		cosigns = http.StripPrefix(prefix, witnessrpc.NewHandler(w, log))
	}
	readers := newReaders(network, logs, log)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == prefix+witnessrpc.Path {
			cosigns.ServeHTTP(w, r)
			return
		}
		readers.ServeHTTP(w, r)
	})
}

func newReaders(network string, logs Logs, log zerolog.Logger) http.Handler {
	prefix := strings.TrimSuffix(protocol.StatePath(network, 1), "1")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		below, ok := strings.CutPrefix(r.URL.Path, prefix)
		digits, path, more := strings.Cut(below, "/")
		epoch, err := strconv.ParseUint(digits, 10, 32)
		if ok && more && err == nil && strconv.FormatUint(epoch, 10) == digits {
			if l := logs.Log(uint32(epoch)); l != nil {
				tlogrpc.Answer(w, r, path, l, log)
				return
			}
		}
		http.Error(w, fmt.Sprintf("expected a path such as %s1/checkpoint, of an epoch that there is", prefix), http.StatusNotFound)
	})
}
