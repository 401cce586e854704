package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/cmd/keytree/internal/demo"
)

// sender is a user of a keyserver on the command line.
type sender struct {
	t      *testing.T
	common []string
}

func newSender(t *testing.T, dir, pass, name, url string) *sender {
	t.Helper()
	s := &sender{t, []string{"--user-dir", filepath.Join(dir, name), "--passphrase-file", pass}}
	mustKeytree(t, "user", "init", "--user-dir", filepath.Join(dir, name), "--keyserver", url)
	s.must("create", name+"@example.org", "--forward-sec", "mandatory")
	return s
}

func (s *sender) run(stdin string, args ...string) outcome {
	s.t.Helper()
	return keytreeWith(s.t, stdin, append(append([]string{"user"}, args...), s.common...)...)
}

func (s *sender) must(args ...string) string {
	s.t.Helper()
	o := s.run("", args...)
	if o.code != exitDone {
		s.t.Fatalf("user %q: %s", args, o.stderr)
	}
	return o.stdout
}

// TestSendAndReceive has two users write to each other, by mail and by file.
func TestSendAndReceive(t *testing.T) {
	if testing.Short() {
		t.Skip("one command runs after the other")
	}
	dir := t.TempDir()
	k := startKeyserver(t, "keyserver", "serve", "--data-dir", filepath.Join(dir, "server"), "--keyserver-tokens", "open")
	mix, err := demo.StartMix()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mix.Close() })
	pass := filepath.Join(dir, "pass")
	write(t, pass, "correct horse battery\n")
	alice := newSender(t, dir, pass, "alice", k.url)
	alice.must("keyinit", "add", "alice@example.org", "--mix-address", demo.MixAddress, "--nym-address", "YWxpY2U=", "--count", "3")
	bob := newSender(t, dir, pass, "bob", k.url) // whom Alice's copy does not have yet

	// Bob to Alice, by the mail server.
	by := []string{"--mix-address", demo.MixAddress, "--nym-address", "Ym9i", "--smtp", mix.Client().Server, "--smtp-security", "plain"}
	o := bob.run("Hi Alice\n\x1b[2J", append([]string{"send", "alice@example.org", "--json"}, by...)...)
	if o.code != exitDone {
		t.Fatal(o.stderr)
	}
	var sent userSent
	if err := json.Unmarshal([]byte(o.stdout), &sent); err != nil || sent.From != "bob@example.org" || sent.To != "alice@example.org" {
		t.Fatalf("%s: %v", o.stdout, err)
	}
	message, err := mix.Fetch("alice")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "message")
	write(t, file, string(message))
	alice.run("", "receive", file, "--no-sync").wantError(t, exitFailed, "copy of the hashchain is not current")
	got := alice.must("receive", file)
	wantParts(t, got, "bob@example.org wrote to alice@example.org, session "+sent.Session, "  | Hi Alice\n  | \uFFFD[2J\n")
	alice.run("", "receive", file).wantError(t, exitFailed, "used up")
	wantParts(t, alice.must("sessions"), "bob@example.org wrote to alice@example.org, session "+sent.Session, "  | Hi Alice\n  | \uFFFD[2J\n")
	var kept userSession
	if err := json.Unmarshal([]byte(bob.must("sessions", "--json")), &kept); err != nil {
		t.Fatal(err)
	}
	if kept.Session != sent.Session || kept.From != "bob@example.org" || kept.To != "alice@example.org" || string(kept.Text) != "Hi Alice\n\x1b[2J" || kept.MixAddress != "" {
		t.Errorf("Bob has kept %+v", kept)
	}

	// And back, through a file, when the keyserver is gone.
	k.signal(os.Interrupt)
	mail := filepath.Join(dir, "answer.eml")
	o = alice.run("Hi Bob", "answer", sent.Session, "--mix-address", demo.MixAddress, "--out", mail)
	if o.code != exitDone {
		t.Fatal(o.stderr)
	}
	var received userReceived
	if err := json.Unmarshal([]byte(bob.must("receive", mail, "--json")), &received); err != nil {
		t.Fatal(err)
	}
	if received.Kind != "answer" || received.From != "alice@example.org" || string(received.Text) != "Hi Bob" || received.Session != sent.Session {
		t.Errorf("received %+v", received)
	}
	bob.run("", "receive", mail).wantError(t, exitFailed, "waits for no answer")
	if got := bob.must("sessions"); got != "" {
		t.Errorf("the session is over, but: %s", got)
	}
	alice.run("", "receive", mail).wantError(t, exitFailed, "waits for no answer")
	bob.run("x", "answer", sent.Session, "--mix-address", demo.MixAddress, "--out", mail).wantError(t, exitFailed, "has received no first message")
	alice.run("x", "answer", sent.Session, "--mix-address", demo.MixAddress, "--out", mail).wantError(t, exitFailed, "answer.eml: file exists: nothing is lost")
	bob.run("x", append([]string{"send", "alice@example.org"}, by...)...).wantError(t, exitFailed, "keyserver")
}

