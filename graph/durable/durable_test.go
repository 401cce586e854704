package durable_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/graph/durable"
)

// folder is a folder with a file in it, which all tests write.
type folder struct {
	*testing.T
	path string
}

func newFolder(t *testing.T) *folder { return &folder{t, filepath.Join(t.TempDir(), "file")} }

// want checks what the file has, and that it is alone.
func (f *folder) want(content string, mode fs.FileMode) {
	f.Helper()
	got, err := os.ReadFile(f.path)
	if err != nil || string(got) != content {
		f.Errorf("the file has %q (%v), want %q", got, err, content)
	}
	if info, err := os.Stat(f.path); err != nil || info.Mode() != mode {
		f.Errorf("its mode is %v (%v), want %v", info.Mode(), err, mode)
	}
	entries, err := os.ReadDir(filepath.Dir(f.path))
	if err != nil || len(entries) != 1 {
		f.Errorf("in the folder are %v (%v), want one file", entries, err)
	}
}

func writes(text string) func(io.Writer) error {
	return func(out io.Writer) error {
		_, err := io.WriteString(out, text)
		return err
	}
}

// TestReplace writes more than is buffered, over what a killed process has left.
func TestReplace(t *testing.T) {
	f := newFolder(t)
	long := strings.Repeat("x", 200_000)
	for _, text := range []string{"one", long, ""} {
		if err := os.WriteFile(f.path+".tmp", []byte("of a killed process"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := durable.Replace(f.path, 0o600, writes(text)); err != nil {
			t.Fatal(err)
		}
		f.want(text, 0o600)
	}
}

// TestReplaceFails leaves the file as it was, whatever fails.
func TestReplaceFails(t *testing.T) {
	f := newFolder(t)
	if err := durable.Write(f.path, []byte("one")); err != nil {
		t.Fatal(err)
	}
	full := errors.New("the disk is full")
	for _, written := range []string{"", "a little", strings.Repeat("x", 200_000)} {
		err := durable.Replace(f.path, 0o600, func(out io.Writer) error { return errors.Join(writes(written)(out), full) })
		if !errors.Is(err, full) {
			t.Errorf("after %d bytes: got %v, want %v", len(written), err, full)
		}
		f.want("one", 0o600)
	}
	missing := filepath.Join(filepath.Dir(f.path), "none", "file")
	if err := durable.Write(missing, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in a folder that is not there: got %v", err)
	}
	if err := durable.Rewrite(missing, writes("")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: got %v", err)
	}
}

// TestRewrite keeps a mode that the umask would not give.
func TestRewrite(t *testing.T) {
	f := newFolder(t)
	if err := durable.Write(f.path, []byte("one")); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []fs.FileMode{0o666, 0o640, 0o600} {
		if err := os.Chmod(f.path, mode); err != nil {
			t.Fatal(err)
		}
		if err := durable.Rewrite(f.path, writes("two")); err != nil {
			t.Fatal(err)
		}
		f.want("two", mode)
	}
}

// TestRename gives a folder its name, and a file that of another.
func TestRename(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	if err := os.Mkdir(from, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := durable.Rename(from, to); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(to); err != nil || !info.IsDir() {
		t.Errorf("the folder is not there: %v", err)
	}
	if err := durable.Rename(from, to); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("again: got %v", err)
	}
	if err := durable.SyncFolder(from); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder that is not there: got %v", err)
	}
}
