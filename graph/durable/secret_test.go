package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/keytree-bch/keytree/graph/durable"
)

func TestSecretFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "secret")
	if _, err := durable.ReadSecret(path); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".tmp", []byte("of a killed process"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := durable.CreateSecret(path, []byte("one")); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	if err := durable.CreateSecret(path, []byte("two")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("overwritten: %v", err)
	}
	expect := func(want string) {
		t.Helper()
		if b, err := durable.ReadSecret(path); err != nil || string(b) != want {
			t.Errorf("got %q, %v; want %q", b, err, want)
		}
	}
	expect("one")
	if err := durable.CreateSecret(path+".next", []byte("three")); err != nil {
		t.Fatal(err)
	}
	if err := durable.Rename(path+".next", path); err != nil {
		t.Fatal(err)
	}
	expect("three")
	if err := os.WriteFile(path+".tmp", []byte("of a killed process"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := durable.Write(path, []byte("four")); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	expect("four")
	for range 2 {
		if err := durable.Remove(path + ".next"); err != nil {
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
		if _, err := durable.ReadSecret(path); !errors.Is(err, durable.ErrReadable) {
			t.Errorf("mode %v: %v", mode, err)
		}
	}
	if _, err := durable.ReadSecret(dir); err == nil {
		t.Error("a folder is a secret")
	}
}
