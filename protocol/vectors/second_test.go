package vectors

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// clientsEnv is the variable that says that no program is missing that tests need beside Go:
// .ci/run has installed them.
const clientsEnv = "KEYTREE_CLIENTS"

// second runs the second implementation and returns what it prints.
func second(t *testing.T, args ...string) []byte {
	t.Helper()
	out, said, err := runSecond(t, args...)
	if err != nil {
		t.Fatalf("second/run.mjs: %v\n%s", err, said)
	}
	return out
}

func runSecond(t *testing.T, args ...string) (out, said []byte, err error) {
	t.Helper()
	node, err := exec.LookPath("node")
	if err != nil && os.Getenv(clientsEnv) != "" {
		t.Fatalf("%s is set, but: %v", clientsEnv, err)
	}
	if err != nil {
		t.Skip("node is not installed; .ci/run installs it")
	}
	var errs bytes.Buffer
	cmd := exec.CommandContext(t.Context(), node, append([]string{filepath.Join("second", "run.mjs")}, args...)...)
	cmd.Stderr = &errs
	out, err = cmd.Output()
	return out, errs.Bytes(), err
}

// TestSecond has the second implementation, which was written from protocol/SPEC.md alone, run the corpus.
func TestSecond(t *testing.T) {
	if testing.Short() {
		t.Skip("starts node")
	}
	names := files(t)
	out := second(t, names...)
	if got := bytes.Count(out, []byte(": agrees\n")); got != len(names) {
		t.Errorf("%d files of %d agree: %s", got, len(names), out)
	}
}

// TestChance has keytree and the second implementation make the same of chains by chance: of many if
// KEYTREE_EXHAUSTIVE is set.
func TestChance(t *testing.T) {
	if testing.Short() {
		t.Skip("opens a database, and starts node")
	}
	chains, steps := uint64(1), 60
	if os.Getenv("KEYTREE_EXHAUSTIVE") != "" {
		chains, steps = 40, 200
	}
	dir := t.TempDir()
	for seed := range chains {
		s := script{name: fmt.Sprint("seed ", seed), plot: func(c *chain) { byChance(c, 1000+seed, steps) }}
		t.Run(s.name, func(t *testing.T) {
			c := s.write(t)
			c.observe(play(t, c))
			follow(t, c)
			file := filepath.Join(dir, s.name+".json")
			save(t, file, c)
			var values []Step
			if err := json.Unmarshal(second(t, "--values", file), &values); err != nil {
				t.Fatal(err)
			}
			var run []seen
			for _, v := range values {
				run = append(run, seen{v.Height, v.Block, v.Effects, v.StateHash, v.StateRoot})
			}
			if err := c.compare(run); err != nil {
				t.Errorf("the second implementation differs: %v", err)
			}
		})
	}
}

// TestSecondMutations finds that the second implementation notices each value that is another, too.
func TestSecondMutations(t *testing.T) {
	if testing.Short() {
		t.Skip("starts node")
	}
	const name = "cuts.json"
	dir := t.TempDir()
	var mutated []string
	for what, change := range mutations(t, name) {
		c := load(t, name)
		change(c)
		file := filepath.Join(dir, fmt.Sprintf("%03d %s.json", len(mutated), what))
		save(t, file, c)
		mutated = append(mutated, file)
	}
	out, said, err := runSecond(t, mutated...)
	if err == nil || len(out) > 0 {
		t.Errorf("some were not noticed: %s", out)
	}
	for _, file := range mutated {
		if !strings.Contains(string(said), file+": step ") {
			t.Errorf("%s was not noticed", filepath.Base(file))
		}
	}
}
