package signin_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/graph/durable"
	signinrpc "github.com/keytree-bch/keytree/rpc/signin"
)

// TestOpenKey makes a key, reads it again, and refuses files that hold none.
func TestOpenKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "signin.key")
	made, err := signinrpc.OpenKey(path)
	if err != nil {
		t.Fatal(err)
	}
	read, err := signinrpc.OpenKey(path)
	if err != nil || !bytes.Equal(read, made) || bytes.Equal(made, make([]byte, len(made))) {
		t.Errorf("made %x, read %x, %v", made, read, err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"nothing": "", "half": string(good[:len(good)-10]), "more": string(good) + "00\n", "another kind": strings.Repeat("ab", 32),
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if key, err := signinrpc.OpenKey(path); err == nil || content != "" && strings.Contains(err.Error(), content) {
			t.Errorf("%s: %x, %v", name, key, err)
		}
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := signinrpc.OpenKey(path); !errors.Is(err, durable.ErrReadable) {
		t.Errorf("a file that others can read: %v", err)
	}
}
