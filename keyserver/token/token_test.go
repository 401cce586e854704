package token_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/graph/durable"
	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/token"
)

func TestIssued(t *testing.T) {
	path := filepath.Join(t.TempDir(), "issuer")
	issuer, err := token.OpenIssuer(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := token.OpenIssuer(path)
	if err != nil || !again.Public().Equal(issuer.Public()) {
		t.Fatalf("another key when opened again: %v", err)
	}
	stranger, err := token.OpenIssuer(path + "2")
	if err != nil {
		t.Fatal(err)
	}
	scheme := token.Issued{Domain: "example.org", Issuer: issuer.Public()}
	if scheme.PublicKey() != canonical.Encode(issuer.Public()) {
		t.Errorf("public key %s", scheme.PublicKey())
	}
	issue := func(i *token.Issuer, domain string) string {
		text, err := i.Issue(domain)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	seen := make(map[token.ID]bool)
	for range 3 {
		id, spend, err := scheme.Check(issue(issuer, "example.org"))
		if err != nil || !spend || seen[id] {
			t.Errorf("%x %v %v", id, spend, err)
		}
		seen[id] = true
	}
	good := issue(again, "example.org")
	for name, text := range map[string]string{
		"nothing":        "",
		"other domain":   issue(issuer, "example.net"),
		"other issuer":   issue(stranger, "example.org"),
		"changed":        "AAAA" + good[4:],
		"cut":            good[:len(good)-4],
		"other spelling": strings.Replace(good, good[:1], "\n"+good[:1], 1),
	} {
		if _, _, err := scheme.Check(text); !errors.Is(err, token.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, spend, err := (token.Open{}).Check("anything"); spend || err != nil || (token.Open{}).PublicKey() != "" {
		t.Errorf("open: %v %v", spend, err)
	}
}

func TestOpenIssuerRefuses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "issuer")
	if _, err := token.OpenIssuer(path); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := token.OpenIssuer(path); !errors.Is(err, durable.ErrReadable) {
		t.Errorf("readable by the group: %v", err)
	}
	for name, bad := range map[string][]byte{
		"empty": nil, "cut": content[:40], "other": append([]byte("x"), content...), "long": bytes.Repeat([]byte("x"), 5000),
	} {
		bad := bad
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := token.OpenIssuer(file)
		if err == nil || len(bad) > 40 && strings.Contains(err.Error(), string(content[30:60])) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := token.OpenIssuer(filepath.Join(dir, "no folder", "issuer")); err == nil {
		t.Error("a key without a place to keep it")
	}
}

func FuzzIssued(f *testing.F) {
	issuer, err := token.OpenIssuer(filepath.Join(f.TempDir(), "issuer"))
	if err != nil {
		f.Fatal(err)
	}
	scheme := token.Issued{Domain: "example.org", Issuer: issuer.Public()}
	f.Add("")
	f.Add(strings.Repeat("A", 128))
	f.Fuzz(func(t *testing.T, text string) {
		if _, _, err := scheme.Check(text); !errors.Is(err, token.ErrInvalid) {
			t.Errorf("%q: %v", text, err)
		}
	})
}
