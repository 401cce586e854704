package graph

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/keytree-bch/keytree/graph/fsck"
)

// contents returns the files in a folder, and when they were changed.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		content, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		files[e.Name()] = info.ModTime().String() + string(content)
	}
	return files
}

// TestFsckOfUnfinishedSteps checks what a process leaves that was killed between two writes of
// its steps, many of which take several: it is sound, and it is not changed.
func TestFsckOfUnfinishedSteps(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	inMemory(t)
	tasks, _ := faultTasks(t, 100)
	stride := 3
	if exhaustive() {
		stride = 1
	}
	kills := 0
	for fail := 2; ; fail += stride {
		s := &faultyStore{fail: fail, dead: true}
		g, err := openFaulty(t.TempDir(), s)
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range tasks {
			if err = task.do(g); err != nil {
				break
			}
		}
		left := copyFolder(t, g.db.Dir())
		if closing := g.Close(); closing != nil {
			t.Fatal(closing)
		}
		if err == nil {
			break // there are no more writes
		}
		if !errors.Is(err, errFault) {
			t.Fatal(err)
		}
		before := contents(t, left)
		report, err := fsck.Check(t.Context(), left, testParams, faultOptions().fsck(), nil)
		if err != nil || len(report.Findings) > 0 {
			t.Fatalf("killed before write %d: %v\n%s", fail, err, lines(report))
		}
		if after := contents(t, left); !maps.Equal(before, after) {
			t.Fatalf("killed before write %d: checking changed the files", fail)
		}
		again, err := Open(left, testParams, faultOptions())
		if err != nil {
			t.Fatal(err)
		}
		if clean := again.check(t); clean.Records != report.Records {
			t.Errorf("killed before write %d: %d records were counted, opening leaves %d", fail, report.Records, clean.Records)
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
		kills++
	}
	if kills*stride < len(tasks)+10 {
		t.Errorf("%d kills in %d steps: none took several writes", kills, len(tasks))
	}
}
