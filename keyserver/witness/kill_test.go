package witness

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/keytree-bch/keytree/graph/durable/durabletest"
	"github.com/keytree-bch/keytree/keyserver/tlog/tlogtest"
	format "github.com/keytree-bch/keytree/protocol/tlog"
)

// asWitness, in the environment, makes the test executable a witness: FOLDER STEP N SEED. A log, which lies,
// submits to it one of two histories, as SEED says, and it kills itself at the N-th time that it comes to the step.
const asWitness = "KEYTREE_TEST_WITNESS"

// TestWitness is not a test but the process that TestKill kills. It prints each checkpoint that it has cosigned.
func TestWitness(t *testing.T) {
	args := strings.Fields(os.Getenv(asWitness))
	if len(args) != 4 {
		t.Skip("part of TestKill")
	}
	dir, step := args[0], args[1]
	left, err := strconv.Atoi(args[2])
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	log, err := format.ParseKey(string(text))
	if err != nil {
		t.Fatal(err)
	}
	policy, err := format.ParsePolicy([]byte("log " + log.Log().String() + "\nquorum none"))
	if err != nil {
		t.Fatal(err)
	}
	w, err := Open(Options{
		KeyFile: filepath.Join(dir, "key"), StateFile: filepath.Join(dir, "state"), Name: "witness.example", Policy: policy,
		between: func(at string) {
			if at == step {
				if left--; left == 0 {
					durabletest.Kill()
				}
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	chain := tlogtest.New(t, 1)
	if args[3] == "fork" {
		chain = tlogtest.New(t, 2)
	}
	chain.Grow(4000) // more than is ever submitted
	for range 5 {
		last, err := w.state.last(log.Name())
		if err != nil {
			t.Fatal(err)
		}
		for _, from := range []uint64{last.Size, last.Size / 2} { // the smaller one is refused
			size := from + 1 + rand.Uint64N(3)
			state, err := chain.ChainAt(t.Context(), size)
			if err != nil {
				t.Fatal(err)
			}
			c := format.Checkpoint{Origin: log.Name(), Size: size, Root: format.Hash(state.Root())}
			s := format.Submission{Old: from, Checkpoint: log.Sign(c)}
			if from > 0 {
				proof, err := chain.ConsistencyProof(t.Context(), from, size)
				if err != nil {
					t.Fatal(err)
				}
				for _, h := range proof {
					s.Proof = append(s.Proof, format.Hash(h))
				}
			}
			if _, err := w.Add(s.Marshal()); err == nil {
				fmt.Printf("cosigned: %d %s\n", c.Size, c.Root)
			}
		}
	}
}

// TestKill kills a witness between checking and storing, and between storing and cosigning, again and
// again: six times, or 200 times under KEYTREE_EXHAUSTIVE. A log that lies has it never cosign a smaller size, or two roots of
// one, or both histories.
func TestKill(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts a process for each kill")
	}
	kills := 6
	if os.Getenv("KEYTREE_EXHAUSTIVE") != "" {
		kills = 200
	}
	dir := t.TempDir()
	log, err := format.GenerateKey("example.org/keytree")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "log"), []byte(log.Text()), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	roots, largest := make(map[uint64]string), uint64(0)
	for i := range kills + 1 {
		step, n := []string{"checked", "stored"}[i%2], 1+rand.IntN(5)
		if i == kills {
			n = 0 // never
		}
		history := "log"
		if i%3 == 2 { // after two that were the log's
			history = "fork"
		}
		cmd := exec.Command(os.Args[0], "-test.run=^TestWitness$")
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %d %s", asWitness, dir, step, n, history))
		out, err := cmd.Output()
		var exit *exec.ExitError
		killed := errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
		if history == "log" && killed != (n > 0) || history == "fork" && err != nil {
			t.Fatalf("kill %d of the %s: %v: %s", i, history, err, out)
		}
		for line := range strings.Lines(string(out)) {
			var (
				size uint64
				root string
			)
			if n, _ := fmt.Sscanf(line, "cosigned: %d %s", &size, &root); n != 2 {
				continue
			}
			if before, ok := roots[size]; ok && before != root || size < largest || history == "fork" {
				t.Errorf("kill %d of the %s: cosigned %d %s after %d, %s", i, history, size, root, largest, before)
			}
			roots[size], largest = root, size
		}
	}
	if len(roots) < 3 {
		t.Errorf("only %d checkpoints were cosigned", len(roots))
	}
}
