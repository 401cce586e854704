package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keytree-bch/keytree/cmd/keytree/internal/demo"
)

// terminal is a pseudo terminal, and who sits in front of it.
type terminal struct {
	t     *testing.T
	keys  *os.File // what is written is typed, what is read is shown
	slave *os.File // what a program takes for its terminal

	mu    sync.Mutex
	shown bytes.Buffer  // mu
	more  chan struct{} // mu; closed and replaced when shown has grown
}

func newTerminal(t *testing.T) *terminal {
	t.Helper()
	keys, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("there are no pseudo terminals:", err)
	}
	fd := int(keys.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	w := &terminal{t: t, keys: keys, slave: slave, more: make(chan struct{})}
	var reading sync.WaitGroup
	reading.Go(w.read)
	t.Cleanup(func() {
		slave.Close()
		reading.Wait() // ends when nobody has the slave open
		keys.Close()
	})
	return w
}

func (w *terminal) read() {
	b := make([]byte, 4096)
	for {
		n, err := w.keys.Read(b)
		w.mu.Lock()
		w.shown.Write(b[:n])
		close(w.more)
		w.more = make(chan struct{})
		w.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// screen is all that was shown.
func (w *terminal) screen() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.shown.String()
}

// hides reports whether the terminal does not show what is typed.
func (w *terminal) hides() bool {
	state, err := unix.IoctlGetTermios(int(w.keys.Fd()), unix.TCGETS)
	return err != nil || state.Lflag&unix.ECHO == 0
}

// await waits until a text was shown, behind some bytes, and returns where that ends. It
// returns 0 when done is closed before.
func (w *terminal) await(text string, done <-chan struct{}, from int) int {
	for {
		w.mu.Lock()
		at, more := strings.Index(w.shown.String()[from:], text), w.more
		w.mu.Unlock()
		if at >= 0 {
			return from + at + len(text)
		}
		select {
		case <-more:
		case <-done:
			return 0
		}
	}
}

// answer types each secret when what asks for it was shown. It ends early with done.
func (w *terminal) answer(done <-chan struct{}, talk ...string) {
	seen := 0
	for i := 0; i+1 < len(talk); i += 2 {
		if seen = w.await(talk[i], done, seen); seen == 0 {
			return
		}
		for !w.hides() { // a person is slower than a program that has just asked
			select {
			case <-done:
				return
			case <-time.After(time.Millisecond):
			}
		}
		if _, err := w.keys.WriteString(talk[i+1]); err != nil {
			w.t.Error(err)
		}
	}
}

// typed runs a command line in this process, at a terminal where somebody types.
func typed(t *testing.T, talk []string, args ...string) outcome {
	t.Helper()
	w := newTerminal(t)
	done := make(chan struct{})
	var person sync.WaitGroup
	person.Go(func() { w.answer(done, talk...) })
	var stdout bytes.Buffer
	code := run(t.Context(), args, w.slave, &stdout, w.slave)
	close(done)
	person.Wait()
	fmt.Fprint(w.slave, "\x00") // the last that is shown
	w.await("\x00", nil, 0)
	return outcome{code, stdout.String(), w.screen()}
}

// mistake is something that a person does wrong.
type mistake struct {
	name string
	args []string
	talk []string // what is shown, and what is typed then; nil for one that is not asked anything
	want string   // what is said, which tells what to do
}

// people are two users of a keyserver that wants tokens, and what they must not lose.
type people struct {
	t           *testing.T
	dir, tokens string
	server      *keyserverProgram
}

func newPeople(t *testing.T) *people {
	dir := t.TempDir()
	p := &people{t: t, dir: dir, tokens: filepath.Join(dir, "tokens.txt")}
	p.server = startKeyserver(t, "keyserver", "serve", "--data-dir", p.path("server"))
	mustKeytree(t, "keyserver", "issue-tokens", "9", "--keyserver-domain", "example.org", "--data-dir", p.path("server"), "--out", p.tokens)
	for _, who := range []string{"alice", "bob", "nobody"} {
		mustKeytree(t, "user", "init", "--user-dir", p.path(who), "--keyserver", p.server.url)
	}
	write(t, p.path("pass"), userPassphrase+"\n")
	write(t, p.path("text"), "Hi Alice")
	return p
}

func (p *people) path(name string) string { return filepath.Join(p.dir, name) }

// as completes a command line of a user.
func (p *people) as(who string, args ...string) []string {
	return append(append([]string{"user"}, args...), "--user-dir", p.path(who))
}

// worth is what must not get less by a mistake: tokens, KeyInits with the keyserver and with
// Bob, names.
func (p *people) worth() string {
	p.t.Helper()
	content, err := os.ReadFile(p.tokens)
	if err != nil {
		p.t.Fatal(err)
	}
	status := decoded[userStatus](p.t, p.as("alice", "status", "--passphrase-file", p.path("pass"))...)
	fetched, err := filepath.Glob(filepath.Join(p.path("bob"), "fetched", "*"))
	if err != nil || len(status.States) != 1 || status.States[0].KeyInits == nil {
		p.t.Fatalf("%+v, %v", status, err)
	}
	var names []string
	for _, who := range []string{"alice", "bob", "nobody"} {
		names = append(names, decoded[userStatus](p.t, p.as(who, "status")...).Identities...)
	}
	return fmt.Sprintf("%d tokens, %d KeyInits, %d of them with Bob, names %q",
		len(strings.Fields(string(content))), *status.States[0].KeyInits+uint64(len(fetched)), len(fetched), names)
}

// TestMistakes makes every mistake twice: with keystrokes on a terminal, and as a program
// does, without one. Each is told with what to do, and costs nothing.
func TestMistakes(t *testing.T) {
	if testing.Short() {
		t.Skip("it derives a key from a passphrase many times")
	}
	p := newPeople(t)
	pass, tokens := p.path("pass"), p.tokens
	const phrase = userPassphrase + "\n"
	first := []string{"Passphrase of alice@example.org: ", phrase, "Again: ", phrase}
	if o := typed(t, first, p.as("alice", "create", "alice@example.org", "--tokens", tokens, "--forward-sec", "mandatory")...); o.code != exitDone || strings.Contains(o.stderr, "correct horse") {
		t.Fatalf("%+v", o)
	}
	spent, err := os.ReadFile(tokens)
	if err != nil {
		t.Fatal(err)
	}
	mustKeytree(t, p.as("alice", "keyinit", "add", "alice@example.org", "--mix-address", "mix@example.net", "--tokens", tokens, "--keep", "3", "--passphrase-file", pass)...)
	write(t, p.path("spent"), strings.Fields(string(spent))[0]+"\n")
	mustKeytree(t, p.as("bob", "create", "bob@example.org", "--tokens", tokens, "--passphrase-file", pass)...)
	mix, err := demo.StartMix()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mix.Close() })
	write(t, p.path("there"), "x")
	write(t, p.path("other"), strings.Repeat("QUJD", 32)+"\n")
	write(t, p.path("none"), "\n")
	write(t, p.path("open"), phrase)
	if err := os.Chmod(p.path("open"), 0o644); err != nil {
		t.Fatal(err)
	}
	write(t, p.path("short"), "short\n")
	wif := "L1aW4aubDFB7yfras2S1mN3bqg9nwySY8nkoLmJebSLD5BWv3ENZ"
	send := func(more ...string) []string {
		return p.as("bob", append([]string{"send", "alice@example.org", "--mix-address", "b@example.net", "--text-file", p.path("text")}, more...)...)
	}
	bobs := []string{"Passphrase of bob@example.org: ", phrase}
	alices := []string{"Passphrase of alice@example.org: ", phrase}
	add := func(more ...string) []string {
		return p.as("alice", append([]string{"keyinit", "add", "alice@example.org", "--tokens", tokens}, more...)...)
	}
	session := strings.Repeat("ab", 32)
	before := p.worth()
	for _, m := range []mistake{
		// Those that have been made.
		{"mix address that is none", add("--mix-address", "nomix"), nil, "MIXADDRESS: expected local@domain"},
		{"nym address that is none", add("--mix-address", "m@a.example", "--nym-address", "!!"), nil, "NYMADDRESS: "},
		{"line break in an address", add("--mix-address", "m@a.example\nBcc: all@a.example"), nil, "MIXADDRESS: expected local@domain"},
		{"mail server that is down", send("--smtp", nowhere), bobs, "no KeyInit was taken"},
		{"mail server without STARTTLS", send("--smtp", mix.Client().Server), bobs, "no KeyInit was taken"},
		{"file that is there", send("--out", p.path("there")), bobs, "file exists: no KeyInit was taken"},
		{"name that nobody has", p.as("bob", "lookup", "carol@example.org"), nil, "carol@example.org, among 3 entries: ask for the exact name"},
		{"writing before being somebody", p.as("nobody", "send", "alice@example.org", "--mix-address", "b@example.net", "--out", p.path("new"), "--text-file", p.path("text")), nil, "become somebody first: keytree user create NAME@example.org"},
		{"forward security that does not work", p.as("nobody", "create", "carol@example.org", "--forward-sec", "optional"), nil, "optional asks others to write without a KeyInit"},
		{"mix address of an identity", p.as("nobody", "create", "carol@example.org", "--mix-address", "m@a.example"), nil, "unknown flag: --mix-address"},
		{"reserved name", p.as("nobody", "create", "root@example.org", "--tokens", tokens), nil, "choose another name"},
		{"no token", p.as("nobody", "create", "carol@example.org"), []string{"Passphrase of carol@example.org: ", phrase, "Again: ", phrase}, "give them in --tokens FILE"},
		{"short passphrase", p.as("nobody", "create", "carol@example.org", "--tokens", tokens), []string{"Passphrase of carol@example.org: ", "short\n"}, "expected at least 8 bytes"},
		{"tokens without a keyserver", []string{"keyserver", "issue-tokens", "1", "--keyserver-domain", "example.org", "--data-dir", p.path("elsewhere")}, nil, "there is no keyserver"},
		{"tokens for another domain", []string{"keyserver", "issue-tokens", "1", "--keyserver-domain", "example.net", "--data-dir", p.path("server")}, nil, "has the keyserver of example.org"},
		{"key in the place of a path", p.as("nobody", "create", "carol@example.org", "--tokens", wif), nil, "a key belongs into a file"},
		// And others.
		{"passphrases that differ", p.as("nobody", "create", "carol@example.org", "--tokens", tokens), []string{"Passphrase of carol@example.org: ", phrase, "Again: ", "correct house\n"}, "the two are not the same"},
		{"nothing typed", p.as("nobody", "create", "carol@example.org", "--tokens", tokens), []string{"Passphrase of carol@example.org: ", "\n"}, "expected at least 8 bytes"},
		{"wrong passphrase", add("--mix-address", "m@a.example", "--count", "1"), []string{"Passphrase of alice@example.org: ", "wrong horse battery\n"}, "wrong passphrase for alice@example.org: nothing was changed"},
		{"file of no tokens", p.as("nobody", "create", "carol@example.org", "--tokens", p.path("none")), nil, "has 0, this takes 1: ask the operator"},
		{"tokens of another keyserver", p.as("nobody", "create", "carol@example.org", "--tokens", p.path("other")), []string{"Passphrase of carol@example.org: ", phrase, "Again: ", phrase}, "ask the operator of this keyserver for others"},
		{"token that is spent", p.as("alice", "keyinit", "add", "alice@example.org", "--mix-address", "m@a.example", "--count", "1", "--tokens", p.path("spent")), alices, "take it out of the file"},
		{"name that somebody has", p.as("nobody", "create", "A1ICE@example.org", "--tokens", tokens), []string{"Passphrase of alice@example.org: ", phrase, "Again: ", phrase}, "identity is taken: alice@example.org"},
		{"name that is there already", p.as("alice", "create", "alice@example.org", "--tokens", tokens), alices, "keytree user update gives it new keys"},
		{"name of another domain", p.as("bob", "lookup", "alice@example.net"), nil, "this is the keyserver of example.org, which has no other names"},
		{"no name", p.as("bob", "lookup", "alice"), nil, "expected NAME@DOMAIN"},
		{"mistyped paper key", p.as("nobody", "recover", "alice@example.org", "--tokens", tokens), []string{"Paper key of alice@example.org: ", "AAAA BBBB\n"}, "expected 56 letters and digits from 2 to 7"},
		{"answer to nothing", p.as("bob", "answer", session, "--mix-address", "b@example.net", "--out", p.path("new"), "--text-file", p.path("text")), bobs, "has received no first message in session"},
		{"mail that is none", p.as("bob", "receive", p.path("text")), nil, "not a mail with a session message"},
		{"another's identity", p.as("bob", "confirm", "alice@example.org"), nil, "keytree user status lists yours"},
		{"too many", add("--mix-address", "m@a.example", "--keep", "200"), nil, "--keep: expected a whole number from 0 to 100"},
		{"nothing pending", p.as("bob", "pending", "bob@example.org", "--cancel"), bobs, "nothing is pending for bob@example.org"},
		{"no folder", []string{"user", "status", "--user-dir", p.path("empty")}, nil, "begin with keytree user init"},
	} {
		t.Run(m.name, func(t *testing.T) {
			check := func(how string, o outcome) {
				t.Helper()
				if o.code == exitDone || !strings.Contains(o.stderr, m.want) || strings.Contains(o.stdout, "Paper key") || strings.Contains(o.stderr, wif) {
					t.Errorf("%s: exit code %d, %q, %q; expected %q", how, o.code, o.stdout, o.stderr, m.want)
				}
			}
			check("typed", typed(t, m.talk, m.args...))
			if len(m.talk) == 0 { // or a program gives the passphrase in a file
				check("piped", keytreeWith(t, "", m.args...))
				return
			}
			o := keytreeWith(t, "", m.args...)
			if o.code == exitDone || !strings.Contains(o.stderr, "there is no terminal to ask on; or give --") {
				t.Errorf("without a terminal: %+v", o)
			}
			if said, secret := m.talk[0], strings.TrimRight(m.talk[1], "\n"); strings.HasPrefix(said, "Passphrase") && secret != "" && (len(m.talk) == 2 || m.talk[3] == m.talk[1]) {
				file := filepath.Join(t.TempDir(), "pass")
				write(t, file, secret+"\n")
				check("piped", keytreeWith(t, "", append(m.args, "--passphrase-file", file)...))
			}
		})
	}
	if after := p.worth(); after != before {
		t.Errorf("before: %s\nafter:  %s", before, after)
	}
	keytree(t, add("--mix-address", "m@a.example", "--passphrase-file", p.path("open"))...).wantError(t, exitFailed, "file is open to others")
}

