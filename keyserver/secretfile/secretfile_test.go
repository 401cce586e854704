package secretfile_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/keytree-bch/keytree/keyserver/secretfile"
)

func TestSecretFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "secret")
	if _, err := secretfile.Read(path); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".tmp", []byte("of a killed process"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := secretfile.Create(path, []byte("one")); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	if err := secretfile.Create(path, []byte("two")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("overwritten: %v", err)
	}
	expect := func(want string) {
		t.Helper()
		if b, err := secretfile.Read(path); err != nil || string(b) != want {
			t.Errorf("got %q, %v; want %q", b, err, want)
		}
	}
	expect("one")
	if err := secretfile.Create(path+".next", []byte("three")); err != nil {
		t.Fatal(err)
	}
	if err := secretfile.Replace(path, path+".next"); err != nil {
		t.Fatal(err)
	}
	expect("three")
	if err := os.WriteFile(path+".tmp", []byte("of a killed process"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := secretfile.Write(path, []byte("four")); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	expect("four")
	for range 2 {
		if err := secretfile.Remove(path + ".next"); err != nil {
			t.Error(err)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v %v", entries, err)
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o601} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := secretfile.Read(path); !errors.Is(err, secretfile.ErrReadable) {
			t.Errorf("mode %v: %v", mode, err)
		}
	}
	if _, err := secretfile.Read(dir); err == nil {
		t.Error("a folder is a secret")
	}
}
