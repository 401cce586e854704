package graph

import (
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/badgerdb"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/graph/state"
	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// scales are the sizes of identities that are measured, in keys. The largest take
// minutes to make.
func scales() []int {
	if exhaustive() {
		scales := []int{1_000, 10_000, 100_000, 1_000_000}
		if os.Getenv("KEYTREE_EXHAUSTIVE") == "10000000" {
			scales = append(scales, 10_000_000)
		}
		return scales
	}
	return []int{1_000, 10_000}
}

// scaleMemory is enough for all scales, in bytes.
const scaleMemory = 8 << 30

// grower makes blocks that grow one identity of a shape.
type grower struct {
	shape  shape
	height uint32
	prev   chainhash.Hash
	keys   int // made so far
}

// next returns a block that links so many keys more.
func (gr *grower) next(links int) Block {
	from := max(1, gr.keys)
	b := grow(gr.height, gr.prev, gr.shape, from, from+links)
	gr.height, gr.prev, gr.keys = gr.height+1, b.Hash, from+links
	return b
}

// growStep is how many links a block of growTo has.
func growStep(keys int) int { return min(5000, keys/2) }

// growTo makes the identity in a graph.
func (gr *grower) growTo(b *testing.B, g *Graph, keys int) {
	b.Helper()
	for gr.keys < keys {
		if err := g.Connect(gr.next(min(growStep(keys), keys-max(1, gr.keys)))); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkScale makes one identity of n keys of each shape and measures, in
// process: opening it; resolving a random key and the newest one, as of the tip
// and, of those that there were, as of half the chain; a page of members as of the tip;
// and blocks of 1,000 actions, each its own durable step, that add keys (append)
// or cut the branch at the top that holds most of the identity and join it again
// (rejoin), after which a random key is resolved as of half the chain once more. It reports bytes per
// key in memory and on disk.
func BenchmarkScale(b *testing.B) {
	for _, name := range []string{"path", "star", "tree", "caterpillar"} {
		smaller := make(growth)
		for _, keys := range scales() {
			b.Run(fmt.Sprintf("%s/%d", name, keys), func(b *testing.B) { benchmarkScale(b, shapes[name], keys, smaller) })
		}
	}
}

// growth is what each operation took at the size before.
type growth map[string]float64

// report reports a figure and by which factor it is more than at a tenth of the
// size.
func (g growth) report(b *testing.B, operation string, figure float64, unit string) {
	b.ReportMetric(figure, unit)
	if before, ok := g[operation]; ok && before > 0 {
		b.ReportMetric(figure/before, "growth")
	}
	g[operation] = figure
}

func benchmarkScale(b *testing.B, s shape, keys int, smaller growth) {
	dir := b.TempDir()
	g, err := Open(dir, testParams, Options{Memory: scaleMemory})
	if err != nil {
		b.Fatal(err)
	}
	gr := &grower{shape: s}
	gr.growTo(b, g, keys)
	// The checkpoint that a killed process would leave.
	checkpoint := filepath.Join(dir, state.CheckpointFile)
	old, err := os.ReadFile(checkpoint)
	if err != nil {
		b.Fatal(err)
	}
	if err := g.Close(); err != nil {
		b.Fatal(err)
	}
	g = nil
	// openFrom reports how long opening takes after something was done to the checkpoint.
	openFrom := func(b *testing.B, do error) (since int) {
		if do != nil {
			b.Fatal(do)
		}
		start := time.Now()
		g, err := Open(dir, testParams, Options{Memory: scaleMemory})
		if err != nil {
			b.Fatal(err)
		}
		took := time.Since(start)
		since = g.checkpoint.since.actions
		if err := g.Close(); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(took.Seconds()*1000, "ms/open")
		return since
	}
	b.Run("open-old-checkpoint", func(b *testing.B) {
		since := openFrom(b, os.WriteFile(checkpoint, old, 0o600))
		b.ReportMetric(float64(since), "actions-since")
	})
	b.Run("open-without-checkpoint", func(b *testing.B) { openFrom(b, os.Remove(checkpoint)) })
	b.Run("open", func(b *testing.B) {
		var heap float64
		took := time.Duration(math.MaxInt64) // the least: others may have the processors now and then
		for range 5 {
			before := heapInUse()
			start := time.Now()
			g, err := Open(dir, testParams, Options{Memory: scaleMemory})
			if err != nil {
				b.Fatal(err)
			}
			took = min(took, time.Since(start))
			heap = float64(heapInUse() - before)
			if err := g.Close(); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(took.Seconds()*1000, "ms/open")
		b.ReportMetric(checkTime(b, dir).Seconds()*1000, "ms-of-it-checking-files")
		b.ReportMetric(heap/float64(keys), "heap-B/key")
		b.ReportMetric(float64(tableBytes(b, dir))/float64(keys), "disk-B/key")
	})
	if g, err = Open(dir, testParams, Options{Memory: scaleMemory}); err != nil {
		b.Fatal(err)
	}
	defer func() { g.Close() }()
	names := make([]protocol.KeyHash, keys)
	for n := range names {
		names[n] = key(fmt.Sprint(n))
	}
	r := rand.New(rand.NewPCG(1, 2))
	resolve := func(name string, next func() int, height *uint32) func(b *testing.B) {
		return func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				key := names[next()]
				start := time.Now()
				v, err := g.At(height)
				if err != nil {
					b.Fatal(err)
				}
				if r, err := v.Resolve(b.Context(), key); err != nil || r.Root != names[0] {
					b.Fatal(r, err)
				}
				v.Close()
				if len(took) < 1<<20 {
					took = append(took, time.Since(start))
				}
			}
			slices.Sort(took)
			smaller.report(b, name, float64(took[len(took)/2]), "median-ns")
		}
	}
	b.Run("resolve", resolve("resolve", func() int { return r.IntN(keys) }, nil))
	b.Run("deepest", resolve("deepest", func() int { return keys - 1 }, nil))
	half := (gr.height - 1) / 2
	then := growStep(keys) * int(half+1) // so many keys there were
	b.Run("resolve-as-of", resolve("resolve-as-of", func() int { return r.IntN(then) }, &half))
	b.Run("deepest-as-of", resolve("deepest-as-of", func() int { return then - 1 }, &half))
	b.Run("members", func(b *testing.B) {
		v, err := g.At(nil)
		if err != nil {
			b.Fatal(err)
		}
		defer v.Close()
		const page = 100
		cursor := (*links.MemberCursor)(nil)
		for b.Loop() {
			_, next, err := v.Members(b.Context(), tx("request1"), cursor, page)
			if err != nil {
				b.Fatal(err)
			}
			cursor = next
		}
		smaller.report(b, "members", float64(b.Elapsed().Nanoseconds())/float64(b.N)/page, "ns/key")
	})
	b.Run("append", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			block := gr.next(500)
			b.StartTimer()
			if err := g.Connect(block); err != nil {
				b.Fatal(err)
			}
		}
		smaller.report(b, "append", float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/action")
	})
	// One cut and join at the top in every block, among 997 other actions: requests
	// of keys that have parents.
	accept := tx("accept1")
	rejoins := 0
	b.Run("rejoin", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			block := gr.rejoin(&accept, rejoins)
			rejoins++
			b.StartTimer()
			if err := g.Connect(block); err != nil {
				b.Fatal(err)
			}
		}
		smaller.report(b, "rejoin", float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/action")
	})
	b.Run("rejoined-as-of", resolve("rejoined-as-of", func() int { return r.IntN(then) }, &half))
}

