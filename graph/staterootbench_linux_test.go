package graph

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/graph/state"
)

// BenchmarkStateRoot prints what the state root costs beside the graph without it: processor time per action of
// blocks of 1,000 actions that add keys to an identity of n keys at random, or pairs of keys beside n; bytes of memory per
// key; and the time to open it from a checkpoint and without one. The two take turns, block by block.
func BenchmarkStateRoot(b *testing.B) {
	for _, name := range []string{"tree", "pairs"} {
		for _, keys := range scales()[1:] {
			b.Run(fmt.Sprintf("%s/%d", name, keys), func(b *testing.B) { benchmarkStateRoot(b, name, keys) })
		}
	}
}

func benchmarkStateRoot(b *testing.B, name string, keys int) {
	type side struct {
		dir string
		g   *Graph
		gr  *grower
		act time.Duration // of the processor
	}
	sides := [2]side{} // without, with
	open := func(s *side, off bool) {
		var err error
		if s.g, err = Open(s.dir, testParams, Options{Memory: scaleMemory, NoStateRoot: off}); err != nil {
			b.Fatal(err)
		}
	}
	next := func(s *side) Block {
		if name == "pairs" {
			return s.gr.nextPairs()
		}
		return s.gr.next(500)
	}
	for i := range sides {
		s := &sides[i]
		s.dir, s.gr = b.TempDir(), &grower{shape: shapes["tree"]}
		if name == "pairs" {
			s.gr.shape = func(n int) int { return n - n%2 }
		}
		open(s, i == 0)
		for s.gr.keys < keys {
			if err := s.g.Connect(next(s)); err != nil {
				b.Fatal(err)
			}
		}
	}
	for b.Loop() {
		for i := range sides {
			s := &sides[i]
			block := next(s)
			start := processorTime(b)
			if err := s.g.Connect(block); err != nil {
				b.Fatal(err)
			}
			s.act += processorTime(b) - start
		}
	}
	records := sides[1].g.current.Load().state.Links.Records()
	var opened [2][2]time.Duration
	for i := range sides {
		s := &sides[i]
		if err := s.g.Close(); err != nil {
			b.Fatal(err)
		}
		for n := range 2 { // from the checkpoint, and without
			if n == 1 {
				if err := os.Remove(filepath.Join(s.dir, state.CheckpointFile)); err != nil {
					b.Fatal(err)
				}
			}
			runtime.GC()
			start := processorTime(b)
			open(s, i == 0)
			opened[n][i] = processorTime(b) - start
			if err := s.g.Close(); err != nil {
				b.Fatal(err)
			}
		}
	}
	open(&sides[1], false)
	held := heapInUse()
	sides[1].g.current.Load().state.Links.DropRecords() // nobody asks for them
	held -= heapInUse()
	if err := sides[1].g.Close(); err != nil {
		b.Fatal(err)
	}
	per := func(d [2]time.Duration, n int) float64 { return float64((d[1] - d[0]).Nanoseconds()) / float64(n) }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(per([2]time.Duration{sides[0].act, sides[1].act}, 1000*b.N)/1000, "more-µs/action")
	b.ReportMetric(sides[1].act.Seconds()/sides[0].act.Seconds(), "with/without")
	b.ReportMetric(float64(held)/float64(sides[1].gr.keys), "more-heap-B/key")
	b.ReportMetric(float64(records)/float64(sides[1].gr.keys), "records/key")
	b.ReportMetric(per(opened[0], sides[1].gr.keys)/1000, "more-s/Mkeys-open")
	b.ReportMetric(per(opened[1], sides[1].gr.keys)/1000, "more-s/Mkeys-open-without-checkpoint")
}
