package indexer_test

import (
	"bufio"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/indexer"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/indexer/node/blockfile"
)

// asImporter, in the environment, makes the test executable a process that imports
// the files of the first folder that it names into the graph in the second one.
const asImporter = "KEYTREE_TEST_IMPORTER"

// TestImporter is not a test but the process that TestImportKilled kills.
func TestImporter(t *testing.T) {
	files, dir, ok := strings.Cut(os.Getenv(asImporter), "\n")
	if !ok {
		t.Skip("part of TestImportKilled")
	}
	g := must(graph.Open(dir, testParams, testOptions()))(t)
	chain := must(blockfile.Open(t.Context(), files, regtest.Params, nil))(t)
	fmt.Println("begin")
	opt := indexer.ImportOptions{Log: zerolog.Nop()}
	opt.SetRangeMemory(3_000)
	if err := indexer.Import(t.Context(), chain, g, opt); err != nil {
		t.Fatal(err)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	fmt.Println("done")
}

// killedAfter runs a process, and kills it so long after it has said "begin", if it has not ended before. It returns what
// the process said, whether that was "done" as well, and how it ended.
func killedAfter(t *testing.T, cmd *exec.Cmd, delay time.Duration) (said string, done bool, ended error) {
	t.Helper()
	out := must(cmd.StdoutPipe())(t)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	var kill *time.Timer
	for lines := bufio.NewScanner(out); lines.Scan(); {
		fmt.Fprintln(&all, lines.Text())
		switch lines.Text() {
		case "begin":
			kill = time.AfterFunc(delay, func() { cmd.Process.Kill() }) // it may have ended
		case "done":
			done = true
		}
	}
	ended = cmd.Wait()
	if kill != nil {
		kill.Stop()
	}
	return all.String(), done, ended
}

// TestImportKilled kills imports with SIGKILL until one gets to the end, and
// compares what came of it with an import that nobody disturbed.
func TestImportKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts a process for each kill")
	}
	l := anchorStory(t, 300)
	files, dir := write(t, l.raw()), t.TempDir()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	killed := 0
	var heights []uint32
	for done := false; !done; {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestImporter$", "-test.v")
		cmd.Env = append(os.Environ(), asImporter+"="+files+"\n"+dir)
		// The time that an import may have grows by a fifth with each kill, so that a slow machine
		// comes to the end after two or three dozen of them too.
		said, ended, err := killedAfter(t, cmd, time.Duration(random.Float64()*50*math.Pow(1.2, float64(killed))*float64(time.Millisecond)))
		if err != nil && strings.Contains(said, "FAIL") {
			t.Fatalf("after heights %v: %s", heights, said)
		}
		if err != nil {
			killed++
		}
		done = ended || err == nil
		g := must(graph.Open(dir, testParams, testOptions()))(t)
		tip, _ := g.Tip()
		heights = append(heights, tip.Height)
		if err := g.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("killed at heights %v", heights)
	amid := 0
	for i, height := range heights {
		if height > 0 && int(height) < len(l.node.chain)-1 && (i == 0 || height > heights[i-1]) {
			amid++
		}
	}
	if amid < 2 {
		t.Errorf("only %d kills hit amid the import: this shows too little", amid)
	}

	undisturbed := newGraph(t)
	if err := indexer.Import(t.Context(), openChain(t, files), undisturbed, indexer.ImportOptions{}); err != nil {
		t.Fatal(err)
	}
	want, _ := undisturbed.Tip()
	g := must(graph.Open(dir, testParams, testOptions()))(t)
	defer g.Close()
	wantTip(t, g, want)
}
