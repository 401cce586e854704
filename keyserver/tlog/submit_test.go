package tlog_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keytree-bch/keytree/keyserver/tlog"
	"github.com/keytree-bch/keytree/keyserver/tlog/tlogtest"
	"github.com/keytree-bch/keytree/keyserver/witness"
	format "github.com/keytree-bch/keytree/protocol/tlog"
)

// witnesses are those of a test, by the host of their URL. It implements http.RoundTripper.
type witnesses struct {
	t *testing.T

	mu    sync.Mutex
	of    map[string]*witness.Witness                                  // mu
	lies  map[string]func(r *http.Request, body []byte) *http.Response // mu; what one does in place of what it should
	asked map[string]int                                               // mu
}

// RoundTrip implements http.RoundTripper.
func (w *witnesses) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked[r.URL.Host]++
	if lie := w.lies[r.URL.Host]; lie != nil {
		w.mu.Unlock()
		response := lie(r, body)
		w.mu.Lock()
		if response == nil {
			return nil, errors.New("nobody answers")
		}
		return response, nil
	}
	line, err := w.of[r.URL.Host].Add(body)
	var conflict *witness.ConflictError
	switch {
	case err == nil:
		return says(200, "text/plain", string(line)), nil
	case errors.As(err, &conflict):
		return says(409, format.SizeType, string(format.FormatSize(conflict.Size))), nil
	case errors.Is(err, format.ErrProof):
		return says(422, "text/plain", err.Error()), nil
	}
	return says(400, "text/plain", err.Error()), nil
}

func says(code int, kind, body string) *http.Response {
	return &http.Response{StatusCode: code, Header: http.Header{"Content-Type": {kind}}, Body: io.NopCloser(strings.NewReader(body))}
}

// newWitnesses makes three witnesses of a log, of which two are a quorum.
func newWitnesses(t *testing.T, log *format.PublicKey) (*witnesses, *format.Policy) {
	t.Helper()
	w := &witnesses{t: t, of: make(map[string]*witness.Witness), lies: make(map[string]func(*http.Request, []byte) *http.Response), asked: make(map[string]int)}
	logs, err := format.ParsePolicy([]byte("log " + log.String() + "\nquorum none"))
	if err != nil {
		t.Fatal(err)
	}
	text := ""
	for _, name := range []string{"one", "two", "three"} {
		dir := t.TempDir()
		of, err := witness.Open(witness.Options{
			KeyFile: filepath.Join(dir, "key"), StateFile: filepath.Join(dir, "state"), Name: name + ".example", Policy: logs,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { of.Close() })
		w.of[name] = of
		text += fmt.Sprintf("witness %s %s http://%s/\n", name, of.Key(), name)
	}
	policy, err := format.ParsePolicy([]byte(text + "group g 2 one two three\nquorum g"))
	if err != nil {
		t.Fatal(err)
	}
	return w, policy
}

func (w *witnesses) lie(host string, lie func(r *http.Request, body []byte) *http.Response) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lies[host] = lie
}

func away(*http.Request, []byte) *http.Response { return nil }

// hangs until nobody waits any more.
func hangs(r *http.Request, _ []byte) *http.Response {
	<-r.Context().Done()
	return nil
}

