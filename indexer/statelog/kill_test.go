package statelog

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/durable/durabletest"
)

// asPublisher, in the environment, makes the test executable publish a log: FOLDER STEP N. It kills itself at the N-th
// time that it comes to the step; N is 0 for never.
const asPublisher = "KEYTREE_TEST_STATELOG"

// TestPublisher is not a test but the process that TestKill kills. It publishes a chain, takes published blocks
// off it, and publishes the next one, from wherever the process before was killed. It prints each checkpoint
// that a reader gets.
func TestPublisher(t *testing.T) {
	args := strings.Fields(os.Getenv(asPublisher))
	if len(args) != 3 {
		t.Skip("part of TestKill")
	}
	left, err := strconv.Atoi(args[2])
	if err != nil {
		t.Fatal(err)
	}
	g, err := graph.Open(filepath.Join(args[0], "graph"), graph.Params{Network: network}, graph.Options{MemTable: 8 << 20, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	r := &rig{t: t, graph: g, dir: args[0]}
	r.clock.Store(1_700_000_000)
	opt := r.options()
	opt.between = func(at string) {
		if at == args[1] {
			if left--; left == 0 {
				durabletest.Kill()
			}
		}
	}
	if r.Publisher, err = Open(opt); err != nil {
		t.Fatal(err)
	}
	defer r.Publisher.Close()
	defer r.stopSigning()
	r.startSigning(t.Context())
	step := func(epoch uint32, size uint64) {
		for _, passed := range []time.Duration{lookAgain, knownFor} {
			r.pass(passed)
			if err := r.step(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		c := r.await(epoch, size)
		fmt.Printf("served: %d %d %v\n", epoch, c.Size, c.Root)
	}
	tip, begun := g.Tip()
	if !begun {
		r.mine(30, "")
	}
	if !begun || tip.Height < 30 {
		step(1, 20)
		r.reorganise(15, "deep")
	}
	step(2, 21)
	step(2, 21)
	fmt.Println("done")
}

// TestKill kills a process at each step, at each of its times, and has another one go on: one key never signs two
// roots of a size, the first epoch's key nothing after its block was taken off, and the second one signs what the chain is.
func TestKill(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	for _, at := range []string{"computed 1", "stored 1", "reorganised 1", "next 1", "computed 2", "stored 2"} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			served := make(map[string]string)
			run := func(at string) string {
				cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestPublisher$")
				cmd.Env = append(os.Environ(), asPublisher+"="+dir+" "+at)
				out, _ := cmd.CombinedOutput() // what a killed one has said counts, too
				for line := range strings.Lines(string(out)) {
					text, is := strings.CutPrefix(strings.TrimSpace(line), "served: ")
					if epoch, rest, ok := strings.Cut(text, " "); is && ok {
						size, root, _ := strings.Cut(rest, " ")
						if was, ok := served[epoch+" "+size]; ok && was != root {
							t.Errorf("epoch %s has signed %s and %s of %s entries", epoch, was, root, size)
						}
						served[epoch+" "+size] = root
					}
				}
				return string(out)
			}
			if out := run(at); strings.Contains(out, "done") {
				t.Fatalf("was not killed at %s:\n%s", at, out)
			}
			first := filepath.Join(dir, "state.key.json")
			before, err := os.ReadFile(first)
			if err != nil {
				t.Fatal(err)
			}
			if out := run("never 0"); !strings.Contains(out, "done") {
				t.Fatalf("does not go on after %s:\n%s", at, out)
			}
			after, err := os.ReadFile(first)
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(at, "reorganised") || strings.HasPrefix(at, "next") || strings.HasSuffix(at, "2") {
				if string(before) != string(after) {
					t.Errorf("the frozen key has signed again: %s, was %s", after, before)
				}
			}
			if len(served) != 2 || served["2 21"] == "" {
				t.Errorf("served %v", served)
			}
		})
	}
}
