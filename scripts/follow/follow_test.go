package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// TestQuoted compares the programs with the document that shows them.
func TestQuoted(t *testing.T) {
	document, err := os.ReadFile("../../rpc/STABILITY.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, fence := range map[string]string{"main.go": "go", "follow.mjs": "js"} {
		program, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(document), "```"+fence+"\n"+string(program)+"```\n") {
			t.Errorf("rpc/STABILITY.md does not show %s as it is", name)
		}
	}
}

// TestShort counts what the programs have besides what they import, and comments.
func TestShort(t *testing.T) {
	for _, name := range []string{"main.go", "follow.mjs"} {
		program, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		_, code, _ := strings.Cut(string(program), "\n\n") // what is behind the JavaScript's imports
		if _, main, ok := strings.Cut(string(program), "func main"); ok {
			code = main
		}
		if lines := strings.Count(code, "\n"); lines == 0 || lines > 20 {
			t.Errorf("%s has %d lines, want 20 at most", name, lines)
		}
	}
}

// output is what a program prints.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer // mu
}

// Write implements io.Writer.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// TestFollowers runs both programs until they print a block.
func TestFollowers(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds and starts programs")
	}
	c, blocks := rpctest.Family()
	r := rpctest.New(t, blocks...)
	dir := t.TempDir()
	follow := filepath.Join(dir, "follow")
	if out, err := exec.Command("go", "build", "-o", follow, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	script, err := filepath.Abs("follow.mjs")
	if err != nil {
		t.Fatal(err)
	}
	programs := map[string][]string{"Go": {follow, r.Conn.Target(), rpctest.Address("grandchild")}}
	if node, err := exec.LookPath("node"); err == nil {
		programs["JavaScript"] = []string{node, script, r.URL, rpctest.Address("grandchild")}
	} else if os.Getenv("KEYTREE_CLIENTS") != "" {
		t.Error(err)
	}
	for name, args := range programs {
		t.Run(name, func(t *testing.T) {
			cmd, out := exec.CommandContext(t.Context(), args[0], args[1:]...), new(output)
			cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = t.TempDir(), out, out, time.Second
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Wait()
			defer cmd.Process.Kill()
			// It is told of what is new alone: there is something until it has begun.
			for i := 0; !strings.Contains(out.String(), "CONNECT "); i++ {
				if i == 600 {
					t.Fatalf("no block was printed: %s", out)
				}
				r.Connect(t, c.Block(rpctest.MLR(fmt.Sprint(name, i), "lone", "grandchild", "")))
				time.Sleep(100 * time.Millisecond)
			}
		})
	}
}
