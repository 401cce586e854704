package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	keyclient "github.com/keytree-bch/keytree/keyserver/client"
)

// userPassphrase is in the environment of a test that calls withPassphrase.
const userPassphrase = "correct horse battery staple"

func withPassphrase(t *testing.T) { t.Setenv(passphraseVariable, userPassphrase) }

// secretFile writes a file that only its owner can read.
func secretFile(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// decoded runs a user command with --json and returns its last line.
func decoded[T any](t *testing.T, args ...string) (outcome T) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(mustKeytree(t, append(args, "--json")...)), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &outcome); err != nil {
		t.Fatalf("%s: %v", lines[len(lines)-1], err)
	}
	return outcome
}

func TestUserWrongUsage(t *testing.T) {
	dir := t.TempDir()
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{}, "expected one of: user init"},
		{[]string{"fly"}, `unknown command "fly"`},
		{[]string{"init", "--keyserver", "ftp://127.0.0.1/"}, "--keyserver: expected a keyserver's URL"},
		{[]string{"init", "--fingerprint", "3f"}, "--fingerprint: expected 64 hex characters, got 2"},
		{[]string{"init", "--data-dir", ""}, "--user-dir DIR"},
		{[]string{"create"}, "expected NAME, got nothing"},
		{[]string{"create", "alice"}, `expected NAME@DOMAIN, got "alice"`},
		{[]string{"create", "alice@Example_org"}, "expected NAME@DOMAIN"},
		{[]string{"create", "alice@example.org", "--forward-sec", "none"}, "--forward-sec: expected one of strict, mandatory"},
		{[]string{"create", "alice@example.org", "--forward-sec", "optional", "--tokens", "x"}, "optional asks others to write without a KeyInit, which no client does yet"},
		{[]string{"keyinit", "add", "alice@example.org", "--mix-address", "m@a.example", "--keep", "5", "--count", "3"}, "expected one of --count and --keep"},
		{[]string{"pending", "alice@example.org", "--remake", "--cancel"}, "expected one of --remake and --cancel"},
		{[]string{"create", "alice@example.org", "--mix-address", "mix@example.net"}, "unknown flag: --mix-address"},
		{[]string{"create", "alice@example.org", "extra"}, `unexpected argument "extra"`},
		{[]string{"create", "alice@example.org", "--passphrase", "secret"}, "unknown flag: --passphrase"},
		{[]string{"confirm", "alice@example.org", "--entries", "x"}, "--entries: expected a whole number"},
		{[]string{"confirm", "alice@example.org", "--poll", "0"}, "--poll: expected a whole number from 1"},
		{[]string{"lookup"}, "expected NAME, got nothing"},
		{[]string{"resync", "now"}, `unexpected argument "now"`},
		{[]string{"keyinit"}, "expected one of: user keyinit add"},
		{[]string{"keyinit", "add", "alice@example.org"}, "expected --mix-address ADDRESS"},
		{[]string{"keyinit", "add", "alice@example.org", "--mix-address", "nomix"}, "MIXADDRESS: expected local@domain"},
		{[]string{"keyinit", "add", "alice@example.org", "--mix-address", "m@a.example\nx"}, "MIXADDRESS: expected local@domain"},
		{[]string{"keyinit", "add", "alice@example.org", "--mix-address", "m@a.example", "--nym-address", "!!"}, "NYMADDRESS: "},
		{[]string{"keyinit", "add", "alice@example.org", "--count", "101"}, "--count: expected a whole number from 1 to 100"},
		{[]string{"keyinit", "add", "alice@example.org", "--days", "91"}, "--days: expected a whole number from 1 to 90"},
	} {
		args := append([]string{"user"}, test.args...)
		keytree(t, args...).wantError(t, exitUsage, test.want)
	}
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"sync"}, "begin with keytree user init"},
		{[]string{"resync"}, "begin with keytree user init"},
		{[]string{"create", "alice@example.org", "--tokens", "/nonexistent"}, "tokens: stat /nonexistent"},
		{[]string{"create", "alice@example.org", "--tokens", secretFile(t, "\n")}, "has 0, this takes 1"},
		{[]string{"init", "--keyserver", "http://" + nowhere + "/"}, "keyserver http://127.0.0.1:1/"},
		{[]string{"sync", "--keyserver-ca", secretFile(t, "x")}, "expected a certificate as PEM"},
	} {
		keytree(t, append(append([]string{"user"}, test.args...), "--user-dir", dir)...).wantError(t, exitFailed, test.want)
	}
	for _, command := range []string{"init", "sync", "resync", "status", "create", "confirm", "update", "recover", "lookup", "pending"} {
		wantParts(t, mustKeytree(t, "user", command, "--help"), "Examples:", "keytree user "+command)
	}
	for _, command := range []string{"add", "fetch", "flush"} {
		wantParts(t, mustKeytree(t, "user", "keyinit", command, "--help"), "Examples:", "keytree user keyinit "+command)
	}
}

