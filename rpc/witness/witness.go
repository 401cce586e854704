// Package witness answers logs that want a checkpoint cosigned, over HTTP (C2SP's tlog-witness).
//
// What never belongs here: what is cosigned, which keyserver/witness decides.
package witness

import (
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/keyserver/witness"
	"github.com/keytree-bch/keytree/protocol/tlog"
)

// Path is where submissions go.
const Path = "/add-checkpoint"

// NewHandler returns what answers for a witness.
func NewHandler(w *witness.Witness, log zerolog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+Path, func(to http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(to, r.Body, tlog.MaxSubmission))
		if err != nil {
			http.Error(to, fmt.Sprintf("expected a submission of at most %d bytes: %v", tlog.MaxSubmission, err), http.StatusBadRequest)
			return
		}
		line, err := w.Add(body)
		code := codeOf(err)
		var conflict *witness.ConflictError
		switch {
		case err == nil:
			to.Header().Set("Content-Type", "text/plain; charset=utf-8")
			to.Write(line) // a client that went away is no fault to report
		case errors.As(err, &conflict):
			to.Header().Set("Content-Type", tlog.SizeType)
			to.WriteHeader(code)
			to.Write(tlog.FormatSize(conflict.Size))
		case code == http.StatusInternalServerError:
			log.Error().Err(err).Msg("cosigning a checkpoint")
			http.Error(to, "the witness cannot store what it cosigns", code)
		default:
			log.Warn().Err(err).Msg("a checkpoint was not cosigned")
			http.Error(to, err.Error(), code)
		}
	})
	return mux
}

// codeOf is the status of an answer, as the protocol has it.
func codeOf(err error) int {
	switch {
	case err == nil:
		return http.StatusOK
	case errors.As(err, new(*witness.ConflictError)):
		return http.StatusConflict
	case errors.Is(err, witness.ErrUnknown):
		return http.StatusNotFound
	case errors.Is(err, tlog.ErrSignature), errors.Is(err, witness.ErrRefused):
		return http.StatusForbidden
	case errors.Is(err, witness.ErrLater):
		return http.StatusServiceUnavailable
	case errors.Is(err, tlog.ErrProof):
		return http.StatusUnprocessableEntity
	case errors.Is(err, tlog.ErrFormat):
		return http.StatusBadRequest
	}
	return http.StatusInternalServerError
}
