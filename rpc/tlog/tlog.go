// Package tlog answers readers of a transparency log over HTTP (C2SP's tlog-tiles).
//
// What never belongs here: what is signed, which keyserver/tlog decides, and where on a server a log is.
package tlog

import (
	"errors"
	"net/http"
	"strconv"

	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/keyserver"
	"github.com/keytree-bch/keytree/keyserver/tlog"
	format "github.com/keytree-bch/keytree/protocol/tlog"
	"github.com/keytree-bch/keytree/rpc/admission"
)

// How long who has read something need not ask again (keyserver/TLOG.md §1).
const (
	forever = "public, max-age=31536000, immutable" // a tile never changes
	shortly = "public, max-age=3"
)

// WitnessedHeader says with "none", beside a checkpoint, that it has not the quorum of
// cosignatures that its server's own policy demands.
const WitnessedHeader = "Keytree-Quorum"

// tileWork is how many units of work a tile or a bundle is.
const tileWork = 4

// Answer answers a reader of a log, which a page of any origin may be, about path below the log's prefix.
func Answer(w http.ResponseWriter, r *http.Request, path string, l *tlog.Log, log zerolog.Logger) {
	w.Header().Set("Access-Control-Allow-Origin", "*")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "expected GET or HEAD", http.StatusMethodNotAllowed)
		return
	}
	if path == "checkpoint" {
		signed, witnessed, err := l.Checkpoint()
		if !witnessed && err == nil {
			w.Header().Set(WitnessedHeader, "none")
		}
		answer(w, r, "text/plain; charset=utf-8", shortly, signed, err, log)
		return
	}
	tile, err := format.ParsePath(path)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	if err := admission.Work(r.Context(), tileWork); err != nil {
		refuse(w, err)
		return
	}
	content, err := l.Tile(r.Context(), tile)
	answer(w, r, "application/octet-stream", forever, content, err, log)
}

// answer writes what was asked for, or why there is none.
func answer(w http.ResponseWriter, r *http.Request, kind, cache string, content []byte, err error, log zerolog.Logger) {
	switch {
	case err == nil:
		w.Header().Set("Content-Type", kind)
		w.Header().Set("Cache-Control", cache)
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		if r.Method == http.MethodGet {
			w.Write(content) // a client that went away is no fault to report
		}
	case errors.Is(err, tlog.ErrNone):
		http.Error(w, err.Error(), http.StatusNotFound)
	case errors.Is(err, keyserver.ErrHeld), errors.Is(err, tlog.ErrBehind), errors.Is(err, tlog.ErrForked):
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	case r.Context().Err() != nil:
	default:
		log.Error().Err(err).Str("path", r.URL.Path).Msg("transparency log")
		http.Error(w, "the server cannot read its log", http.StatusInternalServerError)
	}
}

// refuse tells a reader that it has asked for too much.
func refuse(w http.ResponseWriter, err error) {
	var refusal *admission.Refusal
	if !errors.As(err, &refusal) {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Retry-After", strconv.Itoa(refusal.Seconds()))
	http.Error(w, refusal.Error(), refusal.HTTPStatus())
}