// TestUserLife is the use-case of two users, with a keyserver that wants tokens and
// speaks https.
func TestUserLife(t *testing.T) {
	if testing.Short() {
		t.Skip("one command runs after the other")
	}
	withPassphrase(t)
	server := t.TempDir()
	cert, key, _ := certificateFiles(t)
	p := startKeyserver(t, "keyserver", "serve", "--data-dir", server, "--keyserver-tls-cert", cert, "--keyserver-tls-key", key, "--keyinit-fetch", "token")
	url := "https" + strings.TrimPrefix(p.url, "http")
	tokens := secretFile(t, mustKeytree(t, "keyserver", "issue-tokens", "9", "--keyserver-domain", "example.org", "--data-dir", server))
	left := func(want int) {
		t.Helper()
		content, err := os.ReadFile(tokens)
		if got := len(strings.Fields(string(content))); err != nil || got != want {
			t.Errorf("%d tokens are left, want %d; %v", got, want, err)
		}
	}
	alice := []string{"--user-dir", t.TempDir(), "--keyserver-ca", cert}
	bob := []string{"--user-dir", t.TempDir(), "--keyserver-ca", cert}
	user := func(who []string, args ...string) []string { return append(append([]string{"user"}, args...), who...) }

	keytree(t, "user", "init", "--keyserver", url, "--user-dir", t.TempDir()).wantError(t, exitFailed, "certificate")
	status := decoded[userStatus](t, user(alice, "init", "--keyserver", url)...)
	if status.Entries != 1 || status.Domain != "example.org" || len(status.ServerKeys) != 1 {
		t.Errorf("%+v", status)
	}
	keytree(t, user(bob, "init", "--keyserver", url, "--fingerprint", strings.Repeat("0", 64))...).wantError(t, exitFailed, "another hashchain than expected: it begins with "+status.Fingerprint)
	mustKeytree(t, user(bob, "init", "--keyserver", url, "--fingerprint", status.Fingerprint)...)

	// What can be known before there is a paper key is said before.
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"create", "alice@example.org"}, "a token is needed: the keyserver takes one for each registration"},
		{[]string{"create", "alice@example.org", "--tokens", secretFile(t, "AAAA")}, "ask the operator of this keyserver for others: give them in --tokens FILE"},
		{[]string{"create", "root@example.org", "--tokens", tokens}, "localpart is reserved: root: choose another name"},
		{[]string{"create", "alice@example.net", "--tokens", tokens}, "this is the keyserver of example.org"},
		{[]string{"create", "alice@example.org", "--tokens", tokens, "--passphrase-file", secretFile(t, "short\n")}, "expected at least 8 bytes"},
	} {
		keytree(t, user(alice, test.args...)...).wantError(t, exitFailed, test.want)
	}
	if status := decoded[userStatus](t, user(alice, "status")...); len(status.Identities) != 0 {
		t.Errorf("left: %q", status.Identities)
	}
	left(9)
	out := mustKeytree(t, user(alice, "create", "alice@example.org", "--tokens", tokens)...)
	wantParts(t, out, "alice@example.org stands in the hashchain at position 1")
	paper := paperFrom(t, out)
	left(8)
	keytree(t, user(alice, "create", "ALICE@example.org", "--tokens", tokens)...).wantError(t, exitFailed, "exists already")
	mapped := keytree(t, user(bob, "create", "a1ice@example.org", "--tokens", tokens)...)
	wantParts(t, mapped.stderr, "a1ice@example.org is registered as alice@example.org: names that look alike are one\n", "identity is taken: alice@example.org, since the entry at position 1")
	left(8)

	lines := strings.Split(mustKeytree(t, user(bob, "create", "bob@example.org", "--tokens", tokens, "--json")...), "\n")
	var shown userPaper
	if err := json.Unmarshal([]byte(lines[0]), &shown); err != nil || shown.Identity != "bob@example.org" {
		t.Errorf("%q, %v", lines[0], err)
	}
	if got := mustKeytree(t, user(alice, "confirm", "alice@example.org", "--entries", "1")...); got != "alice@example.org\n" {
		t.Errorf("confirmed %q", got)
	}
	mustKeytree(t, user(alice, "keyinit", "add", "alice@example.org", "--mix-address", "mix@example.net", "--count", "2", "--tokens", tokens)...)

	contact := decoded[userContact](t, user(bob, "lookup", "A1ice@example.org")...)
	if contact.Identity != "alice@example.org" || !contact.Trusted || contact.Position != 1 || len(contact.SigKeys) != 1 || contact.Searched != 3 {
		t.Errorf("%+v", contact)
	}
	keytree(t, user(bob, "lookup", "carl@example.org")...).wantError(t, exitFailed, "not in the hashchain: carl@example.org")
	left(5)
	keytree(t, user(bob, "keyinit", "fetch", "alice@example.org")...).wantError(t, exitFailed, "a token is needed: the keyserver hands out each KeyInit for one: give them in --tokens FILE")
	fetched := decoded[userFetched](t, user(bob, "keyinit", "fetch", "alice@example.org", "--tokens", tokens)...)
	left(4)
	if fetched.Anchor.MixAddress != "mix@example.net" || fetched.KeyInit.Contents.Fallback {
		t.Errorf("%+v", fetched)
	}
	mustKeytree(t, user(alice, "keyinit", "flush", "alice@example.org")...)
	keytree(t, user(bob, "keyinit", "fetch", "alice@example.org", "--tokens", tokens)...).wantError(t, exitFailed, "no KeyInits left: alice@example.org has none with the keyserver")
	left(4) // there was nothing to pay for

	mustKeytree(t, user(alice, "update", "alice@example.org", "--forward-sec", "mandatory", "--tokens", tokens)...)
	wrong := append(user(alice, "update", "alice@example.org", "--tokens", tokens), "--passphrase-file", secretFile(t, "something else\n"))
	keytree(t, wrong...).wantError(t, exitFailed, "wrong passphrase for alice@example.org")
	open := secretFile(t, userPassphrase)
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	keytree(t, append(user(alice, "update", "alice@example.org"), "--passphrase-file", open)...).wantError(t, exitFailed, "passphrase: file is open to others")

	// Alice's machine is gone.
	alice = []string{"--user-dir", t.TempDir(), "--keyserver-ca", cert}
	another := secretFile(t, "another long passphrase\n")
	mustKeytree(t, user(alice, "init", "--keyserver", url)...)
	recovery := func(paper string) []string {
		return user(alice, "recover", "alice@example.org", "--tokens", tokens, "--passphrase-file", another, "--paper-key-file", secretFile(t, paper))
	}
	typo := "A"
	if paper[0] == 'A' {
		typo = "B"
	}
	keytree(t, recovery(typo+paper[1:])...).wantError(t, exitFailed, "wrong paper key; the checksum does not match")
	keytree(t, recovery(shown.PaperKey)...).wantError(t, exitFailed, "wrong paper key: it is not the SIGESCROW of alice@example.org")
	left(3)
	mustKeytree(t, recovery(strings.ToLower(paper)+"\n")...)
	left(2)
	contact = decoded[userContact](t, user(bob, "lookup", "alice@example.org")...)
	if len(contact.SigKeys) != 3 || contact.MsgCount != 2 || contact.ForwardSec != "mandatory" {
		t.Errorf("%+v", contact)
	}
	mustKeytree(t, user(bob, "sync", "--recheck")...)
	if status := decoded[userStatus](t, user(alice, "status")...); len(status.Identities) != 1 || status.Entries != 5 {
		t.Errorf("%+v", status)
	}
	t.Setenv(passphraseVariable, "")
	keytree(t, user(bob, "update", "bob@example.org", "--tokens", tokens)...).wantError(t, exitFailed, "there is no terminal to ask on; or give --passphrase-file FILE or KEYTREE_PASSPHRASE")
}