// TestWitnesses has witnesses fail in every way. What is served has always the quorum, until it is
// away for an hour.
func TestWitnesses(t *testing.T) {
	for name, lie := range map[string]func(w *witnesses) func(*http.Request, []byte) *http.Response{
		"honest": func(*witnesses) func(*http.Request, []byte) *http.Response { return nil },
		"away":   func(*witnesses) func(*http.Request, []byte) *http.Response { return away },
		"hangs":  func(*witnesses) func(*http.Request, []byte) *http.Response { return hangs },
		"conflict, no size": func(*witnesses) func(*http.Request, []byte) *http.Response {
			return answers(409, format.SizeType, "many\n")
		},
		"conflict, no type": func(*witnesses) func(*http.Request, []byte) *http.Response { return answers(409, "text/html", "3\n") },
		"conflict for ever": func(*witnesses) func(*http.Request, []byte) *http.Response {
			return answers(409, format.SizeType, "3\n")
		},
		"of more": func(*witnesses) func(*http.Request, []byte) *http.Response {
			return answers(409, format.SizeType, "1000000\n")
		},
		"of a fork": func(*witnesses) func(*http.Request, []byte) *http.Response { return answers(422, "text/plain", "no") },
		"nonsense": func(*witnesses) func(*http.Request, []byte) *http.Response {
			return answers(200, "text/html", "<html>")
		},
		"endless": func(*witnesses) func(*http.Request, []byte) *http.Response {
			return answers(200, "text/plain", strings.Repeat("x", 1<<20))
		},
		"redirects": func(*witnesses) func(*http.Request, []byte) *http.Response { return answers(307, "text/plain", "") },
		"another's line": func(w *witnesses) func(*http.Request, []byte) *http.Response {
			return func(_ *http.Request, body []byte) *http.Response {
				line, err := w.of["one"].Add(body)
				if err != nil {
					return nil
				}
				return says(200, "text/plain", string(line))
			}
		},
		"another note": func(w *witnesses) func(*http.Request, []byte) *http.Response {
			return func(*http.Request, []byte) *http.Response {
				key, err := format.GenerateKey("three.example")
				if err != nil {
					return nil
				}
				return says(200, "text/plain", string(key.Cosign([]byte("x\n\n"), time.Now())))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			opt := options(dir, nil)
			first := open(t, opt)
			w, policy := newWitnesses(t, first.Key())
			first.Close()
			w.lie("three", lie(w))
			synctest.Test(t, func(t *testing.T) {
				chain := tlogtest.New(t, 1)
				opt.Source, opt.Policy, opt.Transport = chain, policy, w
				l, stop := run(t, opt)
				for range 3 {
					chain.Grow(100)
					time.Sleep(2 * tlog.DefaultWitnessInterval)
					synctest.Wait()
					cosigners := 2
					if name == "honest" {
						cosigners = 3
					}
					wantServed(t, l, policy, chain.Chain().Size, cosigners)
				}
				stop()
				if w.asked["one"] > 8 {
					t.Errorf("a witness was asked %d times in 6 minutes", w.asked["one"])
				}
				// Two are away: the last quorum stays, for an hour.
				w.lie("two", away)
				w.lie("one", hangs)
				if name == "of more" || name == "of a fork" {
					w.lie("three", nil) // which stops a log at its start: TestOutgrown
				}
				opt.Interval, opt.WitnessInterval = time.Minute, 10*time.Minute
				l, stop = run(t, opt)
				defer stop()
				synctest.Wait()
				chain.Grow(1)
				time.Sleep(30 * time.Minute)
				synctest.Wait()
				wantServed(t, l, policy, 300, 2)
				time.Sleep(31 * time.Minute)
				synctest.Wait()
				signed, witnessed, err := l.Checkpoint()
				if c, _ := format.Open(signed, l.Key()); err != nil || witnessed || c.Size != 301 {
					t.Errorf("after an hour: size %d, witnessed %v (%v)", c.Size, witnessed, err)
				}
				w.lie("one", nil)
				w.lie("two", nil)
				time.Sleep(11 * time.Minute)
				synctest.Wait()
				wantServed(t, l, policy, 301, 2)
			})
		})
	}
}

func answers(code int, kind, body string) func(*http.Request, []byte) *http.Response {
	return func(*http.Request, []byte) *http.Response { return says(code, kind, body) }
}

// wantServed checks that a checkpoint of a size is served with the quorum, and at least so many cosigners.
func wantServed(t *testing.T, l *tlog.Log, policy *format.Policy, size uint64, cosigners int) {
	t.Helper()
	signed, witnessed, err := l.Checkpoint()
	if err != nil || !witnessed {
		t.Fatalf("witnessed: %v (%v)", witnessed, err)
	}
	opened, err := policy.OpenOf(l.Key(), signed)
	if err != nil || opened.Quorum(0) != nil || opened.Checkpoint.Size != size || len(opened.Cosigners()) < cosigners {
		t.Fatalf("served is %q (%v), want size %d", signed, err, size)
	}
}