// rejoin returns a block that cuts key 1 from key 0, by the MCR of the last
// accept, and joins it again, among other actions.
func (gr *grower) rejoin(accept *chainhash.Hash, n int) Block {
	child, parent := key("1"), key("0")
	request, revoke := tx(fmt.Sprint("again ", n)), tx(fmt.Sprint("cut ", n))
	b := Block{Height: gr.height, PrevHash: gr.prev, Hash: tx(fmt.Sprint("rejoin", n, gr.height))}
	b.Actions = []links.Action{
		{Index: 1, TxID: revoke, Author: &parent, Action: protocol.Action{Kind: protocol.MCR, Ref: protocol.RefersTo(*accept)}},
		{Index: 2, TxID: request, Author: &child, Action: protocol.Action{Kind: protocol.MLR, Parent: parent}},
	}
	*accept = tx(fmt.Sprint("accepted ", n))
	b.Actions = append(b.Actions, links.Action{Index: 3, TxID: *accept, Author: &parent,
		Action: protocol.Action{Kind: protocol.MLA, Ref: protocol.RefersTo(request)}})
	for i := uint32(4); i <= 1000; i++ {
		author := key(fmt.Sprint(1 + i))
		b.Actions = append(b.Actions, links.Action{Index: i, TxID: tx(fmt.Sprint("request ", n, i)), Author: &author,
			Action: protocol.Action{Kind: protocol.MLR, Parent: parent}})
	}
	gr.height, gr.prev = gr.height+1, b.Hash
	return b
}

// checkTime is how long the check of every byte takes, at least.
func checkTime(b *testing.B, dir string) time.Duration {
	b.Helper()
	took := time.Duration(math.MaxInt64)
	for range 5 {
		start := time.Now()
		if found, err := badgerdb.Check(b.Context(), dir, store.MaxValue); err != nil || len(found) > 0 {
			b.Fatal(found, err)
		}
		took = min(took, time.Since(start))
	}
	return took
}

func heapInUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// tableBytes is how much a closed graph takes on the disk.
func tableBytes(b testing.TB, dir string) (bytes int64) {
	b.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".sst" {
			return err
		}
		info, err := d.Info()
		if err == nil {
			bytes += info.Size()
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return bytes
}

// recorder keeps what a graph Writes.
type recorder struct {
	store.Committer
	entries [][]store.Entry
}

func (r *recorder) Commit(entries []store.Entry) error {
	r.entries = append(r.entries, entries)
	return r.Committer.Commit(entries)
}

// BenchmarkConnect applies blocks of 1,000 actions, each its own durable step, to
// an identity of so many keys: whole links (path, star, tree); requests in one
// block and their accepts in the next (apart); and links of pairs, each an
// identity of its own (pairs). Beside it, in the same run, Badger takes the same
// bytes in plain batches, one per block, into a database that holds as much: the
// ratio is its time by ours.
func BenchmarkConnect(b *testing.B) {
	for _, name := range []string{"path", "star", "tree", "apart", "pairs"} {
		for _, keys := range scales() {
			b.Run(fmt.Sprintf("%s/%d", name, keys), func(b *testing.B) { benchmarkConnect(b, name, keys) })
		}
	}
}

func benchmarkConnect(b *testing.B, name string, keys int) {
	var next func() []Block // two blocks of 1,000 actions each
	var gr *grower
	switch name {
	case "apart":
		gr = &grower{shape: shapes["tree"]}
		next = func() []Block { return gr.nextApart() }
	case "pairs":
		gr = &grower{shape: func(n int) int { return n - n%2 }}
		next = func() []Block { return []Block{gr.nextPairs(), gr.nextPairs()} }
	default:
		gr = &grower{shape: shapes[name]}
		next = func() []Block { return []Block{gr.next(500), gr.next(500)} }
	}
	rec := &recorder{}
	open := func() *Graph {
		g, err := Open(b.TempDir(), testParams, Options{Memory: scaleMemory})
		if err != nil {
			b.Fatal(err)
		}
		return g
	}
	g := open()
	defer func() { g.Close() }()
	rec.Committer = g.store
	g.store = rec
	peer := open()
	defer func() { peer.Close() }()
	for gr.keys < keys {
		if err := g.Connect(next()...); err != nil {
			b.Fatal(err)
		}
		replay(b, peer.db.DB, rec.entries)
		rec.entries = nil
	}
	var ours, theirs time.Duration
	bytes, records := uint64(0), 0
	for b.Loop() {
		b.StopTimer()
		blocks := next()
		for _, block := range blocks {
			if len(block.Actions) != 1000 {
				b.Fatalf("a block of %d actions", len(block.Actions))
			}
			b.StartTimer()
			start := time.Now()
			if err := g.Connect(block); err != nil {
				b.Fatal(err)
			}
			ours += time.Since(start)
			b.StopTimer()
			start = time.Now()
			replay(b, peer.db.DB, rec.entries)
			theirs += time.Since(start)
			for _, entries := range rec.entries {
				records += len(entries)
				bytes += store.Size(entries)
			}
			rec.entries = nil
		}
		b.StartTimer()
	}
	actions := float64(2000 * b.N)
	b.ReportMetric(float64(ours.Nanoseconds())/actions, "ns/action")
	b.ReportMetric(float64(theirs.Nanoseconds())/actions, "badger-ns/action")
	b.ReportMetric(theirs.Seconds()/ours.Seconds(), "badger/ours")
	b.ReportMetric(float64(bytes)/actions, "B/action")
	b.ReportMetric(float64(records)/actions, "records/action")
	b.ReportMetric(0, "ns/op")
}

// replay Writes what a graph wrote, in plain batches.
func replay(b *testing.B, db *badger.DB, steps [][]store.Entry) {
	b.Helper()
	for _, entries := range steps {
		batch := db.NewWriteBatch()
		defer batch.Cancel()
		for _, e := range entries {
			var err error
			if e.Value == nil {
				err = batch.Delete(e.Key)
			} else {
				err = batch.Set(e.Key, e.Value)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
		if err := batch.Flush(); err != nil {
			b.Fatal(err)
		}
	}
}

// nextApart returns a block of 1,000 requests and one of their accepts.
func (gr *grower) nextApart() []Block {
	both := gr.next(1000)
	requests := Block{Height: both.Height, PrevHash: both.PrevHash, Hash: tx(fmt.Sprint("requests", both.Height))}
	accepts := Block{Height: both.Height + 1, PrevHash: requests.Hash, Hash: both.Hash}
	for n, a := range both.Actions {
		if n%2 == 0 {
			requests.Actions = append(requests.Actions, a)
		} else {
			accepts.Actions = append(accepts.Actions, a)
		}
	}
	gr.height++
	return []Block{requests, accepts}
}

// nextPairs returns a block that links 500 pairs of new keys.
func (gr *grower) nextPairs() Block {
	from := max(1, gr.keys+1)
	b := grow(gr.height, gr.prev, gr.shape, from, from+1000)
	var odd []links.Action
	for n := 0; n < len(b.Actions); n += 2 {
		if number := from + n/2; number%2 == 1 {
			odd = append(odd, b.Actions[n:n+2]...)
		}
	}
	b.Actions = odd
	gr.height, gr.prev, gr.keys = gr.height+1, b.Hash, from+999
	return b
}
