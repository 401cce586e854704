package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// TestPatience has a keyserver hang, drip, and not stop: the client ends each by itself, and
// says what is wrong.
func TestPatience(t *testing.T) {
	flush := func(w http.ResponseWriter) { w.(http.Flusher).Flush() }
	for name, test := range map[string]struct {
		answer func(w http.ResponseWriter, gone <-chan struct{})
		want   string
	}{
		"hangs":           {func(_ http.ResponseWriter, gone <-chan struct{}) { <-gone }, "says nothing for 50ms"},
		"hangs half way":  {func(w http.ResponseWriter, gone <-chan struct{}) { io.WriteString(w, `{"jsonrpc`); flush(w); <-gone }, "says nothing for 50ms"},
		"endless":         {forever(bytes.Repeat([]byte(" "), 32<<10), 0), "more than 1048576 bytes"},
		"drips":           {forever([]byte(" "), 5*time.Millisecond), "less than 1024 bytes a second"},
		"endless entries": {forever(bytes.Repeat([]byte("[["), 16<<10), 0), "more than 1048576 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body) // or nobody notices that the client leaves
				test.answer(w, r.Context().Done())
			}))
			defer server.Close()
			defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
			_, err := Init(t.Context(), t.TempDir(), server.URL+"/", "", nil, Options{patience: 50 * time.Millisecond})
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "KeyRepository.Capabilities: ") {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
	// Who stops waiting is told so, not that the keyserver is slow.
	ctx, cancel := context.WithCancelCause(t.Context())
	left := errors.New("left")
	cancel(left)
	if _, err := newWire("http://127.0.0.1:1/", Options{}).capabilities(ctx); !errors.Is(err, left) {
		t.Errorf("got %v, want %v", err, left)
	}
}

// forever answers with the same again and again.
func forever(piece []byte, pause time.Duration) func(http.ResponseWriter, <-chan struct{}) {
	return func(w http.ResponseWriter, gone <-chan struct{}) {
		for {
			if _, err := w.Write(piece); err != nil {
				return
			}
			w.(http.Flusher).Flush()
			select {
			case <-gone:
				return
			case <-time.After(pause):
			}
		}
	}
}

func TestTokensStayHere(t *testing.T) {
	for url, good := range map[string]bool{
		"https://keys.example.org/": true, "http://127.0.0.1:8436/": true, "http://[::1]:8436/": true, "http://localhost/": true, "http://127.9.9.9/": true,
		"http://keys.example.org/": false, "http://192.168.1.2/": false, "http://127.0.0.1.example.org/": false, "http://localhost.example.org/": false,
	} {
		if err := newWire(url, Options{}).checkToken("t"); good != (err == nil) || !good && !errors.Is(err, ErrPlaintext) {
			t.Errorf("%s: %v", url, err)
		}
		if err := errors.Join(newWire(url, Options{}).checkToken(""), newWire(url, Options{Plaintext: true}).checkToken("t")); err != nil {
			t.Errorf("%s, without a token or meant: %v", url, err)
		}
	}
}