// TestHourly has witnesses cosign again what has not changed: their signatures tell the time.
func TestHourly(t *testing.T) {
	dir := t.TempDir()
	opt := options(dir, nil)
	first := open(t, opt)
	w, policy := newWitnesses(t, first.Key())
	first.Close()
	synctest.Test(t, func(t *testing.T) {
		opt.Source, opt.Policy, opt.Transport = tlogtest.New(t, 1).Grow(3), policy, w
		opt.Interval = time.Minute
		_, stop := run(t, opt)
		defer stop()
		time.Sleep(3*time.Hour + 10*time.Minute)
		synctest.Wait()
		if got := w.asked["one"]; got != 4 {
			t.Errorf("in three hours a witness was asked %d times, want 4", got)
		}
	})
}

// TestOutgrown restores everything out of an old backup: the witnesses know better.
func TestOutgrown(t *testing.T) {
	for _, name := range []string{"smaller", "another root", "the witnesses come late"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			opt := options(dir, nil)
			first := open(t, opt)
			w, policy := newWitnesses(t, first.Key())
			first.Close()
			synctest.Test(t, func(t *testing.T) {
				chain := tlogtest.New(t, 1).Grow(10)
				opt.Source, opt.Policy, opt.Transport = chain, policy, w
				_, stop := run(t, opt)
				time.Sleep(time.Second)
				stop()
				backup := copyFolder(t, dir)
				chain.Grow(10)
				_, stop = run(t, opt)
				time.Sleep(2 * time.Minute)
				stop()

				restored := options(backup, chain.Fork(10, 2))
				restored.Policy, restored.Transport, restored.Interval = policy, w, time.Minute
				want := tlog.ErrOutgrown
				if name == "another root" { // the log goes on for as long as nobody knows, which one witness does
					w.lie("one", away)
					w.lie("two", answers(422, "text/plain", "inconsistent"))
					w.lie("three", away)
					want = tlog.ErrForked
				}
				late := name == "the witnesses come late"
				if late {
					for of := range w.of {
						w.lie(of, away)
					}
				}
				l, stop := run(t, restored)
				defer stop()
				time.Sleep(time.Second)
				if late {
					for of := range w.of {
						w.lie(of, nil)
					}
					time.Sleep(time.Minute)
					synctest.Wait()
				}
				restored.Source.(*tlogtest.Chain).Grow(30)
				time.Sleep(time.Hour)
				synctest.Wait()
				if err := l.Err(); !errors.Is(err, want) {
					t.Errorf("got %v, want %v", err, want)
				}
				signed, _, err := l.Checkpoint()
				if c, _ := format.Open(signed, l.Key()); err != nil || c.Size != 10 {
					t.Errorf("served are %d entries (%v), want what was signed before the backup", c.Size, err)
				}
			})
		})
	}
}

// TestNoQuorumDemanded serves what was signed at once, and adds cosignatures as they come.
func TestNoQuorumDemanded(t *testing.T) {
	dir := t.TempDir()
	opt := options(dir, nil)
	first := open(t, opt)
	w, policy := newWitnesses(t, first.Key())
	first.Close()
	text := "quorum none"
	for _, p := range policy.Witnesses {
		text = fmt.Sprintf("witness %s %s %s\n%s", p.Name, p.Key, p.URL, text)
	}
	policy, err := format.ParsePolicy([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		chain := tlogtest.New(t, 1).Grow(3)
		opt.Source, opt.Policy, opt.Transport = chain, policy, w
		l, stop := run(t, opt)
		defer stop()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		wantServed(t, l, policy, 3, 3)
		chain.Grow(1)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		wantServed(t, l, policy, 4, 0)
		before, _, _ := l.Checkpoint()
		time.Sleep(time.Minute)
		synctest.Wait()
		wantServed(t, l, policy, 4, 3)
		if after, _, _ := l.Checkpoint(); !bytes.HasPrefix(after, before) {
			t.Error("cosignatures were not appended")
		}
	})
}
