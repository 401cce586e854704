package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/cobra"

	"github.com/keytree-bch/keytree/graph/durable/durabletest"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
)

// touching is what a command does to a data folder. The texts are what it says when it fails,
// "" if it does not; unrun if it is not run there.
type touching struct {
	args []string // with the words of world.fill
	// beside is what it says while a server runs on the folder, stopped when none does.
	beside, stopped string
	// besideWrites and stoppedWrites: it may change the folder then. Nothing else may.
	besideWrites, stoppedWrites bool
	// kind tells how it goes where it may not write.
	kind  kind
	first string // what it may say as well where it may not write, since it finds that out later
	why   string // it is not run at all
}

// unrun is for commands that are not run there, fails for those that fail, whatever they say.
const unrun, fails = "-", "keytree: "

// kind is what a command wants of the data folder.
type kind int

const (
	nothing kind = iota // what it says does not depend on whether it may write
	looks               // at databases; succeeds wherever it may read
	writes              // fails where it may not, and changes nothing
)

// touchings has a line for every command.
func touchings() map[string]touching {
	const open, noServer, noOperator = "has it open", "is keytree serve running there?", "no server is running"
	asks := func(more ...string) touching {
		return touching{args: append(more, "--server", "GRPC"), stopped: noServer}
	}
	operator := func(beside string, more ...string) touching {
		return touching{args: append(more, "--keyserver-domain", "example.org"), beside: beside, stopped: noOperator}
	}
	// Where users and auditors keep what they know is their own matter, which no server opens;
	// what they do there has its own tests.
	own := func(first string, more ...string) touching {
		return touching{args: more, beside: unrun, stopped: unrun, kind: writes, first: first}
	}
	audits := []string{"--genesis", someTxID, "--network", "regtest"}
	link := []string{"--network", "regtest", "--node", "NODE", "--server", "GRPC", "--key-file", "KEYFILE"}
	return map[string]touching{
		"version":               {args: []string{}},
		"completion bash":       {args: []string{}},
		"completion fish":       {args: []string{}},
		"completion powershell": {args: []string{}},
		"completion zsh":        {args: []string{}},
		"demo":                  {why: "it works in a temporary folder of its own"},
		"demo anchor":           {why: "it works in a temporary folder of its own"},
		"demo keyserver":        {why: "it works in a temporary folder of its own"},
		"demo proof":            {why: "it works in a temporary folder of its own"},
		"demo witness":          {why: "it works in a temporary folder of its own"},
		"demo web":              {why: "it works in a temporary folder of its own"},
		"demo signup":           {why: "it works in a temporary folder of its own"},

		"status":  asks(),
		"resolve": asks("ADDRESS"),
		"tree":    asks("ADDRESS"),
		"history": asks("ADDRESS"),
		"inbox":   asks("ADDRESS"),
		"compare": {args: []string{"GRPC", "GRPC"}, stopped: noServer},
		"watch":   {args: []string{"--server", nowhere}, beside: noServer, stopped: noServer},

		"link request": {args: append([]string{"--parent", "ADDRESS", "--dry-run"}, link...), beside: fails, stopped: fails},
		"link accept":  {args: append([]string{someTxID}, link...), beside: fails, stopped: fails},
		"link revoke":  {args: append([]string{someTxID}, link...), beside: fails, stopped: fails},
		"link send":    {args: []string{"KEYFILE", "--network", "regtest", "--node", "NODE", "--server", "GRPC"}, beside: fails, stopped: fails},

		"signin": {args: []string{"--domain", "memo.cash", "--uri", "https://memo.cash/", "--network", "regtest", "--server", "GRPC", "--key-file", "KEYFILE"},
			stopped: noServer},

		"fsck":            {args: []string{"--network", "regtest"}, beside: open, kind: looks},
		"import":          {args: []string{"--network", "regtest", "--blocks", "BLOCKS"}, beside: open, stoppedWrites: true, kind: writes},
		"snapshot create": {args: []string{"--network", "regtest", "--node", "NODE", "--out", "NEW"}, kind: looks},
		"serve": {args: []string{"--network", "regtest", "--node", "NODE", "--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"},
			beside: open, stopped: unrun, kind: writes},

		"keyserver serve": {args: []string{"--keyserver-domain", "example.org", "--keyserver-tokens", "open", "--keyserver-listen", "127.0.0.1:0",
			"--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"}, beside: open, stopped: unrun, kind: writes},
		"keyserver fsck":         {args: []string{"--keyserver-domain", "example.org"}, beside: open, kind: looks},
		"keyserver backup":       {args: []string{"--keyserver-domain", "example.org", "NEW"}, kind: looks},
		"keyserver restore":      {args: []string{"--keyserver-domain", "example.org", "KEYFILE"}, beside: open, stopped: "is not empty", kind: writes, first: "is not empty"},
		"keyserver export-tiles": {args: []string{"--keyserver-domain", "example.org", "NEW"}, kind: looks},
		"keyserver issue-tokens": {args: []string{"--keyserver-domain", "example.org", "3"}, besideWrites: true, stoppedWrites: true, kind: writes},
		"keyserver rotate-key":   {args: []string{"--keyserver-domain", "example.org"}, besideWrites: true, stoppedWrites: true, kind: writes},

		"witness": {why: "it works on files of its own, and knows no data folder"},

		"anchor status": operator(""),
		"anchor list":   operator(""),
		"anchor rotate": operator("no anchor"),

		"user status":        {args: []string{}, kind: looks},
		"user sessions":      {args: []string{"--as", "alice@example.org"}, kind: looks},
		"user init":          own("", "--keyserver", "http://"+nowhere+"/"),
		"user sync":          own(""),
		"user resync":        own(""),
		"user create":        own("", "bob@example.org"),
		"user confirm":       own("", "alice@example.org"),
		"user update":        own("", "alice@example.org"),
		"user recover":       own("there is no terminal", "alice@example.org"),
		"user pending":       own("", "alice@example.org"),
		"user lookup":        own("", "bob@example.org"),
		"user proof":         own("", "bob@example.org", "--genesis", someTxID, "--out", "NEW", "--network", "regtest"),
		"user send":          own("", "bob@example.org", "--mix-address", "m@example.net", "--smtp", nowhere),
		"user receive":       own("not a mail", "KEYFILE"),
		"user answer":        own("", strings.Repeat("ab", 32), "--mix-address", "m@example.net", "--smtp", nowhere),
		"user keyinit add":   own("", "alice@example.org", "--mix-address", "m@example.net"),
		"user keyinit fetch": own("", "alice@example.org"),
		"user keyinit flush": own("", "alice@example.org"),

		"audit":                 own("", append([]string{"--keyserver", "http://" + nowhere + "/", "--node", "NODE"}, audits...)...),
		"audit reset":           own("nothing of an audit is kept there", audits...),
		"audit bundle":          {args: append([]string{"--out", "NEW", "--server", nowhere}, audits[:2]...), beside: noServer, stopped: noServer},
		"audit headers":         {args: []string{"--out", "NEW", "--node", "NODE", "--from", "0", "--network", "regtest"}},
		"verify-proof":          {args: append([]string{"KEYFILE", "--policy", "KEYFILE", "--node", "NODE"}, audits...), beside: fails, stopped: fails},
		"verify":                {args: []string{"KEYFILE", "--policy", "KEYFILE"}, beside: fails, stopped: fails},
		"audit verify-evidence": {args: append([]string{"KEYFILE", "--node", "NODE"}, audits...), beside: fails, stopped: fails},
	}
}

