package durable_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/graph/durable"
	"github.com/keytree-bch/keytree/graph/durable/durabletest"
)

// operation is what one function makes of a folder, in which there is also what a killed process
// has left.
type operation struct {
	do       func(path string) error
	old, new map[string]string // the files in the folder, before and afterwards
	calls    []string          // the system calls, as the package's comment lists them
}

// operations are the functions of the package, by name.
func operations() map[string]operation {
	syncFolder := []string{"open", "fsync", "close"}
	writeAs := func(calls ...string) []string {
		return slices.Concat([]string{"unlink", "open"}, calls, []string{"fsync", "close"})
	}
	one, two := map[string]string{"file": "old"}, map[string]string{"file": "new"}
	both := map[string]string{"file": "old", "from": "new"}
	return map[string]operation{
		"Replace": {
			func(path string) error { return durable.Replace(path, 0o600, writes("new")) },
			one, two, slices.Concat(writeAs("write"), []string{"rename"}, syncFolder),
		},
		"Write": {
			func(path string) error { return durable.Write(path, []byte("new")) },
			one, two, slices.Concat(writeAs("write"), []string{"rename"}, syncFolder),
		},
		"Rewrite": {
			func(path string) error { return durable.Rewrite(path, writes("new")) },
			one, two, slices.Concat([]string{"stat"}, writeAs("fchmod", "write"), []string{"rename"}, syncFolder),
		},
		"CreateSecret": {
			func(path string) error { return durable.CreateSecret(path, []byte("new")) },
			nil, two, slices.Concat(writeAs("write"), []string{"link", "unlink"}, syncFolder),
		},
		"Rename": {
			func(path string) error { return durable.Rename(filepath.Join(filepath.Dir(path), "from"), path) },
			both, two, slices.Concat([]string{"rename", "unlink"}, syncFolder),
		},
		"Remove": {
			durable.Remove,
			one, nil, slices.Concat([]string{"unlink", "unlink"}, syncFolder),
		},
		"SyncFolder": {
			func(path string) error { return durable.SyncFolder(filepath.Dir(path)) },
			one, one, syncFolder,
		},
	}
}

// asWriter, in the environment, makes the test executable do one operation: NAME PATH. It prints
// how that ended.
const asWriter = "KEYTREE_TEST_WRITER"

// TestWriter is not a test but the process that TestFaults starts.
func TestWriter(t *testing.T) {
	name, path, ok := strings.Cut(os.Getenv(asWriter), " ")
	if !ok {
		t.Skip("part of TestFaults")
	}
	runtime.LockOSThread() // strace counts the calls of each thread
	if err := operations()[name].do(path); err != nil {
		fmt.Println("refused:", err)
		return
	}
	fmt.Println("done")
}

// TestFaults has each system call of each operation fail, and the process killed before it, which
// is behind the call before. Whatever happens, the folder has what it had, or what it should
// have; an error is told; and the next operation makes everything whole. KEYTREE_EXHAUSTIVE=1 does
// so with every operation.
func TestFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts many processes")
	}
	strace := durabletest.Strace(t)
	for name, op := range operations() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &traced{T: t, strace: strace, name: name, op: op}
			r.prepare()
			if said := r.run(); said != "done\n" {
				t.Fatalf("without a fault: %q", said)
			}
			r.want(op.new)
			if calls := r.calls(); !slices.Equal(calls, op.calls) {
				t.Errorf("it calls %v, the package's comment says %v", calls, op.calls)
			}
			if name != "Rewrite" && name != "CreateSecret" && os.Getenv("KEYTREE_EXHAUSTIVE") == "" {
				return // these two make all calls that the others make
			}
			seen := make(map[string]int)
			for _, call := range op.calls {
				seen[call]++
				for _, fault := range []string{"error=EIO", "signal=KILL"} {
					r.prepare()
					said := r.run(fmt.Sprintf("--inject=%s:%s:when=%d", strings.Join(systemCalls()[call], ","), fault, seen[call]))
					refused := strings.HasPrefix(said, "refused: ")
					if killed := fault == "signal=KILL"; killed && said != "" || !killed && !refused {
						t.Errorf("%s at %s %d: it said %q", fault, call, seen[call], said)
					}
					if have := r.files(); !maps.Equal(have, op.old) && !maps.Equal(have, op.new) {
						t.Errorf("%s at %s %d: the folder has %v", fault, call, seen[call], have)
					}
					r.repair()
				}
			}
		})
	}
}

