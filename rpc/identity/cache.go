package identity

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/rpc/rest"
)

const (
	// settledDepth is how many blocks lie above one that is taken for settled: an answer
	// as of it is the same for ever.
	settledDepth = 100
	// settledAge is for how many seconds caches may keep such an answer.
	settledAge = 24 * 60 * 60
)

// cached tells caches what to make of answers: what is as of a settled block they may
// keep; what is as of the tip, and a state proof, they keep, too, but ask whether it is still that; the
// rest they never keep.
type cached struct {
	graphReader        // its graph is nil if none is served
	version     string // of the server: another may answer in another form
	next        http.Handler
	newest      atomic.Pointer[tag] // of the tip that was asked for last
}

// tag is the validator of what is as of a tip.
type tag struct {
	tip  chainhash.Hash
	etag string
}

// etag returns the validator of what is as of a tip.
func (c *cached) etag(tip chainhash.Hash) string {
	if of := c.newest.Load(); of != nil && of.tip == tip {
		return of.etag
	}
	of := &tag{tip, `W/"` + c.version + "-" + hashText(tip) + `"`}
	c.newest.Store(of)
	return of.etag
}

// ServeHTTP implements http.Handler.
func (c *cached) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	var query url.Values
	if r.URL.RawQuery != "" {
		query = r.URL.Query()
	}
	if c.graph == nil || r.Method != http.MethodGet || !strings.HasPrefix(path, "/v1/") || passing(path, query) || strings.HasPrefix(path, rest.KeyserverPath) {
		w.Header().Set("Cache-Control", "no-store")
		c.next.ServeHTTP(w, r)
		return
	}
	tip, ok := c.graph.Tip()
	ok = ok && c.unavailable() == nil
	answer := &cachedWriter{ResponseWriter: w}
	switch etag := c.etag(tip.Hash); {
	case !ok:
	case isProof(path):
		c.proofs(w, r)
		return
	case settled(query, tip):
		answer.cache = func(h http.Header) {
			h.Set("Cache-Control", fmt.Sprintf("public, max-age=%d, immutable", settledAge))
		}
	case path == "/v1/events", path == exportPath: // which tells of disconnects, or ends early, of which the tip says nothing
		answer.cache = func(h http.Header) { h.Set("Cache-Control", "no-cache") }
	case has(r.Header.Values("If-None-Match"), etag):
		w.Header().Set("Cache-Control", "no-cache")
		w.Header().Set("Etag", etag)
		w.WriteHeader(http.StatusNotModified)
		return
	default:
		answer.cache = func(h http.Header) {
			h.Set("Cache-Control", "no-cache")
			if now, _ := c.graph.Tip(); now.Hash == tip.Hash { // so it was while the answer was made
				h.Set("Etag", etag)
			}
		}
	}
	c.next.ServeHTTP(answer, r)
}

// isProof tells whether a path is that of a state proof.
func isProof(path string) bool {
	return strings.HasSuffix(path, "/proof") && (strings.HasPrefix(path, "/v1/addresses/") || strings.HasPrefix(path, "/v1/identities/"))
}

// proofs answers what asks for a state proof: as of a height, and as of the newest, it changes with the checkpoint alone.
func (c *cached) proofs(w http.ResponseWriter, r *http.Request) {
	answer := &cachedWriter{ResponseWriter: w}
	if served, err := c.served(); err == nil {
		sum := sha256.Sum256(served.Signed)
		etag := fmt.Sprintf(`W/"%s-%x"`, c.version, sum[:16])
		if has(r.Header.Values("If-None-Match"), etag) {
			w.Header().Set("Cache-Control", "no-cache")
			w.Header().Set("Etag", etag)
			w.WriteHeader(http.StatusNotModified)
			return
		}
		answer.cache = func(h http.Header) {
			h.Set("Cache-Control", "no-cache")
			if now, err := c.served(); err == nil && bytes.Equal(now.Signed, served.Signed) { // so it was while the answer was made
				h.Set("Etag", etag)
			}
		}
	}
	c.next.ServeHTTP(answer, r)
}

// passing tells whether the answer to a request is of its moment, and not of a block.
func passing(path string, query url.Values) bool {
	if path == "/v1/status" || path == "/v1/mempool" || path == rest.StreamPath {
		return true
	}
	if !query.Has("unconfirmed") {
		return false
	}
	unconfirmed, err := strconv.ParseBool(query.Get("unconfirmed"))
	return unconfirmed || err != nil
}

// settled tells whether a request is as of a settled block, and of no other. A page token is bound to the at_height of its
// listing.
func settled(query url.Values, tip graph.Tip) bool {
	if !query.Has("at_height") {
		return false
	}
	height, err := strconv.ParseUint(query.Get("at_height"), 10, 32)
	return err == nil && height+settledDepth <= uint64(tip.Height)
}

// has tells whether a list of validators, as If-None-Match has it, has one of them. Weak
// or strong is one to it, as RFC 9110 §13.1.2 wants.
func has(values []string, etag string) bool {
	for _, value := range values {
		for _, one := range strings.Split(value, ",") {
			one = strings.TrimSpace(one)
			if strings.TrimPrefix(one, "W/") == strings.TrimPrefix(etag, "W/") {
				return true
			}
		}
	}
	return false
}

// cachedWriter adds what caches need to the header of an answer once it is known to be one:
// errors are not kept.
type cachedWriter struct {
	http.ResponseWriter
	cache func(http.Header) // nil for an answer that is not kept
	begun bool
}

// WriteHeader implements http.ResponseWriter.
func (w *cachedWriter) WriteHeader(code int) {
	if !w.begun {
		w.begun = true
		if code == http.StatusOK && w.cache != nil {
			w.cache(w.Header())
		} else {
			w.Header().Set("Cache-Control", "no-store")
		}
	}
	w.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (w *cachedWriter) Write(b []byte) (int, error) {
	if !w.begun {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *cachedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
