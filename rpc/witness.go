package rpc

import (
	"crypto/tls"
	"net/http"

	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/keyserver/witness"
	"github.com/keytree-bch/keytree/rpc/admission"
	witnessrpc "github.com/keytree-bch/keytree/rpc/witness"
)

// WitnessConfig is what a WitnessServer works with.
type WitnessConfig struct {
	Witness   *witness.Witness // stays the caller's; may be closed when Serve has returned
	TLS       *tls.Config      // as Config.TLS
	Admission *admission.Gate  // as Config.Admission
	Log       zerolog.Logger
}

// WitnessServer serves a witness of transparency logs (keyserver/TLOG.md §5).
type WitnessServer struct{ plainServer }

// NewWitnessServer prepares a server. Nothing is running before Serve.
func NewWitnessServer(c WitnessConfig) *WitnessServer {
	s := &WitnessServer{plainServer{admission: gateOr(c.Admission), name: "the witness", refuse: refuseInText, down: downInText}}
	s.answer(s.admitted(witnessrpc.NewHandler(c.Witness, c.Log)), c.TLS, newHTTPLog(c.Log, "witness"))
	return s
}

func refuseInText(w http.ResponseWriter, _ *http.Request, why *admission.Refusal) {
	http.Error(w, why.Error(), why.HTTPStatus())
}

func downInText(w http.ResponseWriter) {
	http.Error(w, "the server is shutting down; try again later", http.StatusServiceUnavailable)
}
