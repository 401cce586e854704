package tlog

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/keytree-bch/keytree/graph/durable/durabletest"
	"github.com/keytree-bch/keytree/keyserver/tlog/tlogtest"
	"github.com/keytree-bch/keytree/protocol/tlog"
)

// asLog, in the environment, makes the test executable sign a log: FOLDER STEP N SEED. It kills itself at
// the N-th time that it comes to the step; N is 0 for never. SEED makes the entries beyond those that the
// processes before have made.
const asLog = "KEYTREE_TEST_TLOG"

// TestSigner is not a test but the process that TestKill kills. It prints each checkpoint that a reader gets.
func TestSigner(t *testing.T) {
	args := strings.Fields(os.Getenv(asLog))
	if len(args) != 4 {
		t.Skip("part of TestKill and TestFaults")
	}
	runtime.LockOSThread() // strace counts the calls of each thread
	dir, step := args[0], args[1]
	left, err := strconv.Atoi(args[2])
	if err != nil {
		t.Fatal(err)
	}
	seed, err := strconv.ParseUint(args[3], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	chain := storedChain(t, dir)
	l, err := Open(Options{
		Source: chain, Origin: Origin("example.org"), KeyFile: filepath.Join(dir, "key"), StateFile: filepath.Join(dir, "state"),
		between: func(at string) {
			if at == step {
				if left--; left == 0 {
					durabletest.Kill()
				}
			}
		},
	})
	if err != nil {
		fmt.Println("refused:", err)
		return
	}
	for range 5 {
		chain = growStored(t, dir, chain, seed)
		l.opt.Tree = hashchainTree{chain}
		if err := l.sign(t.Context()); err != nil {
			fmt.Println("refused:", err)
		}
		if signed, _, err := l.Checkpoint(); err == nil {
			fmt.Printf("served: %q\n", signed)
		}
	}
}

// storedChain is the chain whose growth a file lists, a seed a line: as a database would, it
// has all that was there before a checkpoint of it was signed.
func storedChain(t *testing.T, dir string) *tlogtest.Chain {
	chain := tlogtest.New(t, 0).Grow(1)
	text, err := os.ReadFile(filepath.Join(dir, "entries"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for i, line := range strings.Fields(string(text)) {
		seed, err := strconv.ParseUint(line, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		chain = chain.Fork(3*i+1, seed+uint64(i)<<32).Grow(3)
	}
	return chain
}

// growStored adds entries that depend on a seed.
func growStored(t *testing.T, dir string, chain *tlogtest.Chain, seed uint64) *tlogtest.Chain {
	f, err := os.OpenFile(filepath.Join(dir, "entries"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = fmt.Fprintln(f, seed)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	size := int(chain.Chain().Size)
	return chain.Fork(size, seed+uint64(size/3)<<32).Grow(3)
}

// history is what a log has shown to anybody.
type history struct {
	t       *testing.T
	roots   map[uint64]tlog.Hash
	largest uint64
}

// add adds what a process has printed.
func (h *history) add(said string) (refused []string) {
	lines := bufio.NewScanner(strings.NewReader(said))
	for lines.Scan() {
		if problem, ok := strings.CutPrefix(lines.Text(), "refused: "); ok {
			refused = append(refused, problem)
		}
		quoted, ok := strings.CutPrefix(lines.Text(), "served: ")
		if !ok {
			continue
		}
		signed, err := strconv.Unquote(quoted)
		if err != nil {
			h.t.Fatal(err)
		}
		c, err := tlog.Stated([]byte(signed))
		if err != nil {
			h.t.Fatal(err)
		}
		if root, ok := h.roots[c.Size]; ok && root != c.Root {
			h.t.Errorf("two roots of %d entries: %v and %v", c.Size, root, c.Root)
		}
		if c.Size < h.largest {
			h.t.Errorf("a checkpoint of %d entries after one of %d", c.Size, h.largest)
		}
		h.roots[c.Size], h.largest = c.Root, c.Size
	}
	return refused
}

// signer returns the command that runs TestSigner.
func signer(dir, step string, n int, seed uint64) *exec.Cmd {
	cmd := exec.Command(os.Args[0], "-test.run=^TestSigner$")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %d %d", asLog, dir, step, n, seed))
	return cmd
}

// TestKill kills a log between signing and storing, and between storing and serving, again and again:
// six times, or 200 times under KEYTREE_EXHAUSTIVE. It never shows two roots of one size, or a smaller size.
func TestKill(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts a process for each kill")
	}
	kills := 6
	if os.Getenv("KEYTREE_EXHAUSTIVE") != "" {
		kills = 200
	}
	dir := t.TempDir()
	h := &history{t: t, roots: make(map[uint64]tlog.Hash)}
	for i := range kills {
		step := []string{"signed", "stored"}[i%2]
		out, err := signer(dir, step, 1+rand.IntN(5), rand.Uint64()>>33).Output()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("kill %d: %v: %s", i, err, out)
		}
		if refused := h.add(string(out)); len(refused) > 0 {
			t.Errorf("kill %d: %q", i, refused)
		}
	}
	out, err := signer(dir, "signed", 0, 1).Output()
	if refused := h.add(string(out)); err != nil || len(refused) > 0 || len(h.roots) < 5 {
		t.Errorf("in the end: %v, %q, %d checkpoints", err, refused, len(h.roots))
	}
}
