package graph

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
)

// TestWaiting compares the lists of those who wait with plain ones, also those of a
// version before; some of the actions come in the middle of a list.
func TestWaiting(t *testing.T) {
	type list struct {
		to   string
		kind protocol.Kind
	}
	r := rand.New(rand.NewPCG(1, 1))
	w, plain := newWaiting(), make(map[list][]int32)
	of := make(map[int32]list)
	check := func(w *waiting, plain map[list][]int32) {
		t.Helper()
		lists, all := int32(0), int32(0)
		for l, want := range plain {
			// They are found whichever way the reference is written.
			if got := w.on(protocol.RefersTo(tx(l.to)), l.kind); !slices.Equal(got, want) {
				t.Fatalf("%v: %v wait, want %v", l, got, want)
			}
			if len(want) > 0 {
				lists, all = lists+1, all+int32(len(want))
			}
		}
		if w.lists.Len() != lists || w.each.Len() != all {
			t.Fatalf("%d lists of %d actions, want %d of %d", w.lists.Len(), w.each.Len(), lists, all)
		}
	}
	for round := range 60 {
		before, was := w, make(map[list][]int32)
		for l, actions := range plain {
			was[l] = slices.Clone(actions)
		}
		w = before.fork()
		for range 30 {
			n := int32(r.IntN(500))
			l, waits := of[n]
			if waits {
				w.remove(n, l.kind)
				plain[l] = slices.DeleteFunc(plain[l], func(m int32) bool { return m == n })
				delete(of, n)
				w.remove(n, l.kind) // does nothing
				continue
			}
			l = list{fmt.Sprint(r.IntN(4)), protocol.MLA + protocol.Kind(r.IntN(2))}
			ref := protocol.RefersTo(tx(l.to))
			if r.IntN(2) == 0 {
				slices.Reverse(ref[:])
			}
			w.add(n, l.kind, ref)
			if w.reference(n) != ref {
				t.Fatalf("action %d refers to %x, want %x", n, w.reference(n), ref)
			}
			of[n] = l
			plain[l] = append(plain[l], n)
			slices.Sort(plain[l])
		}
		check(&w, plain)
		check(&before, was)
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
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