// paperFrom returns the paper key in the output of a command.
func paperFrom(t *testing.T, out string) string {
	t.Helper()
	var key []string
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "    ") {
			key = append(key, strings.TrimSpace(line))
		}
	}
	if _, err := keyclient.ParsePaperKey(strings.Join(key, " ")); err != nil {
		t.Fatalf("%q: %v", out, err)
	}
	return strings.Join(key, " ")
}

// detained passes calls on to a keyserver, but detains those of one method: before
// they get there or after.
type detained struct {
	to      string
	method  atomic.Pointer[string]
	after   bool
	arrived chan struct{} // closed when a call is detained
	free    func()        // lets them all go, to nowhere
	freed   chan struct{}
	once    sync.Once
}

func newDetained(to string, after bool) *detained {
	d := &detained{to: to, after: after, arrived: make(chan struct{}), freed: make(chan struct{})}
	d.free = sync.OnceFunc(func() { close(d.freed) })
	return d
}

// ServeHTTP implements http.Handler.
func (d *detained) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	method := d.method.Load()
	hold := method != nil && bytes.Contains(body, []byte(*method))
	var answer []byte
	if !hold || d.after {
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		response, err := client.Post(d.to, "application/json", bytes.NewReader(body))
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		answer, err = io.ReadAll(response.Body)
		if err := errors.Join(err, response.Body.Close()); err != nil {
			panic(http.ErrAbortHandler)
		}
	}
	if hold {
		d.once.Do(func() { close(d.arrived) })
		<-d.freed
		panic(http.ErrAbortHandler)
	}
	w.Write(answer)
}

