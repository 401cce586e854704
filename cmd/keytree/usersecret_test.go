package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	keyclient "github.com/keytree-bch/keytree/keyserver/client"
)

// TestTokensFile pays with tokens of a file, which keeps its mode, and loses those that
// were spent.
func TestTokensFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	write(t, path, "one\n\ntwo three\n")
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	var warned bytes.Buffer
	a := &app{stderr: &warned}
	f := tokensFlag{a, &path}
	pay := f.payment()
	if err := pay.Spent(); err != nil {
		t.Errorf("nothing was taken: %v", err)
	}
	for range 2 { // the keyserver may ask twice for one
		if token, err := pay.Take(); token != "one" || err != nil {
			t.Errorf("got the token %q, %v", token, err)
		}
	}
	if err := pay.Spent(); err != nil {
		t.Fatal(err)
	}
	wantParts(t, warned.String(), path+" can be read or written by others", "chmod 600")
	content, err := os.ReadFile(path)
	if err != nil || string(content) != "two\nthree\n" {
		t.Errorf("left is %q (%v)", content, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o640 {
		t.Errorf("the mode is %v (%v)", info.Mode(), err)
	}
	if _, err := f.take(3); err == nil {
		t.Error("three of two tokens are taken")
	}
	none := ""
	if _, err := (tokensFlag{a, &none}).payment().Take(); !errors.Is(err, keyclient.ErrToken) {
		t.Errorf("without a file: got %v, want %v", err, keyclient.ErrToken)
	}
	missing := path + "x"
	if _, err := (tokensFlag{a, &missing}).payment().Take(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: got %v", err)
	}
}
