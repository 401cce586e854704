package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/keytree-bch/keytree/graph/durable/durabletest"
)

// writing is a command that writes users' files or secrets into a folder, DIR.
type writing struct {
	args   []string
	before []string // the command that has to be run before
	from   string   // the folder is a copy of this one, if it is not ""
	done   string   // what it may say, and fail, where it has been done already
	check  []string // the command that must succeed when it is done
	long   bool     // only with KEYTREE_EXHAUSTIVE: there is a passphrase to stretch
}

// writings are these commands, with a keyserver at a URL, the folder of one that has ended, and an
// identity, NAME.
func writings(url, ended string) []writing {
	user := func(args ...string) []string { return append([]string{"user"}, append(args, "--user-dir", "DIR")...) }
	keyserver := func(args ...string) []string {
		return append([]string{"keyserver"}, append(args, "--keyserver-domain", "example.org", "--data-dir", "DIR")...)
	}
	initialize := user("init", "--keyserver", url)
	return []writing{
		{args: initialize, done: "is there already", check: user("status")},
		{args: keyserver("issue-tokens", "2"), from: ended, check: keyserver("issue-tokens", "1")},
		{args: user("create", "NAME@example.org"), before: initialize, done: "exists already", check: user("lookup", "NAME@example.org"), long: true},
	}
}

// TestFaults has the system calls fail, or kills the process before them, with which commands write
// users' files and secrets. Whatever happens, the command can be given again, and is done then.
// Without KEYTREE_EXHAUSTIVE it is only those that make files last.
func TestFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts many processes")
	}
	f := &faults{T: t, strace: durabletest.Strace(t)}
	withPassphrase(t)
	p := startKeyserver(t, "keyserver", "serve", "--data-dir", t.TempDir(), "--keyserver-tokens", "open")
	ended := t.TempDir()
	startKeyserver(t, "keyserver", "serve", "--data-dir", ended).signal(syscall.SIGTERM)
	exhaustive := os.Getenv(exhaustiveEnv) != ""
	for _, w := range writings(p.url, ended) {
		if w.long && !exhaustive {
			continue
		}
		t.Run(strings.Join(w.args[:2], " "), func(t *testing.T) {
			f.T = t
			f.prepare(w)
			if code := f.trace(w, nil); code != exitDone {
				t.Fatalf("without a fault: exit code %d", code)
			}
			calls := f.calls()
			if len(calls) < 3 {
				t.Fatalf("it makes only %v", calls)
			}
			for _, c := range calls {
				if !exhaustive && !slices.Contains(lastingCalls(), c.name) {
					continue
				}
				for _, fault := range []string{"error=EIO", "signal=KILL:when=1"} {
					f.try(w, c, fault)
				}
			}
		})
	}
}

// call is a system call about a file in the folder.
type call struct {
	name string
	file string // with HASH in place of the identity's
}

// faults runs commands under strace, each in a new folder.
type faults struct {
	*testing.T
	strace string
	dir    string
	names  int // how many identities there were
}

// prepare makes a folder, and a name for an identity.
func (f *faults) prepare(w writing) {
	f.dir = filepath.Join(f.TempDir(), "folder")
	f.names++
	if w.from != "" {
		if err := os.CopyFS(f.dir, os.DirFS(w.from)); err != nil {
			f.Fatal(err)
		}
		// CopyFS gives each file what the umask leaves of 0666: those of a keyserver are private.
		if err := filepath.WalkDir(f.dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			return os.Chmod(path, 0o600)
		}); err != nil {
			f.Fatal(err)
		}
	}
	if w.before != nil {
		mustKeytree(f.T, f.fill(w.before)...)
	}
}

// name is that of the present identity. No two look alike.
func (f *faults) name() string {
	var name []byte
	for n := f.names; n > 0; n /= 4 {
		name = append(name, "bdfg"[n%4])
	}
	return string(name)
}

// hash is what an identity's files are called.
func (f *faults) hash() string {
	return fmt.Sprintf("%x", sha256.Sum256([]byte(f.name()+"@example.org")))
}

// fill puts the folder and the name into a command line.
func (f *faults) fill(args []string) []string {
	filled := slices.Clone(args)
	for i := range filled {
		filled[i] = strings.NewReplacer("DIR", f.dir, "NAME", f.name()).Replace(filled[i])
	}
	return filled
}

// watched are the system calls that change files.
const watched = "openat,write,pwrite64,fsync,ftruncate,renameat,renameat2,linkat,unlinkat,mkdirat"

// lastingCalls are those that make files last.
func lastingCalls() []string { return []string{"fsync", "renameat", "linkat"} }

// trace runs a command, with a fault where it is not nil, and returns its exit code; -1 if it
// was killed.
func (f *faults) trace(w writing, fault []string) int {
	f.Helper()
	executable, err := os.Executable()
	if err != nil {
		f.Fatal(err)
	}
	args := slices.Concat([]string{"--follow-forks", "--decode-fds", "--output=" + f.dir + ".trace", "--trace=" + watched}, fault, []string{executable}, f.fill(w.args))
	cmd := exec.Command(f.strace, args...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		f.Fatal(err)
	}
	return cmd.ProcessState.ExitCode()
}

// calls returns which system calls the last command has made about which files in the folder, each
// once.
func (f *faults) calls() (calls []call) {
	trace, err := os.ReadFile(f.dir + ".trace")
	if err != nil {
		f.Fatal(err)
	}
	about := regexp.MustCompile(`(?m)^\d+ +(\w+)\((?:\d+<|AT_FDCWD(?:<[^>]*>)?, ")(` + regexp.QuoteMeta(f.dir) + `[^">]*)`)
	for _, line := range about.FindAllStringSubmatch(string(trace), -1) {
		file := strings.ReplaceAll(strings.TrimPrefix(line[2], f.dir), f.hash(), "HASH")
		if c := (call{line[1], file}); !slices.Contains(calls, c) {
			calls = append(calls, c)
		}
	}
	return calls
}

// try has a call fail, and gives the command again.
func (f *faults) try(w writing, c call, fault string) {
	f.Helper()
	f.prepare(w)
	what := fmt.Sprintf("%s at %s of %s", fault, c.name, c.file)
	code := f.trace(w, []string{"--trace-path=" + f.dir + strings.ReplaceAll(c.file, "HASH", f.hash()), "--inject=" + c.name + ":" + fault})
	if lasting := slices.Contains(lastingCalls(), c.name); code == exitDone && (lasting || strings.HasPrefix(fault, "signal")) {
		f.Errorf("%s: the command succeeds", what)
	}
	again := keytree(f.T, f.fill(w.args)...)
	if again.code != exitDone && (w.done == "" || !strings.Contains(again.stderr, w.done)) {
		f.Errorf("%s: exit code %d, and then %d: %s", what, code, again.code, again.stderr)
		return
	}
	if check := keytree(f.T, f.fill(w.check)...); check.code != exitDone {
		f.Errorf("%s: exit code %d, then %d, but %q says: %s", what, code, again.code, w.check, check.stderr)
	}
	entries, err := filepath.Glob(filepath.Join(f.dir, "*.tmp"))
	if err != nil || len(entries) > 0 && again.code == exitDone {
		f.Errorf("%s: left are %v, %v", what, entries, err)
	}
}
