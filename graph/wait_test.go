package graph

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// BenchmarkWait has questions asked while blocks of 10,000 actions are connected,
// each its own durable step, to an identity of so many keys: a view of the tip is
// made and a random key resolved, on a schedule. It reports how long an answer took:
// the median, the 99.9th percentile and the longest, counted from when the question
// was due, so that one that waits makes those behind it wait as well.
func BenchmarkWait(b *testing.B) {
	for _, name := range []string{"path", "tree"} {
		for _, keys := range scales()[1:] {
			b.Run(fmt.Sprintf("%s/%d", name, keys), func(b *testing.B) { benchmarkWait(b, shapes[name], keys) })
		}
	}
}

func benchmarkWait(b *testing.B, s shape, keys int) {
	const blocks, every = 30, 200 * time.Microsecond
	g, err := Open(b.TempDir(), testParams, Options{Memory: 4 << 30})
	if err != nil {
		b.Fatal(err)
	}
	defer g.Close()
	gr := &grower{shape: s}
	gr.growTo(b, g, keys)
	var took []time.Duration
	for b.Loop() {
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range blocks {
				if err := g.Connect(gr.next(5000)); err != nil {
					b.Error(err)
					return
				}
			}
		}()
		r := rand.New(rand.NewPCG(1, 2))
		for due := time.Now(); ; due = due.Add(every) {
			if early := time.Until(due); early > 0 {
				time.Sleep(early)
				due = time.Now() // it is not the graph's fault if the sleep was too long
			}
			v, err := g.At(nil)
			if err != nil {
				b.Fatal(err)
			}
			_, err = v.Resolve(b.Context(), key(fmt.Sprint(r.IntN(keys))))
			v.Close()
			if err != nil {
				b.Fatal(err)
			}
			took = append(took, time.Since(due))
			select {
			case <-done:
			default:
				continue
			}
			break
		}
	}
	slices.Sort(took)
	at := func(part float64) float64 { return float64(took[int(part*float64(len(took)-1))].Microseconds()) }
	b.ReportMetric(at(0.5), "median-µs")
	b.ReportMetric(at(0.999), "99.9%-µs")
	b.ReportMetric(at(1), "longest-µs")
	b.ReportMetric(float64(len(took))/float64(b.N), "questions/op")
}
