package graph

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/protocol"
)

// BenchmarkFollow cuts the top of an identity of n keys in a block, and joins it in the next, which changes the resolution of each, while
// nobody follows, one follows 10,000 of them, and 10,000 clients follow 100 each. It reports how long a block
// takes to be connected, and from then on until the last client has its list (told), also in time of the processor; how many bytes a followed key takes;
// and how long it takes to find what a filter of 10,000 has to know of a block that came before it (behind).
func BenchmarkFollow(b *testing.B) {
	for _, name := range []string{"path", "tree"} {
		for _, keys := range scales() {
			b.Run(fmt.Sprintf("%s/%d", name, keys), func(b *testing.B) { benchmarkFollow(b, shapes[name], keys) })
		}
	}
}

func benchmarkFollow(b *testing.B, s shape, keys int) {
	g, err := Open(b.TempDir(), testParams, Options{Memory: scaleMemory})
	if err != nil {
		b.Fatal(err)
	}
	defer g.Close()
	gr := &grower{shape: s}
	gr.growTo(b, g, keys)
	names := make([]protocol.KeyHash, keys)
	for n := range names {
		names[n] = key(fmt.Sprint(n))
	}
	below := make([]bool, keys) // key 1, which is cut and joined
	for n := 1; n < keys; n++ {
		below[n] = n == 1 || below[s(n)]
	}
	top := &topper{grower: gr, accept: tx("accept1")}
	r := rand.New(rand.NewPCG(1, 2))
	var alone time.Duration // a block while nobody follows
	var last Block
	blocks := func(b *testing.B, clients []*Following, want int) {
		var connected, told, work time.Duration
		for b.Loop() {
			last = top.next()
			start := time.Now()
			if err := g.Connect(last); err != nil {
				b.Fatal(err)
			}
			connected += time.Since(start)
			start, used := time.Now(), processorTime(b)
			found := 0
			for _, f := range clients {
				c, err := f.Connected(b.Context(), last.Height, last.Hash)
				if err != nil || c.Unsure {
					b.Fatal(c.Unsure, err)
				}
				found += len(c.Keys)
			}
			told, work = told+time.Since(start), work+processorTime(b)-used
			if found != want {
				b.Fatalf("%d keys have changed, want %d", found, want)
			}
		}
		each := connected / time.Duration(b.N)
		if clients == nil {
			alone = each
		} else {
			b.ReportMetric(each.Seconds()/alone.Seconds(), "connect/alone")
			b.ReportMetric(told.Seconds()*1000/float64(b.N), "ms-told")
			b.ReportMetric(work.Seconds()*1000/float64(b.N), "ms-told-processor")
		}
		b.ReportMetric(each.Seconds()*1000, "ms-connect")
		b.ReportMetric(0, "ns/op")
	}
	follow := func(b *testing.B, clients, each int) {
		var all []*Following
		want := 0
		before := heapInUse()
		for range clients {
			filter := make([]protocol.KeyHash, each)
			from := r.IntN(keys)
			for i := range filter {
				n := (from + i*(keys/each)) % keys
				filter[i] = names[n]
				if below[n] {
					want++
				}
			}
			f, err := g.Follow(filter, nil)
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			all = append(all, f)
		}
		held := heapInUse() - before
		blocks(b, all, want)
		b.ReportMetric(float64(held)/float64(clients*each), "heap-B/followed")
	}
	b.Run("alone", func(b *testing.B) { blocks(b, nil, 0) })
	filter := min(10_000, keys)
	b.Run("filter", func(b *testing.B) { follow(b, 1, filter) })
	b.Run("clients", func(b *testing.B) { follow(b, keys/100, 100) })
	b.Run("behind", func(b *testing.B) {
		f, err := g.Follow(names[1:filter], nil)
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		for b.Loop() {
			if c, err := f.Connected(b.Context(), last.Height, last.Hash); err != nil || c.Unsure || len(c.Keys) == 0 {
				b.Fatal(len(c.Keys), c.Unsure, err)
			}
		}
		b.ReportMetric(b.Elapsed().Seconds()*1000/float64(b.N), "ms-behind")
		b.ReportMetric(0, "ns/op")
	})
}

// topper makes blocks of one identity that grower has made, which cut key 1 from key 0, and join it again, in turn.
type topper struct {
	*grower
	accept chainhash.Hash // of the link in force
	blocks int
}

func (t *topper) next() Block {
	child, parent := key("1"), key("0")
	b := Block{Height: t.height, PrevHash: t.prev, Hash: tx(fmt.Sprint("top", t.height))}
	if t.blocks%2 == 0 {
		b.Actions = []links.Action{{Index: 1, TxID: tx(fmt.Sprint("cut top", t.height)), Author: &parent,
			Action: protocol.Action{Kind: protocol.MCR, Ref: protocol.RefersTo(t.accept)}}}
	} else {
		request := tx(fmt.Sprint("request top", t.height))
		t.accept = tx(fmt.Sprint("accept top", t.height))
		b.Actions = []links.Action{
			{Index: 1, TxID: request, Author: &child, Action: protocol.Action{Kind: protocol.MLR, Parent: parent}},
			{Index: 2, TxID: t.accept, Author: &parent, Action: protocol.Action{Kind: protocol.MLA, Ref: protocol.RefersTo(request)}},
		}
	}
	t.blocks, t.height, t.prev = t.blocks+1, t.height+1, b.Hash
	return b
}

// processorTime is what this process has taken of the processor.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
