package web_test

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestPacked packs the file for npm, and looks at what is in the package.
func TestPacked(t *testing.T) {
	npm, node := installed(t, "npm"), installed(t, "node")
	dir := t.TempDir()
	if said, err := exec.CommandContext(t.Context(), npm, "pack", "--ignore-scripts", "--offline", "--pack-destination", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	packed, err := filepath.Glob(filepath.Join(dir, "*.tgz"))
	if err != nil || len(packed) != 1 {
		t.Fatalf("packed %q: %v", packed, err)
	}
	files := unpack(t, packed[0])
	if got, want := slices.Sorted(maps.Keys(files)), []string{"package/README.md", "package/keytree.d.ts", "package/keytree.js", "package/package.json"}; !slices.Equal(got, want) {
		t.Errorf("it holds %q, want %q", got, want)
	}
	if served, err := os.ReadFile("keytree.js"); err != nil || files["package/keytree.js"] != string(served) {
		t.Errorf("it is not the file that servers have: %v", err)
	}
	var about struct {
		Name                 string
		Dependencies         map[string]string
		PeerDependencies     map[string]string
		OptionalDependencies map[string]string
		Scripts              map[string]string
	}
	if err := json.Unmarshal([]byte(files["package/package.json"]), &about); err != nil {
		t.Fatal(err)
	}
	if n := len(about.Dependencies) + len(about.PeerDependencies) + len(about.OptionalDependencies); n > 0 {
		t.Errorf("it has %d dependencies", n)
	}
	for name := range about.Scripts {
		if strings.Contains(name, "install") || name == "prepare" {
			t.Errorf("npm would run its script %s", name)
		}
	}

	// Who installs it imports it by its name.
	installed := filepath.Join(dir, "node_modules", filepath.FromSlash(about.Name))
	if err := os.MkdirAll(installed, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(installed, filepath.Base(name)), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	script := `import { Keytree, verifyMessage } from "` + about.Name + `"; console.log(typeof Keytree, typeof verifyMessage);`
	if err := os.WriteFile(filepath.Join(dir, "app.mjs"), []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	if said, err := exec.CommandContext(t.Context(), node, filepath.Join(dir, "app.mjs")).CombinedOutput(); err != nil || string(said) != "function function\n" {
		t.Errorf("imported by name: %s, %v", said, err)
	}
}

// unpack returns what is in a package, by name.
func unpack(t *testing.T, name string) map[string]string {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	plain, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for archive := tar.NewReader(plain); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		files[header.Name] = string(text)
	}
}

// TestTypesAreTheDocuments compares the types of answers with the messages of the OpenAPI document: each
// has its fields, and no other.
func TestTypesAreTheDocuments(t *testing.T) {
	text, err := os.ReadFile("keytree.d.ts")
	if err != nil {
		t.Fatal(err)
	}
	field := regexp.MustCompile(`(?m)^    (\w+)\??:`)
	types := make(map[string][]string)
	for _, match := range regexp.MustCompile(`(?s)\nexport type (\w+) = \{\n(.*?)\n\};`).FindAllStringSubmatch(string(text), -1) {
		for _, name := range field.FindAllStringSubmatch(match[2], -1) {
			types[match[1]] = append(types[match[1]], name[1])
		}
	}
	document := readDocument(t)
	types["VerifySignInResponse"] = types["SignedIn"]
	for _, name := range []string{"VerifySignInResponse", "Resolution", "Unconfirmed", "Identity", "IdentityKey", "Action", "LinkRequest", "ChildLink", "StateProof"} {
		schema := document.Components.Schemas[name]
		if schema == nil {
			t.Errorf("%s: the document has no such message", name)
			continue
		}
		slices.Sort(types[name])
		if want := slices.Sorted(maps.Keys(schema.Value.Properties)); !slices.Equal(types[name], want) {
			t.Errorf("%s has %q, want %q", name, types[name], want)
		}
	}
}