// systemCalls are what the package's comment calls system calls, and what Linux does.
func systemCalls() map[string][]string {
	return map[string][]string{
		"close": {"close"}, "fchmod": {"fchmod"}, "fsync": {"fsync"}, "link": {"linkat"}, "open": {"openat"},
		"rename": {"renameat", "renameat2"}, "stat": {"newfstatat"}, "unlink": {"unlinkat"}, "write": {"write"},
	}
}

// traced runs an operation under strace, in a folder of its own.
type traced struct {
	*testing.T
	strace, name string
	op           operation
	dir          string
}

// prepare makes the folder.
func (r *traced) prepare() {
	r.dir = r.TempDir()
	files := maps.Clone(r.op.old)
	if files == nil {
		files = make(map[string]string)
	}
	files["file.tmp"], files["from.tmp"] = "of a killed process", "of a killed process"
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(r.dir, name), []byte(content), 0o600); err != nil {
			r.Fatal(err)
		}
	}
}

func (r *traced) path(name string) string { return filepath.Join(r.dir, name) }

// run does the operation in a process, with a fault, and returns what it said.
func (r *traced) run(fault ...string) string {
	r.Helper()
	executable, err := os.Executable()
	if err != nil {
		r.Fatal(err)
	}
	args := append(fault, "--follow-forks", "--output="+r.path("trace"), "--trace="+r.watched())
	for _, name := range []string{"", "file", "file.tmp", "from", "from.tmp"} {
		args = append(args, "--trace-path="+r.path(name))
	}
	cmd := exec.Command(r.strace, append(args, executable, "-test.run=^TestWriter$")...)
	cmd.Env = append(os.Environ(), asWriter+"="+r.name+" "+r.path("file"))
	out, err := cmd.Output()
	if err != nil && !errors.As(err, new(*exec.ExitError)) {
		r.Fatal(err)
	}
	said, _, _ := strings.Cut(string(out), "PASS")
	return said
}

// watched are the system calls that are traced. Go asks for the status of a file where nobody
// has to know, so that is traced only where it is listed.
func (r *traced) watched() string {
	var names []string
	for call, of := range systemCalls() {
		if call != "stat" || slices.Contains(r.op.calls, "stat") {
			names = append(names, of...)
		}
	}
	return strings.Join(names, ",")
}

// calls returns the system calls of the last run. Before it renames, Go asks whether a folder is
// in the way: that is left out.
func (r *traced) calls() (calls []string) {
	trace, err := os.ReadFile(r.path("trace"))
	if err != nil {
		r.Fatal(err)
	}
	for _, line := range regexp.MustCompile(`(?m)^\d+ +(\w+)\((.*)$`).FindAllStringSubmatch(string(trace), -1) {
		for call, of := range systemCalls() {
			if slices.Contains(of, line[1]) && !strings.Contains(line[2], "AT_SYMLINK_NOFOLLOW") {
				calls = append(calls, call)
			}
		}
	}
	return calls
}

// files returns what is in the folder, but for what is unfinished.
func (r *traced) files() map[string]string {
	files := make(map[string]string)
	for _, name := range []string{"file", "from"} {
		if content, err := os.ReadFile(r.path(name)); err == nil {
			files[name] = string(content)
		}
	}
	return files
}

func (r *traced) want(files map[string]string) {
	r.Helper()
	if have := r.files(); !maps.Equal(have, files) {
		r.Errorf("the folder has %v, want %v", have, files)
	}
}

// repair does the operation once more, which leaves nothing unfinished.
func (r *traced) repair() {
	r.Helper()
	done := maps.Equal(r.files(), r.op.new)
	if err := r.op.do(r.path("file")); err != nil && !done { // there is nothing to do any more
		r.Error(err)
	}
	r.want(r.op.new)
	if _, err := os.Stat(r.path("file.tmp")); err == nil && slices.Contains(r.op.calls, "open") && r.name != "SyncFolder" && r.name != "Rename" {
		r.Error("something unfinished is left")
	}
}
