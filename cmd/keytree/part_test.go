package main

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
)

// get asks over REST.
func (p *keyserverProgram) get(path string) (code int, body string) {
	p.t.Helper()
	r, err := p.client.Get("http://" + p.rest + path)
	if err != nil {
		p.t.Fatal(err)
	}
	return r.StatusCode, string((&linkWorld{t: p.t}).body(r, nil))
}

// wantReady waits until the server says of each part whether it is ready: reason is "" for
// one that is.
func (p *keyserverProgram) wantReady(reasons map[string]string) {
	p.t.Helper()
	for part, reason := range reasons {
		regtest.Await(p.t, func() string {
			code, body := p.get("/readyz/" + part)
			if (code == http.StatusOK) == (reason == "") && strings.Contains(body, reason) {
				return ""
			}
			return part + " is not as it should be, " + reason + ": " + body + "\n" + p.errors()
		})
		_, body := p.get("/readyz")
		var all struct {
			Parts map[string]struct{ Ready bool }
		}
		if err := json.Unmarshal([]byte(body), &all); err != nil || all.Parts[part].Ready != (reason == "") {
			p.t.Errorf("/readyz says of the %s: %s, %v", part, body, err)
		}
	}
}

// wantKeyserverFailed waits until the keyserver has failed, for a reason that has all parts,
// and checks that it answers nobody, and that the index does.
func (p *keyserverProgram) wantKeyserverFailed(parts ...string) {
	p.t.Helper()
	wantParts(p.t, p.await(&p.stderr, "the keyserver has failed"), parts...)
	p.wantReady(map[string]string{"keyserver": "the keyserver has failed", "index": ""})
	for path, want := range map[string]int{"/v1/status": http.StatusOK, "/v1/keyserver/head": http.StatusServiceUnavailable} {
		if code, body := p.get(path); code != want {
			p.t.Errorf("%s: %d %s, want %d", path, code, body, want)
		}
	}
	if p.url == "http:///" { // it had failed before it listened
		return
	}
	regtest.Await(p.t, func() string {
		r, err := p.client.Post(p.url, "application/json", strings.NewReader(capabilitiesCall))
		if err != nil {
			return ""
		}
		r.Body.Close()
		return "the keyserver's wire still answers: " + r.Status
	})
}

