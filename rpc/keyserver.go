package rpc

import (
	"crypto/tls"
	"net/http"
	"time"

	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/keyserver"
	"github.com/keytree-bch/keytree/keyserver/tlog"
	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/fault"
	"github.com/keytree-bch/keytree/rpc/jsonrpc"
	keyserverrpc "github.com/keytree-bch/keytree/rpc/keyserver"
)

// DefaultCallRate is a rate of calls (keyserver.NewAllowances) that no user of a keyserver reaches.
const DefaultCallRate = 100

// KeyserverConfig is what a KeyserverServer works with.
type KeyserverConfig struct {
	Service *keyserver.Service // stays the caller's; may be closed when Serve has returned
	TLog    *tlog.Log          // of Service, as Service; nil: none is served
	TLS     *tls.Config        // as Config.TLS
	Hosts   []string           // as Config.Hosts
	// Allowances are what each client may ask. A batch counts as many calls as it has. They can be
	// shared with a Server, so that a client has them once. Nil allows everything.
	Allowances *keyserverrpc.Allowances
	Admission  *admission.Gate // as Config.Admission
	// Observe is as Config.Observe, of KeyRepository.CreateUID and OK, or an error's number.
	Observe func(method, code string, took time.Duration)
	Log     zerolog.Logger
}

// KeyserverServer serves a keyserver over its own wire: JSON-RPC 2.0 by HTTP POST,
// the wire that deployed clients speak (keyserver/WIRE.md); and, below /keytree/, its hashchain
// as a transparency log (keyserver/TLOG.md).
type KeyserverServer struct{ plainServer }

// allowancesOr returns allowances, or those for everything if they are nil.
func allowancesOr(a *keyserverrpc.Allowances) *keyserverrpc.Allowances {
	if a == nil {
		return keyserverrpc.NewAllowances(0)
	}
	return a
}

// NewKeyserverServer prepares a server. Nothing is running before Serve.
func NewKeyserverServer(c KeyserverConfig) *KeyserverServer {
	s := &KeyserverServer{plainServer{admission: gateOr(c.Admission), name: "the keyserver", refuse: keyserverrpc.Refuse, down: keyserverDown}}
	answers := keyserverrpc.NewWire(c.Service, allowancesOr(c.Allowances), c.Observe, c.Log)
	if c.TLog != nil {
		answers = keyserverrpc.WithLog(c.TLog, answers, c.Log)
	}
	s.answer(fromNoPage(c.Hosts, s.admitted(answers)), c.TLS, newHTTPLog(c.Log, "keyserver"))
	return s
}

func keyserverDown(w http.ResponseWriter) {
	jsonrpc.Refuse(w, http.StatusServiceUnavailable, jsonrpc.Errorf(keyserverrpc.CodeDown, "the server is shutting down; try again later"))
}

// fromNoPage refuses what a page in a browser may have asked for. A browser asks before it
// sends JSON to another origin, and is not told that it may; what it says of the page's origin
// is looked at all the same. A page whose name was made to mean this machine has the right
// origin, but the wrong host.
func fromNoPage(hosts []string, next http.Handler) http.Handler {
	origins := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case misdirected(r, hosts):
			jsonrpc.Refuse(w, http.StatusMisdirectedRequest, jsonrpc.Errorf(jsonrpc.CodeInvalidRequest, "Host: "+wrongHost, fault.Shortened(r.Host)))
		case origins.Check(r) != nil:
			jsonrpc.Refuse(w, http.StatusForbidden, jsonrpc.Errorf(jsonrpc.CodeInvalidRequest, otherOrigin))
		default:
			next.ServeHTTP(w, r)
		}
	})
}