// commandNames lists all commands that do something.
func commandNames(cmd *cobra.Command) (names []string) {
	for _, sub := range cmd.Commands() {
		if !sub.HasSubCommands() || sub.Flags().Lookup("data-dir") != nil || sub.Name() == "demo" {
			names = append(names, strings.TrimPrefix(sub.CommandPath(), "keytree "))
		}
		names = append(names, commandNames(sub)...)
	}
	return names
}

// TestTouchingsAreAll fails for a command of which nobody has said what it touches.
func TestTouchingsAreAll(t *testing.T) {
	root := (&app{stdout: &output{w: new(bytes.Buffer)}, stderr: new(bytes.Buffer)}).rootCommand()
	root.InitDefaultCompletionCmd()
	names := commandNames(root)
	slices.Sort(names)
	if want := slices.Sorted(maps.Keys(touchings())); !slices.Equal(names, want) {
		t.Errorf("there are the commands\n%q\nin the table are\n%q", names, want)
	}
}

// touched is a data folder, and what commands are run with there.
type touched struct {
	t          *testing.T
	node       *regtest.Node
	dir        string
	grpc       string
	keyFile    string // which only its owner can read, but "another user" gets a copy
	address    string
	executable string
	as         *syscall.Credential // nil: as who the test is
}

// fill puts what there is in place of words.
func (w *touched) fill(args []string) (filled []string) {
	at := map[string]string{
		"GRPC": w.grpc, "NODE": w.node.URL(), "ADDRESS": w.address, "KEYFILE": w.keyFile,
		"BLOCKS": filepath.Join(w.node.Dir(), "data", "regtest", "blocks_ffldb"), "NEW": filepath.Join(openFolder(w.t), "new"),
	}
	for _, arg := range args {
		if value, ok := at[arg]; ok {
			arg = value
		}
		filled = append(filled, arg)
	}
	return filled
}

