package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/indexer/node/blockfile"
	"github.com/keytree-bch/keytree/scripts/bench/chain"
)

// TestMain lets the test program be the child process, as bench itself is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "child" {
		main()
		return
	}
	os.Exit(m.Run())
}

func bench(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var stdout bytes.Buffer
	root := rootCommand()
	root.SetArgs(args)
	root.SetOut(&stdout)
	root.SetErr(io.Discard)
	err := root.ExecuteContext(t.Context())
	return stdout.String(), err
}

// TestRun measures everything once on a megabyte, which includes that the import
// and the indexer get out of the chain what was put in. The figures are nobody's
// business here.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	out, err := bench(t, "run", "--rounds", "1", "--memory-size", "1MB", "--file-size", "1MB", "--node-size", "1MB", "--dir", dir, "--json")
	if err != nil {
		t.Fatal(err)
	}
	var got report
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	rows := make(map[string]int)
	for _, r := range got.Rows {
		rows[r.What]++
		if r.Value < 0 || r.Unit == "MB/s" && r.Value == 0 {
			t.Errorf("%s, %s: %v %s", r.Group, r.What, r.Value, r.Unit)
		}
	}
	for what, want := range map[string]int{walk: 2, wireDecode: 2, "import": 2, "import, verify actions": 2, download: 2, catchUp: 2, "first sync": 2} {
		if rows[what] != want {
			t.Errorf("%d rows %q, want %d", rows[what], what, want)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v (%v)", left, err)
	}
}

// TestWrongResult holds the import to what the chain is known to hold.
func TestWrongResult(t *testing.T) {
	files := t.TempDir()
	stats, err := writeChain(t.Context(), chain.Options{Blocks: 2, BlockSize: 50_000, Actions: 0.05}, files, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	b := &benchmark{dir: t.TempDir()}
	if _, err := b.job(t.Context(), stats, job{Do: importFiles, Files: files}); err != nil {
		t.Fatal(err)
	}
	stats.Refused++
	if _, err := b.job(t.Context(), stats, job{Do: importFiles, Files: files}); err == nil {
		t.Error("a wrong number of refused actions was not noticed")
	}
}

func TestMake(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	args := []string{"make", "--dir", dir, "--blocks", "3", "--block-size", "40KB", "--actions", "5%"}
	out, err := bench(t, args...)
	if err != nil {
		t.Fatal(err)
	}
	files, err := blockfile.Open(t.Context(), dir, chain.Params, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	if tip := files.Hash(files.Height()).String(); !strings.Contains(out, tip) {
		t.Errorf("the files' tip is %s at height %d; make says\n%s", tip, files.Height(), out)
	}
	if _, err := bench(t, args...); err == nil || !strings.Contains(err.Error(), "without block files") {
		t.Errorf("into the same folder: %v", err)
	}
	for _, wrong := range [][]string{
		{"make", "--blocks", "3"},
		{"make", "--dir", dir, "--blocks", "3", "--actions", "0.1"},
		{"make", "--dir", dir, "--blocks", "3", "--block-size", "1TB"},
		{"make", "--dir", dir, "--blocks", "3", "--shape", "round"},
	} {
		if _, err := bench(t, wrong...); err == nil {
			t.Errorf("%v: no error", wrong)
		}
	}
}

func TestTable(t *testing.T) {
	r := &report{Command: "bench run", Machine: "this one"}
	r.add(
		row{Group: "a", What: "slow", Value: 12.34, Unit: "MB/s"},
		row{Group: "a", What: "fast", Value: 1234, Unit: "MB/s", Ratios: []ratio{{To: "slow", Value: 100, AtLeast: 95}}},
		row{Group: "b", What: "memory", Value: 2048, Unit: "MiB", AtMost: 1024},
	)
	var out strings.Builder
	if err := r.writeTable(&out); err != nil {
		t.Fatal(err)
	}
	const want = `bench run
this one

|        |           | beside     | must hold                |
|--------|-----------|------------|--------------------------|
| **a**  |           |            |                          |
| slow   | 12.3 MB/s |            |                          |
| fast   | 1234 MB/s | 100 × slow | at least 95 × slow: yes  |
| **b**  |           |            |                          |
| memory | 2048 MiB  |            | at most 1024 MiB: **no** |
`
	if out.String() != want {
		t.Errorf("got\n%s", out.String())
	}
}

func TestMedian(t *testing.T) {
	r := rounds{"a": {10, 50, 20}, "b": {5, 10, 5}}
	if got := r.median("a"); got != 20 {
		t.Errorf("median %v", got)
	}
	if got := r.ratio("a", "b", 0).Value; got != 4 {
		t.Errorf("ratio %v, want 4, that of the third round", got)
	}
	if got := median([]float64{4, 1, 3, 2}); got != 2.5 {
		t.Errorf("median of four: %v", got)
	}
}
