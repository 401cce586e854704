package snapshot

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

// host is a server that gives a file, and does something else first.
type host struct {
	content []byte
	etag    string
	asked   []string // ranges
	instead []http.HandlerFunc
}

func (h *host) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.asked = append(h.asked, r.Header.Get("Range"))
	if n := len(h.asked) - 1; n < len(h.instead) {
		h.instead[n](w, r)
		return
	}
	w.Header().Set("ETag", h.etag)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(h.content))
}

// half ends an answer in the middle.
func (h *host) half(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("ETag", h.etag)
	w.Header().Set("Content-Length", fmt.Sprint(len(h.content)))
	w.Write(h.content[:len(h.content)/2])
}

// hangs sends a quarter, and then nothing.
func (h *host) hangs(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("ETag", h.etag)
	w.Header().Set("Content-Length", fmt.Sprint(len(h.content)))
	w.Write(h.content[:len(h.content)/4])
	w.(http.Flusher).Flush()
	<-r.Context().Done()
}

func says(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// endless sends more than anybody has room for, and does not say how much.
func endless(w http.ResponseWriter, r *http.Request) {
	for r.Context().Err() == nil {
		if _, err := w.Write(make([]byte, 1<<20)); err != nil {
			return
		}
	}
}

func TestDownload(t *testing.T) {
	content := make([]byte, 100_000)
	for i := range content {
		content[i] = byte(i * i >> 8)
	}
	half := fmt.Sprintf("bytes=%d-", len(content)/2)
	for _, test := range []struct {
		name    string
		host    host
		instead func(*host) []http.HandlerFunc
		ranges  []string // that are asked for; nil: a clock decides
		fails   string
		silent  bool // it falls silent
	}{
		{name: "at once", ranges: []string{""}},
		{name: "in two parts", instead: func(h *host) []http.HandlerFunc { return []http.HandlerFunc{h.half} }, ranges: []string{"", half}},
		{name: "after a pause", silent: true, instead: func(h *host) []http.HandlerFunc { return []http.HandlerFunc{says(503), h.hangs, says(502)} }},
		{name: "another file meanwhile", instead: func(h *host) []http.HandlerFunc {
			return []http.HandlerFunc{func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("ETag", `"of another"`)
				w.Header().Set("Content-Length", "1000")
				w.Write(make([]byte, 500))
			}}
		}, ranges: []string{"", "bytes=500-"}},
		{name: "no validator", instead: func(h *host) []http.HandlerFunc {
			return []http.HandlerFunc{func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Length", "1000")
				w.Write(make([]byte, 500))
			}}
		}, ranges: []string{"", ""}},
		{name: "another part than was asked for", instead: func(h *host) []http.HandlerFunc {
			return []http.HandlerFunc{h.half, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Range", "bytes 0-9/10")
				w.WriteHeader(http.StatusPartialContent)
			}}
		}, ranges: []string{"", half, ""}},
		{name: "not there", instead: func(h *host) []http.HandlerFunc { return []http.HandlerFunc{says(404)} }, fails: "404"},
		{name: "never", instead: func(h *host) (all []http.HandlerFunc) {
			for range downloadTries {
				all = append(all, says(500))
			}
			return all
		}, fails: "500"},
		{name: "too large", instead: func(h *host) []http.HandlerFunc { return []http.HandlerFunc{endless} }, fails: "more than 4194304 bytes"},
		{name: "said to be too large", instead: func(h *host) []http.HandlerFunc {
			return []http.HandlerFunc{func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "5000000") }}
		}, fails: "it has 5000000 bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := &host{content: content, etag: `"the file"`}
			if test.instead != nil {
				h.instead = test.instead(h)
			}
			server := httptest.NewServer(h)
			defer server.Close()
			silence := time.Minute
			if test.silent {
				silence = 200 * time.Millisecond
			}
			d := &download{url: server.URL + "/shot?secret=sesame", path: filepath.Join(t.TempDir(), "file"), log: zerolog.Nop(),
				silence: silence, pause: time.Millisecond, most: 4 << 20}
			err := d.get(t.Context())
			if test.fails != "" {
				if err == nil || !strings.Contains(err.Error(), test.fails) || strings.Contains(err.Error(), "sesame") {
					t.Errorf("%v, expected %q", err, test.fails)
				}
				return
			}
			got, readErr := os.ReadFile(d.path)
			if err != nil || readErr != nil || sha256.Sum256(got) != sha256.Sum256(content) {
				t.Errorf("%d bytes, expected %d; %v", len(got), len(content), errors.Join(err, readErr))
			}
			if test.ranges != nil && fmt.Sprintf("%q", h.asked) != fmt.Sprintf("%q", test.ranges) {
				t.Errorf("asked for %q, expected %q", h.asked, test.ranges)
			}
			// Another process finds that all is there.
			before := len(h.asked)
			if err := d.get(t.Context()); err != nil || len(h.asked) != before+1 {
				t.Errorf("again: %v, asked for %q", err, h.asked[before:])
			}
			if err := d.remove(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestParseState(t *testing.T) {
	hash := strings.Repeat("0f", 32)
	s, err := ParseState("900000:" + hash)
	if err != nil || s.Height != 900_000 || s.Hash[31] != 0x0f || s.String() != "900000:"+hash {
		t.Errorf("%v, %v", s, err)
	}
	for _, text := range []string{"", ":", "5", "5:", hash, "x:" + hash, "-1:" + hash, "4294967296:" + hash, "5:" + hash + "0", "5:0" + hash[:63] + "g", "5:" + hash[:62] + "zz", "5:" + hash + ":"} {
		if s, err := ParseState(text); err == nil {
			t.Errorf("%q is taken for %v", text, s)
		}
	}
}