func TestSendUsage(t *testing.T) {
	dir := t.TempDir()
	long := filepath.Join(dir, "long")
	write(t, long, strings.Repeat("x", 1<<16+1))
	send := func(more ...string) []string {
		return append([]string{"user", "send", "alice@example.org", "--user-dir", dir}, more...)
	}
	complete := func(more ...string) []string {
		return send(append([]string{"--mix-address", "a@b.example", "--out", filepath.Join(dir, "out")}, more...)...)
	}
	session := strings.Repeat("ab", 32)
	for _, test := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"user", "send"}, exitUsage, "expected NAME, got nothing"},
		{[]string{"user", "send", "alice", "--user-dir", dir}, exitUsage, "expected NAME@DOMAIN"},
		{send(), exitUsage, "--mix-address, --nym-address: "},
		{send("--mix-address", "a@b@c"), exitUsage, "MIXADDRESS: expected local@domain"},
		{send("--mix-address", "a@b.example"), exitUsage, "expected one of --smtp HOST:PORT and --out FILE"},
		{complete("--smtp", nowhere), exitUsage, "expected one of --smtp HOST:PORT and --out FILE"},
		{complete("--mail-from", "me"), exitUsage, "--mail-from: "},
		{complete("--nym-address", "!"), exitUsage, "--nym-address: "},
		{send("--mix-address", "a@b.example", "--smtp", "host"), exitUsage, "--smtp: expected HOST:PORT"},
		{complete("--smtp-security", "some"), exitUsage, "--smtp-security: expected one of starttls, tls, plain"},
		{send("--mix-address", "a@b.example", "--smtp", nowhere, "--smtp-user", "me"), exitUsage, "expected both or none"},
		{send("--mix-address", "a@b.example", "--smtp", nowhere, "--smtp-user", "me", "--smtp-password-file", long, "--smtp-security", "plain"), exitUsage, "not sent without TLS"},
		{send("--mix-address", "a@b.example", "--smtp", nowhere, "--smtp-user", "me", "--smtp-password-file", "/nonexistent"), exitFailed, "--smtp-password-file"},
		{complete("--text-file", long), exitFailed, "text: expected at most 65536 bytes"},
		{complete("--text-file", "/nonexistent"), exitFailed, "--text-file: open"},
		{complete(), exitFailed, "begin with keytree user init"},
		{[]string{"user", "answer", "abcd", "--user-dir", dir}, exitUsage, "expected a session, 64 hex characters"},
		{[]string{"user", "answer", session, "--user-dir", dir}, exitUsage, "--mix-address"},
		{[]string{"user", "receive"}, exitUsage, "expected FILE, got nothing"},
		{[]string{"user", "receive", "/nonexistent", "--user-dir", dir}, exitFailed, "open /nonexistent"},
		{[]string{"user", "receive", long, "--user-dir", dir}, exitFailed, "not a mail with a session message"},
	} {
		keytree(t, test.args...).wantError(t, test.code, test.want)
	}
	for _, command := range []string{"send", "receive", "answer", "sessions"} {
		wantParts(t, mustKeytree(t, "user", command, "--help"), "Examples:", fmt.Sprintf("keytree user %s", command))
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