// damage flips a bit in the middle of a table of a database that nobody has open.
func damage(t *testing.T, dir string) {
	t.Helper()
	tables, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatalf("no tables in %s: %v", dir, err)
	}
	content, err := os.ReadFile(tables[0])
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)/2] ^= 1
	if err := os.WriteFile(tables[0], content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// stopped stops a server that has a chain of blocks and a keyserver that waits for no index,
// and returns its folder.
func stopped(t *testing.T, n *regtest.Node) (dir string) {
	t.Helper()
	dir = t.TempDir()
	s := startBeside(t, n, dir, "--anchor-chain", "none")
	awaitTip(t, s.grpc, n)
	s.wantReady(map[string]string{"index": "", "keyserver": ""})
	if code := s.signal(syscall.SIGTERM); code != exitDone {
		t.Fatalf("exit code %d: %s", code, s.errors())
	}
	return dir
}

// TestPartsDieApart damages the one or the other of a server's parts: the other goes on, and
// the server ends only when none is left.
func TestPartsDieApart(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts one process after the other")
	}
	withPassphrase(t)
	n := regtest.ForTest(t, regtest.Options{Blocks: 110})
	t.Run("a damaged keyserver", func(t *testing.T) {
		dir := stopped(t, n)
		damage(t, filepath.Join(dir, "keyserver"))
		s := startBeside(t, n, dir)
		s.wantKeyserverFailed("database damaged")
		awaitTip(t, s.grpc, n)
	})
	t.Run("a keyserver that turns out to be damaged", func(t *testing.T) {
		dir, userDir := t.TempDir(), t.TempDir()
		s := startBeside(t, n, dir, "--anchor-chain", "none")
		mustKeytree(t, "user", "init", "--user-dir", userDir, "--keyserver", s.url)
		mustKeytree(t, "user", "create", "alice@example.org", "--user-dir", userDir)
		if code := s.signal(syscall.SIGTERM); code != exitDone {
			t.Fatalf("exit code %d: %s", code, s.errors())
		}
		dropReply(t, filepath.Join(dir, "keyserver"), 1)
		s = startBeside(t, n, dir, "--keyserver-listen", strings.Trim(s.url, "htp:/"))
		keytree(t, "user", "update", "alice@example.org", "--user-dir", userDir).wantError(t, exitFailed, "keyserver")
		s.wantKeyserverFailed("keyserver has failed and must be started anew: database damaged: no reply")
		mine(t, s.grpc, n)
		// It has given its database back: it can be looked after.
		s.command("keyserver", "fsck").wantError(t, exitFailed, "database damaged")
		if code := s.signal(syscall.SIGTERM); code != exitDone {
			t.Errorf("exit code %d: %s", code, s.errors())
		}
	})
	t.Run("a damaged index", func(t *testing.T) {
		dir := stopped(t, n)
		damage(t, filepath.Join(dir, "graph"))
		s := startBeside(t, n, dir)
		wantParts(t, s.await(&s.stderr, "the index has failed"), "database damaged", "index again")
		s.wantReady(map[string]string{"index": "the index has failed", "keyserver": ""})
		var last lastEntry
		s.call("KeyHashchain.FetchLastHashChain", &last)
		for path, want := range map[string]int{"/v1/status": http.StatusServiceUnavailable, "/v1/keyserver/head": http.StatusOK} {
			if code, body := s.get(path); code != want {
				t.Errorf("%s: %d %s, want %d", path, code, body, want)
			}
		}
		keytree(t, "status", "--server", s.grpc).wantError(t, exitFailed, "the index has failed")
	})
	t.Run("an index that refuses its node", func(t *testing.T) {
		dir := stopped(t, n)
		if err := os.RemoveAll(filepath.Join(dir, "graph")); err != nil {
			t.Fatal(err)
		}
		s := startBeside(t, n, dir, "--network", "mainnet")
		wantParts(t, s.await(&s.stderr, "the index has failed"), "it is on network regtest, expected mainnet")
		s.wantReady(map[string]string{"index": "the index has failed", "keyserver": ""})
		wantParts(t, mustKeytree(t, "status", "--server", s.grpc), "not synced: the index has failed")
	})
	t.Run("both damaged", func(t *testing.T) {
		dir := stopped(t, n)
		damage(t, filepath.Join(dir, "graph"))
		damage(t, filepath.Join(dir, "keyserver"))
		o := keytree(t, append(serveArgs(n.URL(), dir), "--keyserver-domain", "example.org", "--keyserver-tokens", "open", "--log-level", "error")...)
		_, last, _ := strings.Cut(o.stderr, "\nkeytree: ")
		if o.code != exitFailed || strings.Count(last, "database damaged") != 2 {
			t.Errorf("exit code %d: %s", o.code, o.stderr)
		}
	})
	t.Run("a keyserver that waits for a damaged index", func(t *testing.T) {
		dir := t.TempDir()
		s := startBeside(t, n, dir)
		s.await(&s.stderr, "the keyserver answers")
		awaitTip(t, s.grpc, n)
		if code := s.signal(syscall.SIGTERM); code != exitDone {
			t.Fatalf("exit code %d: %s", code, s.errors())
		}
		damage(t, filepath.Join(dir, "graph"))
		s = startBeside(t, n, dir)
		if code := s.end(); code != exitFailed {
			t.Errorf("exit code %d", code)
		}
		wantParts(t, s.errors(), "keytree: opening the graph in ", "; the keyserver is held back until the index tells what was anchored, and the index has failed\n")
	})
}
