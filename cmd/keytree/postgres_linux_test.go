package main

import (
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/keyserver/store/postgres/postgrestest"
)

// TestKeyserverOnPostgres moves a keyserver from its folder to PostgreSQL and back, with a standby
// that takes over while it is there.
func TestKeyserverOnPostgres(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts a PostgreSQL and several processes")
	}
	store := []string{"--keyserver-store", postgrestest.Start(t).URL("postgres", nil)}
	first, second := t.TempDir(), t.TempDir()
	admin := func(dir string, args ...string) []string {
		return append(append([]string{"keyserver"}, args...), "--keyserver-domain", "example.org", "--data-dir", dir)
	}
	serve := func(dir string, more ...string) *keyserverProgram {
		return startKeyserver(t, append([]string{"keyserver", "serve", "--data-dir", dir, "--keyserver-tokens", "open"}, more...)...)
	}
	p := serve(first)
	var last lastEntry
	p.call("KeyHashchain.FetchLastHashChain", &last)
	p.kill()
	backup := filepath.Join(t.TempDir(), "backup")
	mustKeytree(t, admin(first, "backup", backup)...)
	wantParts(t, mustKeytree(t, append(admin(first, "restore", backup), store...)...), "is restored: the keyserver of example.org, 1 entries")

	writer := serve(first, store...)
	writer.wantReady(map[string]string{"keyserver": ""}) // it is held until it was compared with what was signed
	writer.wantLast(last)
	copyFile(t, filepath.Join(first, "keyserver.key"), filepath.Join(second, "keyserver.key"))
	keytree(t, append(admin(second, "serve", "--standby"), "--keyserver-tokens", "open")...).wantError(t, exitUsage, "--standby goes with --keyserver-store")
	keytree(t, append(admin(second, "serve", "--standby", "--keyserver-tokens", "open", "--log-level", "error"), store...)...).wantError(t, exitFailed, "copy it, and its state beside it")
	for _, name := range []string{"keyserver-log.key", "keyserver-log.json"} {
		copyFile(t, filepath.Join(first, name), filepath.Join(second, name))
	}
	standby := serve(second, append(store, "--standby")...)
	standby.wantReady(map[string]string{"keyserver": "stands by"})
	standby.wantLast(last)
	keytree(t, append(admin(second, "rotate-key"), store...)...).wantError(t, exitFailed, "alone may write")
	wantParts(t, mustKeytree(t, append(admin(second, "fsck"), store...)...), "is sound")
	writer.kill()
	standby.wantReady(map[string]string{"keyserver": ""})
	wantParts(t, mustKeytree(t, append(admin(second, "rotate-key"), store...)...), "was replaced by the entry at position 1")
	standby.call("KeyHashchain.FetchLastHashChain", &last)

	// The first one has the old key now, and does not begin another history with it.
	keytree(t, append(admin(first, "serve", "--standby", "--keyserver-tokens", "open", "--log-level", "error"), store...)...).wantError(t, exitFailed, "holds another key")

	moved := filepath.Join(t.TempDir(), "moved")
	mustKeytree(t, append(admin(second, "backup", moved), store...)...)
	standby.kill()
	mustKeytree(t, admin(second, "restore", moved)...)
	again := filepath.Join(t.TempDir(), "again")
	mustKeytree(t, admin(second, "backup", again)...)
	if a, b := readFile(t, moved), readFile(t, again); a != b {
		t.Errorf("a backup of %d bytes became one of %d", len(a), len(b))
	}
	serve(second).wantLast(last)
}

// TestStorePasswordHidden has a server demand a password, which is in a file. Neither logs nor errors
// nor the list of processes show it, be it right or wrong, or the server away.
func TestStorePasswordHidden(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts a PostgreSQL and a process")
	}
	const secret, wrong = "correct-horse-battery", "incorrect-horse-battery"
	cluster := postgrestest.Start(t)
	cluster.DemandPassword(t, "keys", secret)
	dir := t.TempDir()
	passfile := func(name, password string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("*:*:*:keys:"+password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return strings.Replace(cluster.URL("postgres", url.Values{"passfile": {path}}), "postgres://postgres@", "postgres://keys@", 1)
	}
	hidden := func(what, text string) {
		t.Helper()
		if strings.Contains(text, "horse") {
			t.Errorf("%s shows a password: %s", what, text)
		}
	}
	p := startKeyserver(t, "keyserver", "serve", "--data-dir", filepath.Join(dir, "data"), "--keyserver-tokens", "open", "--log-level", "debug", "--keyserver-store", passfile("right", secret))
	p.wantReady(map[string]string{"keyserver": ""})
	hidden("the list of processes", readFile(t, fmt.Sprintf("/proc/%d/cmdline", p.cmd.Process.Pid)))
	fsck := func(url string) outcome {
		return keytree(t, "keyserver", "fsck", "--keyserver-domain", "example.org", "--data-dir", filepath.Join(dir, "data"), "--keyserver-store", url)
	}
	o := fsck(passfile("wrong", wrong))
	o.wantError(t, exitFailed, "password authentication failed")
	hidden("an error", o.stdout+o.stderr)
	cluster.Kill(t)
	p.wantReady(map[string]string{"keyserver": "the lease of"}) // which cannot be renewed
	o = fsck(passfile("right", secret))
	o.wantError(t, exitFailed, "failed to connect")
	hidden("an error", o.stdout+o.stderr)
	p.kill()
	hidden("the log", p.stdout.String()+p.stderr.String())
}

// TestStorePassword: a password in the URL is refused, and not repeated.
func TestStorePassword(t *testing.T) {
	for _, url := range []string{"postgres://me:secret@db/keys", "postgres://me:secret#@db/keys", "postgres://db/keys?password=secret"} {
		for _, args := range [][]string{{"keyserver", "serve"}, {"keyserver", "fsck"}} {
			o := keytree(t, append(args, "--keyserver-domain", "example.org", "--data-dir", t.TempDir(), "--keyserver-store", url)...)
			o.wantError(t, exitUsage, "not the URL of a PostgreSQL store")
			if strings.Contains(o.stderr, "secret") {
				t.Errorf("standard error repeats a secret: %q", o.stderr)
			}
		}
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		_, err = io.WriteString(out, readFile(t, from))
	}
	if err == nil {
		err = out.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}
