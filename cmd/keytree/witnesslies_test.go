package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/keyserver/tlog"
	"github.com/keytree-bch/keytree/keyserver/witness"
	format "github.com/keytree-bch/keytree/protocol/tlog"
	witnessrpc "github.com/keytree-bch/keytree/rpc/witness"
)

// TestLyingWitness has one of two witnesses of a running keyserver lie, hang, answer 409 with nonsense,
// cosign another note, and be replaced. What is served is always a checkpoint with the quorum of the
// other; the keyserver's log names the one and says what it did. Then everything is restored out of an
// old backup: the program signs nothing, since the witnesses have outgrown it.
func TestLyingWitness(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts processes")
	}
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	log, err := tlog.Open(newLogOptions("example.org", data))
	if err != nil {
		t.Fatal(err)
	}
	key := log.Key()
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	logs, err := format.ParsePolicy([]byte("log " + key.String() + "\nquorum none\n"))
	if err != nil {
		t.Fatal(err)
	}
	var lie atomic.Pointer[http.HandlerFunc] // of witness two
	text := ""
	for _, name := range []string{"one", "two"} {
		w, err := witness.Open(witness.Options{KeyFile: filepath.Join(dir, name+".key"), StateFile: filepath.Join(dir, name+".json"), Name: name + ".example", Policy: logs})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { w.Close() })
		honest := witnessrpc.NewHandler(w, zerolog.Nop())
		server := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
			if l := lie.Load(); name == "two" && l != nil {
				(*l)(out, r)
				return
			}
			honest.ServeHTTP(out, r)
		}))
		t.Cleanup(server.Close)
		text += fmt.Sprintf("witness %s %s %s\n", name, w.Key(), server.URL)
	}
	text += "group either any one two\nquorum either\n"
	write(t, filepath.Join(dir, "policy"), text)
	policy, err := format.ParsePolicy([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	serve := []string{"keyserver", "serve", "--keyserver-tokens", "open", "--data-dir", data,
		"--witness-policy", filepath.Join(dir, "policy"), "--witness-interval", "1s", "--witness-timeout", "1s", "--log-format", "json"}
	command := func(args ...string) {
		t.Helper()
		mustKeytree(t, append(args, "--keyserver-domain", "example.org", "--data-dir", data)...)
	}
	s := startKeyserver(t, serve...)
	served := func() (*format.Opened, []byte, error) {
		response, err := s.client.Get(s.url + "keytree/checkpoint")
		if err != nil {
			return nil, nil, err
		}
		defer response.Body.Close()
		signed, err := io.ReadAll(response.Body)
		if err != nil {
			return nil, nil, err
		}
		opened, err := policy.OpenOf(key, signed)
		return opened, signed, err
	}
	size := uint64(1)
	await := func(by string) {
		t.Helper()
		regtest.Await(t, func() string {
			opened, signed, err := served()
			if err != nil {
				return err.Error()
			}
			if err := opened.Quorum(0); err != nil && opened.Checkpoint.Size > 1 {
				t.Fatalf("served without the quorum: %q", signed)
			}
			if opened.Checkpoint.Size != size || strings.Join(opened.Cosigners(), " ") != by {
				return fmt.Sprintf("%d entries by %q, expected %d by %q; standard error:\n%s", opened.Checkpoint.Size, opened.Cosigners(), size, by, s.errors())
			}
			return ""
		})
	}
	await("one two")
	backup := t.TempDir()

	stranger, err := format.GenerateKey("two.example") // who has replaced it, with the same name
	if err != nil {
		t.Fatal(err)
	}
	private, err := os.ReadFile(filepath.Join(dir, "two.key"))
	if err != nil {
		t.Fatal(err)
	}
	second, err := format.ParseKey(strings.TrimSpace(string(private)))
	if err != nil {
		t.Fatal(err)
	}
	answer := func(code int, kind, body string) http.HandlerFunc {
		return func(out http.ResponseWriter, _ *http.Request) {
			out.Header().Set("Content-Type", kind)
			out.WriteHeader(code)
			io.WriteString(out, body)
		}
	}
	other := key.Name() + "\n7\n" + format.Hash{1}.String() + "\n\n"
	for _, test := range []struct {
		what string
		lie  http.HandlerFunc
		says string // the keyserver's log
	}{
		{"it says that it has cosigned more", answer(409, format.SizeType, "1000\n"), "has cosigned 1000 entries"},
		{"it hangs", func(_ http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body) // so that the server notices when nobody waits any more
			<-r.Context().Done()
		}, "deadline exceeded"},
		{"409 with nonsense", answer(409, format.SizeType, "many\n"), "expected a size in decimal"},
		{"it cosigns another note", answer(200, "text/plain", string(second.Cosign([]byte(other), time.Now()))), "signature does not hold"},
		{"it is replaced", func(out http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			submission, err2 := format.ParseSubmission(body)
			if err != nil || err2 != nil {
				return
			}
			out.Write(stranger.Cosign(submission.Checkpoint, time.Now()))
		}, "signature does not hold"},
	} {
		before := len(s.errors())
		lie.Store(&test.lie)
		command("keyserver", "rotate-key")
		size++
		await("one")
		regtest.Await(t, func() string {
			if said := s.errors()[before:]; strings.Contains(said, `"witness":"two"`) && strings.Contains(said, test.says) {
				return ""
			}
			return fmt.Sprintf("%s: expected %q of witness two in\n%s", test.what, test.says, s.errors()[before:])
		})
	}
	lie.Store(nil)
	command("keyserver", "rotate-key")
	size++
	await("one two")

	end := func() {
		t.Helper()
		if code := s.signal(syscall.SIGTERM); code != exitDone {
			t.Fatalf("the keyserver ended with %d: %s", code, s.errors())
		}
	}
	end()
	if err := os.CopyFS(backup, os.DirFS(data)); err != nil {
		t.Fatal(err)
	}
	s = startKeyserver(t, serve...)
	for range 2 {
		command("keyserver", "rotate-key")
		size++
	}
	await("one two")
	end()
	if err := os.RemoveAll(data); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(data, os.DirFS(backup)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"keyserver.key", "keyserver-log.key"} { // CopyFS keeps no modes
		if err := os.Chmod(filepath.Join(data, name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s = startKeyserver(t, serve...)
	s.await(&s.stderr, "a witness has cosigned more than the log knows of")
	size -= 2
	_, old, err := served()
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		command("keyserver", "rotate-key")
	}
	time.Sleep(2 * tlog.DefaultInterval) // in which another would be signed
	opened, signed, err := served()
	if err != nil || opened.Checkpoint.Size != size || !bytes.Equal(signed, old) {
		t.Errorf("after the restore %q is served (%v), expected that of %d entries from before", signed, err, size)
	}
}
