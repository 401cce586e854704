package graph

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
)

// TestWaiting compares what somebody waits for with plain counts, also those of a version
// before.
func TestWaiting(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	want := func(to int, kind protocol.Kind) wanted {
		ref := protocol.RefersTo(tx(fmt.Sprint(to)))
		if r.IntN(2) == 0 {
			slices.Reverse(ref[:]) // it is the same whichever way it is written
		}
		return (&storedAction{kind: kind, reference: ref}).wants()
	}
	w, plain := newWaiting(), make(map[wanted]int)
	check := func(w *waiting, plain map[wanted]int) {
		t.Helper()
		some := int32(0)
		for what, n := range plain {
			if w.any(what) != (n > 0) {
				t.Fatalf("%d wait for %v", n, what)
			}
			if n > 0 {
				some++
			}
		}
		if w.counts.Len() != some {
			t.Fatalf("%d things are waited for, want %d", w.counts.Len(), some)
		}
	}
	for range 60 {
		before, was := w, maps.Clone(plain)
		w = before.fork()
		for range 30 {
			what := want(r.IntN(4), protocol.MLA+protocol.Kind(r.IntN(2)))
			if plain[what] > 0 && r.IntN(2) == 0 {
				w.remove(what)
				plain[what]--
			} else {
				w.add(what)
				plain[what]++
			}
		}
		check(&w, plain)
		check(&before, was)
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
		waiting.Actions = append(waiting.Actions, Action{Index: uint32(i), TxID: tx(fmt.Sprint(i)), Author: &parent,
			Action: protocol.Action{Kind: protocol.MLA, Ref: protocol.RefersTo(tx("request"))}})
	}
	request := Block{Height: 1, PrevHash: waiting.Hash, Hash: tx("decided"), Actions: []Action{{TxID: tx("request"), Author: &child,
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
	if tip.Counts != (Counts{Links: 1, Identities: 1, Refused: uint32(count - 1)}) {
		b.Fatalf("%+v", tip.Counts)
	}
	timed("undo", g.Disconnect)
	if tip, _ := g.Tip(); tip.Counts.Waiting != uint32(count) || tip.Hash == (chainhash.Hash{}) {
		b.Fatalf("%+v", tip.Counts)
	}
}
