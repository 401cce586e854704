package graph

import "testing"

// TestRecords counts the records that blocks of 1,000 actions write, by what they are. Each costs as
// much processor time as applying an action (package graph has the table).
func TestRecords(t *testing.T) {
	if testing.Short() {
		t.Skip("it counts what one goroutine writes")
	}
	const blocks = 40
	for name, most := range map[string]map[byte]int{ // records per 1,000 actions
		"path":  {'a': 32, 'k': 17, 'o': 20},
		"tree":  {'a': 32, 'k': 31, 'o': 20},
		"apart": {'a': 32, 'k': 31, 'x': 25, 'o': 20},
	} {
		opt := testOptions()
		opt.stageBytes, opt.recentActions = 0, 5000
		g, err := Open(t.TempDir(), testParams, opt)
		if err != nil {
			t.Fatal(err)
		}
		rec := &recorder{Committer: g.store}
		g.store = rec
		gr := &grower{shape: shapes["tree"]}
		next := func() []Block { return []Block{gr.next(500), gr.next(500)} }
		switch name {
		case "path":
			gr.shape = shapes["path"]
		case "apart":
			next = gr.nextApart
		}
		for n := -10; n < blocks; n += 2 {
			if n == 0 {
				rec.entries = nil
			}
			for _, b := range next() {
				if err := g.Connect(b); err != nil {
					t.Fatal(err)
				}
			}
		}
		counts := make(map[byte]int)
		for _, entries := range rec.entries {
			for _, e := range entries {
				counts[e.Key[0]]++
			}
		}
		rest := 0
		for prefix, n := range counts {
			if limit, ok := most[prefix]; !ok {
				rest += n
			} else if n = n / blocks; n > limit {
				t.Errorf("%s: %d records %c per 1,000 actions, want %d at most", name, n, prefix, limit)
			} else {
				t.Logf("%s: %d records %c per 1,000 actions", name, n, prefix)
			}
		}
		if rest > 6*blocks {
			t.Errorf("%s: %d other records in %d blocks: %v", name, rest, blocks, counts)
		}
		if err := g.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