// TestUserKilled kills a process that creates an identity, before and after the
// keyserver has it, and another that goes on with it.
func TestUserKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts one process after the other")
	}
	withPassphrase(t)
	p := startKeyserver(t, "keyserver", "serve", "--data-dir", t.TempDir(), "--keyserver-tokens", "open")
	for name, test := range map[string]struct {
		method string
		after  bool
	}{
		"anna@example.org": {"KeyRepository.CreateUID", false},
		"bert@example.org": {"KeyRepository.CreateUID", true},
		"carl@example.org": {"KeyRepository.FetchUID", true},
	} {
		t.Run(test.method, func(t *testing.T) {
			dir := []string{"--user-dir", t.TempDir()}
			d := newDetained(p.url, test.after)
			front := httptest.NewServer(d)
			defer front.Close()
			defer d.free()
			mustKeytree(t, append([]string{"user", "init", "--keyserver", front.URL + "/"}, dir...)...)
			d.method.Store(&test.method)

			create := append([]string{"user", "create", name}, dir...)
			var papers []string
			for range 2 { // the second goes on, and is killed, too
				killed := startProgram(t, nil, create...)
				select {
				case <-d.arrived:
				case <-killed.done:
					t.Fatalf("it ended: %s", killed.errors())
				}
				killed.signal(syscall.SIGKILL)
				if strings.Contains(killed.output(), "Paper key") {
					papers = append(papers, paperFrom(t, killed.output()))
				}
			}
			if len(papers) != 1 {
				t.Fatalf("the paper key was shown %d times", len(papers))
			}
			d.free()
			d.method.Store(nil)
			created := decoded[userIdentity](t, create...)
			if created.Identity != name || created.Stage != keyclient.Registered {
				t.Errorf("%+v", created)
			}
			contact := decoded[userContact](t, append([]string{"user", "lookup", name}, dir...)...)
			if len(contact.Entries) != 1 || contact.Entries[0] != created.Position {
				t.Errorf("entries at %d, want %d alone", contact.Entries, created.Position)
			}
			mustKeytree(t, append([]string{"user", "recover", name, "--paper-key-file", secretFile(t, papers[0])}, dir...)...)
		})
	}
}
