package graph

import (
	"fmt"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// TestActionsPassedOver lists the actions of a key as of a block after which many turned out to be
// about it: pages end early instead of passing over all of those, and together they have what there was.
func TestActionsPassedOver(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	const waiters = 9000
	g := openTest(t, t.TempDir())
	child, parent, other := key("child"), key("parent"), key("other")
	first := Block{Hash: tx("first")}
	for i := range waiters {
		author := other
		if i%4000 == 3999 {
			author = parent
		}
		first.Actions = append(first.Actions, links.Action{Index: uint32(i), TxID: tx(fmt.Sprint(i)), Author: &author,
			Action: protocol.Action{Kind: protocol.MLA, Ref: protocol.RefersTo(tx("request"))}})
	}
	second := Block{Height: 1, PrevHash: first.Hash, Hash: tx("second"), Actions: []links.Action{{TxID: tx("request"), Author: &child,
		Action: protocol.Action{Kind: protocol.MLR, Parent: parent}}}}
	if err := g.Connect(first, second); err != nil {
		t.Fatal(err)
	}
	list := func(height uint32) (actions, pages, early int) {
		v, err := g.At(&height)
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		var after *store.Position
		for {
			page, next, err := v.ActionsOf(t.Context(), parent, after, 1000)
			if err != nil {
				t.Fatal(err)
			}
			actions, pages = actions+len(page), pages+1
			if next == nil {
				return actions, pages, early
			}
			if len(page) < 1000 {
				early++
			}
			after = next
		}
	}
	if actions, pages, early := list(0); actions != 2 || early < 2 {
		t.Errorf("as of 0: %d actions in %d pages, of which %d end early", actions, pages, early)
	}
	if actions, pages, early := list(1); actions != waiters+1 || early > 0 {
		t.Errorf("as of 1: %d actions in %d pages, of which %d end early", actions, pages, early)
	}
}

// BenchmarkWaiters lets so many accepts, all of them of one request that is not there,
// wait in one block; opens the graph; connects the request, which decides them; takes
// that block back; and reports the time of each per accept, which should not depend
// on their number.
func BenchmarkWaiters(b *testing.B) {
	counts := []int{10_000, 40_000}
	if exhaustive() {
		counts = append(counts, 160_000)
	}
	for _, count := range counts {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			for b.Loop() {
				benchmarkWaiters(b, count)
			}
		})
	}
}

func benchmarkWaiters(b *testing.B, count int) {
	dir := b.TempDir()
	g, err := Open(dir, testParams, Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { g.Close() }()
	timed := func(what string, do func() error) {
		start := time.Now()
		if err := do(); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(time.Since(start).Nanoseconds())/float64(count), what+"-ns/accept")
	}
	child, parent := key("child"), key("parent")
	waiting := Block{Hash: tx("waiting")}
	for i := range count {
		waiting.Actions = append(waiting.Actions, links.Action{Index: uint32(i), TxID: tx(fmt.Sprint(i)), Author: &parent,
			Action: protocol.Action{Kind: protocol.MLA, Ref: protocol.RefersTo(tx("request"))}})
	}
	request := Block{Height: 1, PrevHash: waiting.Hash, Hash: tx("decided"), Actions: []links.Action{{TxID: tx("request"), Author: &child,
		Action: protocol.Action{Kind: protocol.MLR, Parent: parent}}}}
	timed("wait", func() error { return g.Connect(waiting) })
	timed("open", func() (err error) {
		if err = g.Close(); err == nil {
			g, err = Open(dir, testParams, Options{})
		}
		return err
	})
	timed("release", func() error { return g.Connect(request) })
	tip, _ := g.Tip()
	if tip.Counts != (store.Counts{Links: 1, Identities: 1, Refused: uint32(count - 1)}) {
		b.Fatalf("%+v", tip.Counts)
	}
	timed("undo", g.Disconnect)
	if tip, _ := g.Tip(); tip.Counts.Waiting != uint32(count) || tip.Hash == (chainhash.Hash{}) {
		b.Fatalf("%+v", tip.Counts)
	}
}
