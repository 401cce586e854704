// Package browser drives a real browser, a Chromium, over pages of ours, for their tests. The program that does it is
// browser.mjs, with the packages that its package.json names; the test decides what is right.
package browser

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// ClientsEnv is the variable that says that no program is missing that tests need beside Go:
// .ci/run has installed them.
const ClientsEnv = "KEYTREE_CLIENTS"

// Browser is a real one, for one goroutine.
type Browser struct {
	URL string // of the server whose pages are opened

	t   *testing.T
	in  io.Writer
	out *bufio.Scanner
}

// Start runs a browser until the test ends. dir is the folder of this package, seen from the test's. It skips the test
// where there is no Chromium or no Node, or npm ci was not run.
func Start(t *testing.T, dir, url string) *Browser {
	t.Helper()
	if testing.Short() {
		t.Skip("a browser takes long, and has nothing to do with races")
	}
	node, err := exec.LookPath("node")
	var chromium string
	if err == nil {
		chromium, err = exec.LookPath("chromium")
	}
	if err == nil {
		_, err = os.Stat(filepath.Join(dir, "node_modules/playwright-core"))
	}
	if err != nil && os.Getenv(ClientsEnv) != "" {
		t.Fatalf("%s is set, but: %v", ClientsEnv, err)
	}
	if err != nil {
		t.Skipf("%v; .ci/run installs Node and Chromium, and runs npm ci in rpc/explorer/browser", err)
	}
	cmd := exec.CommandContext(t.Context(), node, "browser.mjs", chromium)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	in, inErr := cmd.StdinPipe()
	out, outErr := cmd.StdoutPipe()
	for _, err := range []error{inErr, outErr, cmd.Start()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
	})
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 16<<20)
	return &Browser{URL: url, t: t, in: in, out: lines}
}

// Answer is what the browser says after an order.
type Answer struct {
	Failed     string
	Status     int
	Problems   []string
	Violations []string
	Overflow   int
	Text, URL  string
	Count      int
	Frames     []string
	Value      any
	Tab        struct {
		Private, Share, Resident, Scripts uint64 // bytes
		Nodes                             int
		Worked, From                      float64
	}
}

// Order is what an order has beside its name.
type Order map[string]any

// Do gives an order, which has to succeed.
func (b *Browser) Do(what string, fields Order) Answer {
	b.t.Helper()
	all := Order{"do": what}
	for name, value := range fields {
		all[name] = value
	}
	line, err := json.Marshal(all)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.in.Write(append(line, '\n')); err != nil {
		b.t.Fatal(err)
	}
	if !b.out.Scan() {
		b.t.Fatalf("the browser ended: %v", b.out.Err())
	}
	var a Answer
	if err := json.Unmarshal(b.out.Bytes(), &a); err != nil {
		b.t.Fatal(err)
	}
	if a.Failed != "" {
		b.t.Fatalf("%v: %s", all, a.Failed)
	}
	return a
}

// Open shows a page of the server.
func (b *Browser) Open(path string, fields Order) Answer {
	b.t.Helper()
	all := Order{"url": b.URL + path}
	for name, value := range fields {
		all[name] = value
	}
	return b.Do("open", all)
}

// Sound fails the test if something is wrong with the page as it is.
func (b *Browser) Sound(what string, accessibility bool) {
	b.t.Helper()
	a := b.Do("check", Order{"accessibility": accessibility})
	a.Problems = slices.DeleteFunc(a.Problems, func(problem string) bool { // an answer that is no 200 is one for the console
		return strings.HasPrefix(problem, "Failed to load resource: the server responded with a status of 4") || strings.HasPrefix(problem, "Failed to load resource: the server responded with a status of 503")
	})
	if len(a.Problems)+len(a.Violations) > 0 || a.Overflow > 0 {
		b.t.Errorf("%s: problems %q, violations %q, %d pixels too wide", what, a.Problems, a.Violations, a.Overflow)
	}
}
