package rpc

import (
	"net/http"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/rpc/admission"
)

// restAnswer writes an answer of any length in JSON. It holds one piece of it, which is
// sent when it has admission.Piece bytes: who reads slowly makes the server wait, not remember.
// A short answer is sent as a whole.
type restAnswer struct {
	w     http.ResponseWriter
	text  []byte // the piece
	begun bool   // whether a piece was sent
}

// pass sends the piece if it is long enough.
func (a *restAnswer) pass() error {
	if len(a.text) < admission.Piece {
		return nil
	}
	return a.send()
}

func (a *restAnswer) send() error {
	if !a.begun {
		a.begun = true
		a.w.Header().Set("Content-Type", "application/json")
	}
	_, err := a.w.Write(a.text)
	a.text = a.text[:0]
	return err
}

// end sends what is left. An error, a gRPC status, is sent in place of an answer that has
// not begun; one that has is broken off: the client must not take what it got for the
// whole.
func (a *restAnswer) end(err error) {
	switch {
	case err == nil:
		a.send() // a client that went away is no fault to report
	case a.begun:
		panic(http.ErrAbortHandler)
	default:
		writeError(a.w, runtime.HTTPStatusFromCode(status.Code(err)), err)
	}
}