// run runs a command on the folder.
func (w *touched) run(name string, c touching) outcome {
	w.t.Helper()
	args := append(strings.Fields(name), w.fill(c.args)...)
	if name != "version" && !strings.HasPrefix(name, "completion") {
		args = append(args, "--data-dir", w.dir)
	}
	temporary := openFolder(w.t)
	w.t.Setenv("TMPDIR", temporary)
	defer func() {
		w.t.Helper()
		if left, err := os.ReadDir(temporary); err != nil || len(left) > 0 {
			w.t.Errorf("keytree %s has left %v in the temporary folder, %v", name, left, err)
		}
	}()
	if w.as == nil {
		return keytree(w.t, args...)
	}
	cmd := exec.CommandContext(w.t.Context(), w.executable, args...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	cmd.SysProcAttr = dieWithParent()
	cmd.SysProcAttr.Credential = w.as
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		w.t.Fatal(err)
	}
	return outcome{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// want runs a command that has to succeed, or fail with a text.
func (w *touched) want(name string, c touching, text string, mayWrite bool) {
	w.t.Helper()
	before := w.files()
	o := w.run(name, c)
	first := c.kind == writes && c.first != "" && strings.Contains(o.stderr, c.first)
	if text == "" && o.code != exitDone || text != "" && (o.code == exitDone || !strings.Contains(o.stderr, text) && !first) {
		w.t.Errorf("keytree %s: exit code %d, %q; expected %q", name, o.code, o.stderr, text)
	}
	after := w.files()
	if mayWrite {
		w.wantOwner()
		return
	}
	all := maps.Clone(before)
	maps.Copy(all, after)
	for path := range all {
		if before[path] != after[path] {
			w.t.Errorf("keytree %s has touched %s:\nbefore %s\nafter  %s", name, path, before[path], after[path])
		}
	}
}

// files returns owner, mode, size, time and content of all that is in the folder.
func (w *touched) files() map[string]string {
	w.t.Helper()
	files := durabletest.Files(w.t, w.dir)
	for path := range files {
		info, err := os.Lstat(path)
		if err != nil {
			w.t.Fatal(err)
		}
		stat := info.Sys().(*syscall.Stat_t)
		files[path] = fmt.Sprintf("%d:%d %s", stat.Uid, stat.Gid, files[path])
	}
	return files
}

// wantOwner checks that everything in the folder belongs to whose it is.
func (w *touched) wantOwner() {
	w.t.Helper()
	owner, _ := ownerOf(w.dir)
	err := filepath.WalkDir(w.dir, func(path string, _ fs.DirEntry, err error) error {
		if id, _ := ownerOf(path); err == nil && id != owner {
			w.t.Errorf("%s belongs to %d, the folder to %d", path, id, owner)
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// openFolder returns a new folder in which everybody may write.
func openFolder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	letIn(t, dir)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// letIn lets everybody into the folders of a test that lead to a path.
func letIn(t *testing.T, path string) {
	t.Helper()
	for up := filepath.Dir(path); strings.Contains(up, t.Name()[:len("TestTouchings")]); up = filepath.Dir(up) {
		if err := os.Chmod(up, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTouchings runs every command on a data folder with an index, a keyserver and a user of it:
// beside a running server, when it was stopped, on a file system that can only be read, as
// another user, and as root on another user's. What only looks changes nothing, what writes
// does so as the owner, or says why it does not before it has changed anything.
func TestTouchings(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts each command in a process of its own for each condition")
	}
	withPassphrase(t)
	n := regtest.ForTest(t, regtest.Options{Blocks: 110})
	dir := t.TempDir()
	s := startAnchored(t, n, dir, "--checkpoint-interval", "1h")
	awaitTip(t, s.grpc, n)
	regtest.Await(t, func() string { return keytree(t, "user", "init", "--data-dir", dir, "--keyserver", s.url).stderr })
	mustKeytree(t, "user", "create", "alice@example.org", "--data-dir", dir)
	regtest.Await(t, func() string { // after which its transparency log signs nothing for an hour
		if state, err := os.ReadFile(filepath.Join(dir, "keyserver-log.json")); err != nil || !strings.Contains(string(state), "example.org/keytree") {
			return fmt.Sprintf("the log has signed nothing: %s, %v", state, err)
		}
		return ""
	})
	key := regtest.NewKey()
	w := &touched{t: t, node: n, dir: dir, grpc: s.grpc, keyFile: writeKey(t, key.WIF()), address: key.Address()}
	rows := touchings()
	names := slices.Sorted(maps.Keys(rows))
	each := func(t *testing.T, w touched, what func(w *touched, name string, row touching)) {
		for _, name := range names {
			if row := rows[name]; row.why == "" {
				w := w
				w.t = t
				what(&w, name, row)
			}
		}
	}
	t.Run("beside a server", func(t *testing.T) {
		each(t, *w, func(w *touched, name string, row touching) {
			if row.beside != unrun {
				w.want(name, row, row.beside, row.besideWrites)
			}
		})
	})
	killed := *w
	s.kill()
	if err := os.Remove(filepath.Join(dir, "keyserver-issuer.key")); err != nil { // to be made once more
		t.Fatal(err)
	}
	killed.dir = copyData(t, dir)
	s = startAnchored(t, n, dir)
	awaitTip(t, s.grpc, n)
	if code := s.signal(syscall.SIGTERM); code != exitDone {
		t.Fatal(code)
	}

	t.Run("after a kill", func(t *testing.T) {
		each(t, killed, func(w *touched, name string, row touching) {
			if row.kind == looks {
				w.want(name, row, "", false)
			}
		})
	})
	t.Run("stopped", func(t *testing.T) {
		w := *w
		w.dir = copyData(t, dir)
		each(t, w, func(w *touched, name string, row touching) {
			if row.stopped != unrun {
				w.want(name, row, row.stopped, row.stoppedWrites)
			}
		})
	})
	// refused is what is said where a command may not write.
	refused := func(row touching, text string) string {
		switch row.kind {
		case looks:
			return ""
		case writes:
			return text
		}
		return row.stopped
	}
	t.Run("on a file system that can only be read", func(t *testing.T) {
		w := *w
		w.dir = filepath.Join(t.TempDir(), "data")
		smallDisk(t, w.dir, "1g")
		copyInto(t, dir, w.dir)
		if err := syscall.Mount("keytree", w.dir, "tmpfs", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
			t.Fatal(err)
		}
		each(t, w, func(w *touched, name string, row touching) {
			w.want(name, row, refused(row, "read-only file system"), false)
		})
	})
	if os.Geteuid() != 0 {
		t.Skip("to be another user takes root")
	}
	const nobody = 65534
	t.Run("as another user", func(t *testing.T) {
		w := *w
		w.dir, w.as, w.executable = copyData(t, dir), &syscall.Credential{Uid: nobody, Gid: nobody}, copyExecutable(t)
		everybodyReads(t, w.dir)
		letIn(t, n.CertFile())
		if err := os.Chmod(n.CertFile(), 0o644); err != nil {
			t.Fatal(err)
		}
		w.keyFile = filepath.Join(openFolder(t), "key")
		if err := errors.Join(os.WriteFile(w.keyFile, []byte(key.WIF()), 0o600), os.Chown(w.keyFile, nobody, nobody)); err != nil {
			t.Fatal(err)
		}
		each(t, w, func(w *touched, name string, row touching) { w.want(name, row, refused(row, fails), false) })
	})
	t.Run("as root, in another user's folder", func(t *testing.T) {
		w := *w
		w.dir = copyData(t, dir)
		err := filepath.WalkDir(w.dir, func(path string, _ fs.DirEntry, err error) error {
			return errors.Join(err, os.Lchown(path, nobody, nobody))
		})
		if err != nil {
			t.Fatal(err)
		}
		each(t, w, func(w *touched, name string, row touching) { w.want(name, row, refused(row, "belongs to "), false) })
		w.t = t
		reindex := touching{args: append([]string{"--reindex-into", w.dir}, rows["serve"].args...)}
		w.want("serve", reindex, "expected another folder than the data folder", false)
		keytree(t, "serve", "--reindex-into", w.dir, "--data-dir", t.TempDir(), "--node", goodURL, "--log-level", "error").wantError(t, exitFailed, "belongs to ")
	})
}

// copyData copies a data folder, with modes, but for sockets.
func copyData(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(openFolder(t), "data")
	copyInto(t, dir, to)
	return to
}

func copyInto(t *testing.T, dir, to string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		rest, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		into := filepath.Join(to, rest)
		switch {
		case info.IsDir():
			return errors.Join(os.MkdirAll(into, 0o700), os.Chmod(into, info.Mode().Perm()))
		case info.Mode().IsRegular():
			content, err := os.ReadFile(path)
			return errors.Join(err, os.WriteFile(into, content, info.Mode().Perm()))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// everybodyReads lets everybody read all that is no secret.
func everybodyReads(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir():
			return os.Chmod(path, 0o755)
		case strings.HasSuffix(path, ".key"), strings.Contains(path, "keyserver-anchor"):
			return nil
		}
		return os.Chmod(path, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// copyExecutable copies this program to where everybody may start it.
func copyExecutable(t *testing.T) string {
	t.Helper()
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(executable)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(openFolder(t), "keytree")
	if err := errors.Join(os.WriteFile(path, content, 0o755), os.Chmod(path, 0o755)); err != nil {
		t.Fatal(err)
	}
	return path
}
