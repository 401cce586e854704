package reach_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/reach"
)

// TestRetry goes on while the node is away, and ends with whatever ends it.
func TestRetry(t *testing.T) {
	away := fmt.Errorf("a question: %w", node.ErrUnavailable)
	enough := errors.New("the user had enough")
	closed := make(chan struct{})
	close(closed)
	for _, test := range []struct {
		name     string
		answers  []error // the last is given again and again
		closed   <-chan struct{}
		retryFor time.Duration
		ends     bool // ctx ends with the first attempt
		attempts int
		want     error
	}{
		{name: "at once", answers: []error{nil}, retryFor: time.Hour, attempts: 1},
		{name: "the third time", answers: []error{away, away, nil}, retryFor: time.Hour, attempts: 3},
		{name: "another error", answers: []error{away, node.ErrNotFound}, retryFor: time.Hour, attempts: 2, want: node.ErrNotFound},
		{name: "no time left", answers: []error{away}, retryFor: time.Nanosecond, attempts: 1, want: node.ErrUnavailable},
		{name: "closed", answers: []error{away}, closed: closed, retryFor: time.Hour, attempts: 1, want: node.ErrUnavailable},
		{name: "ended", answers: []error{away}, retryFor: time.Hour, ends: true, attempts: 1, want: node.ErrUnavailable},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			attempts := 0
			err := reach.Retry(ctx, test.closed, test.retryFor, func() error {
				if test.ends {
					cancel(enough)
				}
				attempts++
				return test.answers[min(attempts, len(test.answers))-1]
			})
			if !errors.Is(err, test.want) || attempts != test.attempts {
				t.Errorf("got %v after %d attempts, want %v after %d", err, attempts, test.want, test.attempts)
			}
		})
	}
}

// TestWait says once what it waits for, and that it is over.
func TestWait(t *testing.T) {
	var log strings.Builder
	attempts := 0
	err := reach.Wait(t.Context(), zerolog.New(&log), func(context.Context) error {
		if attempts++; attempts < 3 {
			return node.ErrUnavailable
		}
		return nil
	})
	if err != nil || attempts != 3 || strings.Count(log.String(), "waiting for the node") != 1 || strings.Count(log.String(), "the node answers") != 1 {
		t.Errorf("got %v after %d attempts; the log has %s", err, attempts, &log)
	}
	if err := reach.Wait(t.Context(), zerolog.Nop(), func(context.Context) error { return node.ErrUnsuitable }); !errors.Is(err, node.ErrUnsuitable) {
		t.Errorf("got %v, want %v", err, node.ErrUnsuitable)
	}
	// An end during the pause is told with its reason.
	enough := errors.New("the user had enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	asked := make(chan struct{}, 100)
	ended := make(chan error, 1)
	go func() {
		ended <- reach.Wait(ctx, zerolog.Nop(), func(context.Context) error { asked <- struct{}{}; return node.ErrUnavailable })
	}()
	<-asked
	cancel(enough)
	// If it came during an attempt, that is why there is no further one.
	if err := <-ended; !errors.Is(err, node.ErrUnavailable) {
		t.Errorf("got %v, want %v", err, node.ErrUnavailable)
	}
}

// TestURL has one case for each thing that is refused, for a kind of node that has its
// password in the URL, and one that has not.
func TestURL(t *testing.T) {
	open := reach.URLForm{Text: "THIS", Schemes: []string{"x"}, Keys: []string{"k"}, PutSecret: "put it elsewhere"}
	secret := reach.URLForm{Text: "THIS", Schemes: []string{"x"}, Keys: []string{"k"}, Password: true}
	for _, test := range []struct{ url, open, secret string }{ // "" if the URL is good
		{"x://h:1?k=v", "", ""},
		{"x://h:1/", "", ""},
		{"x://u:hush@h:1", "put it elsewhere", ""},
		{"hush://h:1", `scheme "hush"`, "another scheme"},
		{"x://h", "no port", "no port"},
		{"x://:1", "no host", "no host"},
		{"x://h:1/hush", "path", "path"},
		{"x://h:1#hush", "fragment", "fragment"},
		{"x://h:hush", "cannot be parsed", "%40 for @"},
		{"x://h:1?k=%zz", "malformed query", "malformed query"},
		{"x://h:1?hush=1", `unknown key "hush"`, "unknown key"},
		{"x://h:1?k=1&k=hush", `"k" 2 times`, "k more than once"},
		{"x://h:1?k=", "empty", "empty"},
	} {
		for name, parsed := range map[string]struct {
			form reach.URLForm
			want string
		}{"open": {open, test.open}, "secret": {secret, test.secret}} {
			u, err := parsed.form.Parse(test.url)
			switch {
			case parsed.want == "" && (err != nil || u.Address != "h:1" || u.Scheme != "x"):
				t.Errorf("%s: %s: got %+v, %v", name, test.url, u, err)
			case parsed.want != "" && (err == nil || !strings.Contains(err.Error(), parsed.want) || !strings.Contains(err.Error(), "expected THIS")):
				t.Errorf("%s: %s: got %v, want an error with %q", name, test.url, err, parsed.want)
			case name == "secret" && err != nil && strings.Contains(err.Error(), "hush"):
				t.Errorf("%s gives the secret away: %v", test.url, err)
			}
		}
	}
}

// TestFiles reads what cannot be used.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	missing, large := filepath.Join(dir, "missing"), filepath.Join(dir, "large")
	if err := os.WriteFile(large, make([]byte, 2*reach.MaxSecretFile), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := reach.TLS(missing, "a certificate"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no certificate: got %v", err)
	}
	if _, err := reach.TLS(large, "a copy of its own"); err == nil || !strings.Contains(err.Error(), "expected a copy of its own") {
		t.Errorf("another file: got %v", err)
	}
	if config, err := reach.TLS("", "", "h2"); err != nil || config.RootCAs != nil || config.MinVersion != tls.VersionTLS12 || config.NextProtos[0] != "h2" {
		t.Errorf("without a file: got %+v, %v", config, err)
	}
	if _, err := reach.ReadSecretFile(missing, "the token"); !errors.Is(err, fs.ErrNotExist) || !strings.HasPrefix(err.Error(), "the token: ") {
		t.Errorf("no token: got %v", err)
	}
	if content, err := reach.ReadSecretFile(large, "the token"); err != nil || len(content) != reach.MaxSecretFile+1 {
		t.Errorf("a large file: got %d bytes, %v", len(content), err)
	}
	if err := reach.Unverified(&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}); !errors.Is(err, node.ErrUnsuitable) {
		t.Errorf("a certificate that does not verify: got %v", err)
	}
	if err := reach.Unverified(fs.ErrNotExist); err != nil {
		t.Errorf("something else: got %v", err)
	}
}
