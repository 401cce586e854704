package rpc

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/rs/cors"
	"google.golang.org/grpc/codes"
)

// preflightAge is for how many seconds a browser need not ask again whether it may ask.
const preflightAge = 24 * 60 * 60

// keyserverPath begins the paths of calls of the keyserver.
const keyserverPath = "/v1/keyserver"

// shared lets pages of other origins read what is the graph's, which anybody may: there
// are no cookies, and nothing is changed. What is the keyserver's they may not.
func shared(origins []string, next http.Handler) http.Handler {
	if len(origins) == 0 {
		return next
	}
	open := cors.New(cors.Options{
		AllowedOrigins: origins,
		AllowedMethods: []string{http.MethodGet, http.MethodHead, http.MethodPost},
		AllowedHeaders: []string{"Content-Type"},
		ExposedHeaders: []string{"Etag", "Retry-After"},
		MaxAge:         preflightAge,
	}).Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, keyserverPath) {
			next.ServeHTTP(w, r)
			return
		}
		open.ServeHTTP(w, r)
	})
}

// named refuses requests over the loopback interface that are for a host by another name
// than the machine has for itself, or one of hosts: a page whose own name was made to mean
// this machine (DNS rebinding) would otherwise be of the server's origin, and read what
// is for the machine alone.
func named(hosts []string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok && local.IP.IsLoopback() && !ownName(r.Host, hosts) {
			writeError(w, http.StatusMisdirectedRequest, fieldError(codes.InvalidArgument, "Host",
				"expected localhost, a loopback address, or a name given in --http-host, got %q", shortened(r.Host)))
			return
		}
		next.ServeHTTP(w, r)
	})
}

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