// TestTextFromAPipe sends what comes from a pipe, or from a file, and types the passphrase on
// the terminal that the process belongs to.
func TestTextFromAPipe(t *testing.T) {
	if testing.Short() {
		t.Skip("it derives a key from a passphrase many times")
	}
	p := newPeople(t)
	for _, who := range []string{"alice", "bob"} {
		mustKeytree(t, p.as(who, "create", who+"@example.org", "--tokens", p.tokens, "--passphrase-file", p.path("pass"))...)
	}
	mustKeytree(t, p.as("alice", "keyinit", "add", "alice@example.org", "--mix-address", "mix@example.net", "--tokens", p.tokens, "--count", "1", "--passphrase-file", p.path("pass"))...)
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	w := newTerminal(t)
	cmd := exec.Command(executable, p.as("bob", "send", "alice@example.org", "--mix-address", "b@example.net", "--out", p.path("first.eml"))...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader("Hi Alice\n"), new(bytes.Buffer), w.slave
	cmd.SysProcAttr = dieWithParent()
	cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty, cmd.SysProcAttr.Ctty = true, true, 2
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var person sync.WaitGroup
	person.Go(func() { w.answer(done, "Passphrase of bob@example.org: ", userPassphrase+"\n") })
	err = cmd.Wait()
	close(done)
	person.Wait()
	if err != nil {
		t.Fatalf("%v: %s", err, w.screen())
	}
	if strings.Contains(w.screen(), "correct horse") {
		t.Error("the passphrase is shown")
	}

	// What came is not lost by a full disk or a closed pipe.
	receive := p.as("alice", "receive", p.path("first.eml"), "--passphrase-file", p.path("pass"))
	lost := func(args []string) {
		t.Helper()
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Skip(err)
		}
		defer full.Close()
		var stderr bytes.Buffer
		if code := run(t.Context(), args, strings.NewReader(""), full, &stderr); code == exitDone || !strings.Contains(stderr.String(), "keytree user sessions shows it") {
			t.Errorf("%q to a full disk: %d, %q", args, code, stderr.String())
		}
	}
	lost(receive)
	sessions := func(who string) string {
		return mustKeytree(t, p.as(who, "sessions", "--passphrase-file", p.path("pass"))...)
	}
	wantParts(t, sessions("alice"), "bob@example.org wrote to alice@example.org", "  | Hi Alice\n")
	kept := decoded[userSession](t, p.as("alice", "sessions", "--passphrase-file", p.path("pass"))...)
	write(t, p.path("text"), "Hi Bob")
	mustKeytree(t, p.as("alice", "answer", kept.Session, "--mix-address", "a@example.net", "--out", p.path("answer.eml"), "--text-file", p.path("text"), "--passphrase-file", p.path("pass"))...)
	lost(p.as("bob", "receive", p.path("answer.eml"), "--passphrase-file", p.path("pass")))
	wantParts(t, sessions("bob"), "alice@example.org answered to bob@example.org", "  | Hi Bob\n")
	keytree(t, p.as("bob", "receive", p.path("answer.eml"), "--passphrase-file", p.path("pass"))...).wantError(t, exitFailed, "keytree user sessions shows what has come")
	if errors.Is(os.Remove(p.path("answer.eml")), os.ErrNotExist) {
		t.Error("there is no answer")
	}
}
