// Package operator is for the operator of a keyserver or of an index: what cannot be done from
// outside while a server has the database open, as requests over HTTP, and the client that makes
// them. The two have a socket each.
//
// What never belongs here: anything for somebody who is not the operator. Whoever reaches
// the requests is taken for him.
package operator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/keyserver"
	"github.com/keytree-bch/keytree/keyserver/anchor"
	"github.com/keytree-bch/keytree/keyserver/tlog"
	format "github.com/keytree-bch/keytree/protocol/tlog"
)

// Paths of the operator's requests.
const (
	rotateKeyPath = "/rotate-key" // POST; the answer is the uid.Reply in JSON
	backupPath    = "/backup"     // GET; the answer is what Service.Backup writes
	domainPath    = "/domain"     // GET; the answer is the domain that is served, in JSON

	logPath = "/log/" // GET; below it the log's checkpoint and tiles, as readers get them

	anchorStatusPath = "/anchor/status" // GET; the answer is an anchor.Status in JSON
	anchorsPath      = "/anchor/list"   // GET, ?from=NUMBER; a list of anchor.Anchor in JSON
	anchorRotatePath = "/anchor/rotate" // POST; the answer is the txid in JSON
)

// anchorsAtOnce is how many anchors are listed in one answer.
const anchorsAtOnce = 1000

// Config is what an operator's requests are about.
type Config struct {
	Service *keyserver.Service
	Anchors *anchor.Publisher // nil if there is none
	TLog    *tlog.Log         // of Service; nil if there is none
	Log     zerolog.Logger
}

// NewHandler returns what answers an operator. It asks nobody who he is.
func NewHandler(c Config) http.Handler {
	service, log := c.Service, c.Log
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+rotateKeyPath, func(w http.ResponseWriter, r *http.Request) {
		reply, err := service.RotateKey(r.Context())
		if errors.Is(err, keyserver.ErrHeld) || errors.Is(err, keyserver.ErrStandby) {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		if err != nil {
			log.Error().Err(err).Msg("rotating the keyserver's key")
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		log.Info().Uint64("position", reply.Entry.HashchainPos).Msg("the keyserver's key was rotated")
		respond(w, reply.Canonical())
	})
	mux.HandleFunc("GET "+backupPath, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		if err := service.Backup(r.Context(), w); err != nil {
			log.Error().Err(err).Msg("backup")
			panic(http.ErrAbortHandler) // what was sent is not a whole backup
		}
	})
	mux.HandleFunc("GET "+domainPath, func(w http.ResponseWriter, _ *http.Request) {
		body, err := json.Marshal(service.Domain())
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		respond(w, body)
	})
	handleAnchors(mux, c.Anchors)
	if c.TLog != nil {
		mux.HandleFunc("GET "+logPath, func(w http.ResponseWriter, r *http.Request) {
			content, err := readLog(r.Context(), c.TLog, strings.TrimPrefix(r.URL.Path, logPath))
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			w.Header().Set("Content-Type", "application/octet-stream")
			w.Write(content) // a client that went away is no fault to report
		})
	}
	return mux
}

// checkpointPath is where a log's checkpoint is, beside its tiles.
const checkpointPath = "checkpoint"

// readLog returns what a log has at a path.
func readLog(ctx context.Context, l *tlog.Log, path string) ([]byte, error) {
	if path == checkpointPath {
		return l.Newest(ctx)
	}
	t, err := format.ParsePath(path)
	if err != nil {
		return nil, err
	}
	return l.Tile(ctx, t)
}

// handleAnchors adds the requests about anchors.
func handleAnchors(mux *http.ServeMux, anchors *anchor.Publisher) {
	handle := func(pattern string, answer func(r *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if anchors == nil {
				http.Error(w, "it does not anchor: it was started without --anchor-key-file", http.StatusNotFound)
				return
			}
			result, err := answer(r)
			var body []byte
			if err == nil {
				body, err = json.Marshal(result)
			}
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			respond(w, body)
		})
	}
	handle("GET "+anchorStatusPath, func(*http.Request) (any, error) { return anchors.Status(), nil })
	handle("GET "+anchorsPath, func(r *http.Request) (any, error) {
		from, err := strconv.ParseUint(r.URL.Query().Get("from"), 10, 32)
		if err != nil {
			return nil, fmt.Errorf("from: expected the number of an anchor: %w", err)
		}
		return anchors.List(r.Context(), uint32(from), anchorsAtOnce)
	})
	handle("POST "+anchorRotatePath, func(r *http.Request) (any, error) {
		txid, err := anchors.Rotate(r.Context())
		return txid.String(), err
	})
}

func respond(w http.ResponseWriter, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Write(body) // a client that went away is no fault to report
}
