package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/graph"
)

func TestFsck(t *testing.T) {
	dir := t.TempDir()
	folder := filepath.Join(dir, "graph")
	check := func(flags ...string) outcome {
		t.Helper()
		return keytree(t, append([]string{"fsck", "--network", "regtest", "--data-dir", dir}, flags...)...)
	}
	if o := check(); o.code != exitFailed || !strings.Contains(o.stderr, "no graph to check") {
		t.Errorf("without a graph: %+v", o)
	}
	g, err := graph.Open(folder, graph.Params{Network: "regtest"}, graph.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Connect(graph.Block{Hash: [32]byte{1}}); err != nil {
		t.Fatal(err)
	}
	if o := check(); o.code != exitFailed || !strings.Contains(o.stderr, "in use") {
		t.Errorf("while it is open: %+v", o)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	if o := check(); o.code != exitDone || !strings.Contains(o.stdout, "is sound: 1 blocks") {
		t.Errorf("a sound graph: %+v", o)
	}
	if o := check("--start-height", "5"); o.code != exitFailed || !strings.Contains(o.stderr, "start height 0") {
		t.Errorf("another start height: %+v", o)
	}

	tables, err := filepath.Glob(filepath.Join(folder, "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatalf("tables: %v, %v", tables, err)
	}
	if err := os.Truncate(tables[0], 10); err != nil {
		t.Fatal(err)
	}
	o := check("--json")
	var report fsckReport
	if err := json.Unmarshal([]byte(o.stdout), &report); err != nil {
		t.Fatalf("%+v: %v", o, err)
	}
	if o.code != exitFailed || report.Sound || len(report.Findings) != 1 || report.Findings[0].File != filepath.Base(tables[0]) {
		t.Errorf("a damaged table: %+v", o)
	}
}
