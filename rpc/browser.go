package rpc

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/rs/cors"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/rpc/fault"
	"github.com/keytree-bch/keytree/rpc/identity"
	"github.com/keytree-bch/keytree/rpc/rest"
)

// preflightAge is for how many seconds a browser need not ask again whether it may ask.
const preflightAge = 24 * 60 * 60

// shared lets pages of some origins read what is the graph's, and use LinkService and SignInService, which
// anybody may: there are no cookies, and nothing is changed without a signature. What is the keyserver's is for pages of no other
// origin.
func shared(origins []string, next http.Handler) http.Handler {
	own := http.NewCrossOriginProtection()
	own.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		rest.WriteError(w, http.StatusForbidden, status.Error(codes.PermissionDenied, otherOrigin))
	}))
	closed, open := own.Handler(next), next
	if len(origins) > 0 {
		open = readable(origins, next)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, rest.KeyserverPath) {
			closed.ServeHTTP(w, r)
			return
		}
		open.ServeHTTP(w, r)
	})
}

// otherOrigin is what a page of another origin is told that calls a keyserver.
const otherOrigin = "no page of another origin may call the keyserver"

// readable tells browsers that pages of some origins may read the answers.
func readable(origins []string, next http.Handler) http.Handler {
	return cors.New(cors.Options{
		AllowedOrigins: origins,
		AllowedMethods: []string{http.MethodGet, http.MethodHead, http.MethodPost},
		AllowedHeaders: []string{"Content-Type", "Last-Event-ID", identity.MinHeight},
		ExposedHeaders: []string{"Etag", "Keytree-Export-Format", "Retry-After"},
		MaxAge:         preflightAge,
	}).Handler(next)
}

// named refuses requests that are misdirected.
func named(hosts []string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if misdirected(r, hosts) {
			rest.WriteError(w, http.StatusMisdirectedRequest, fault.Field(codes.InvalidArgument, "Host", wrongHost, fault.Shortened(r.Host)))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// misdirected tells of a request over the loopback interface that it is for a host by
// another name than the machine has for itself, or one of hosts: a page whose own name was
// made to mean this machine (DNS rebinding) would otherwise be of the server's origin, and
// read what is for the machine alone.
func misdirected(r *http.Request, hosts []string) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return ok && local.IP.IsLoopback() && !ownName(r.Host, hosts)
}

// wrongHost is the problem of a misdirected request, with its Host header.
const wrongHost = "expected localhost, a loopback address, or a name given in --http-host, got %q"

// ownName tells whether a Host header, a name with or without a port, names a machine
// that is also called hosts.
func ownName(header string, hosts []string) bool {
	host, _, err := net.SplitHostPort(header)
	if err != nil {
		host = strings.Trim(header, "[]")
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") || slices.Contains(hosts, host) {
		return true
	}
	address, err := netip.ParseAddr(host)
	return err == nil && address.IsLoopback()
}
