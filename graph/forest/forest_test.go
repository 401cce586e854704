package forest

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
)

// TestForest compares the forest with walking parents, through random links and
// cuts of small and large branches, and the forest that build makes of the same
// parents. Narrow nodes give few keys many levels; a small drift keeps moving
// bases.
func TestForest(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	for _, c := range []struct {
		width     int
		drift     int32
		keys      int
		steps     int
		neighbour float64 // how often a key is linked to the one before: long paths
	}{
		{4, 3, 40, 4_000, 0},
		{4, 1 << 28, 300, 3_000, 0.5},
		{4, 50, 1_000, 3_000, 0.95},
		{5, 3, 300, 3_000, 0.9},
		{8, 10, 1_000, 3_000, 0.5},
		{maxWidth, 1 << 28, 40, 3_000, 0.2},
		{maxWidth, 100, 5_000, 1_500, 0.9},
		{maxWidth, 100, 5_000, 1_500, 0},
	} {
		t.Run(fmt.Sprintf("width=%d,drift=%d,keys=%d,neighbour=%v", c.width, c.drift, c.keys, c.neighbour), func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, uint64(c.keys)))
			f, m := newOf(c.width, c.drift), new(model)
			for range c.keys {
				m.add(f)
			}
			linked := 0
			if testing.Short() {
				c.steps /= 4 // one goroutine does it all
			}
			before, was := f, m.clone()
			f = before.Fork()
			for step := range c.steps {
				child := int32(r.IntN(len(m.parents)))
				other := int32(r.IntN(len(m.parents)))
				if r.Float64() < c.neighbour {
					other = max(0, child-1)
				}
				// Three of four times the keys are nearly all linked.
				cutting := r.IntN(100) < 5 || step/(c.keys*4)%4 == 3
				switch root, _ := m.walk(other); {
				case m.parents[child] != None && cutting:
					m.cut(f, child)
					linked--
				case m.parents[child] != None && root != child:
					// Move the branch, unless other is in it.
					m.cut(f, child)
					if root, _ = m.walk(other); root == child {
						linked--
						break
					}
					m.link(f, child, other)
				case root != child:
					m.link(f, child, other)
					linked++
				}
				if last := f.Len() - 1; r.IntN(10) == 0 && last > int32(c.keys/2) && m.lone(last) {
					m.drop(f)
				} else if r.IntN(10) == 0 && int(last) < c.keys {
					m.add(f)
				}
				if dated := int32(r.IntN(len(m.parents))); r.IntN(4) == 0 && m.parents[dated] != None {
					m.date(f, dated, uint32(r.IntN(step+1)))
				}
				if step%(1+c.keys/100) == 0 {
					check(t, f, m)
					// The version before is as it was, and so is the one of now whatever becomes
					// of a version that is dropped.
					check(t, before, was)
					before, was = f, m.clone()
					dropped := before.Fork()
					for n := range dropped.Len() {
						if n%3 == 0 && dropped.Parent(n) != None {
							dropped.Cut(n)
						}
					}
					f = before.Fork()
				}
				if step%500 == 0 {
					rebuilt := newOf(c.width, c.drift)
					if !rebuilt.Build(m.links()) {
						t.Fatal("a forest without cycles cannot be built")
					}
					check(t, rebuilt, m)
				}
				if t.Failed() {
					t.Fatalf("step %d, %d links", step, linked)
				}
			}
			// Nothing is left of the tours when all links are cut.
			for n := range f.Len() {
				if m.parents[n] != None {
					m.cut(f, n)
				}
			}
			check(t, f, m)
			if used := used(f); used != 0 || f.blocks.chunks.Len()-f.blocks.gone.Len() > int32(len(classes)) {
				t.Errorf("lone keys hold %d nodes, %d chunks", used, f.blocks.chunks.Len()-f.blocks.gone.Len())
			}
		})
	}
}

// TestBuildOfCycles: what forms a cycle, or hangs below one, is no forest.
func TestBuildOfCycles(t *testing.T) {
	for _, c := range []struct {
		parents []int32
		want    bool
	}{
		{nil, true},
		{[]int32{None, 0, 1}, true},
		{[]int32{2, None, 1}, true},
		{[]int32{0}, false},
		{[]int32{None, 2, 1}, false},
		{[]int32{None, 1}, false},
		{[]int32{1, 2, 3, 1}, false},
	} {
		m := model{parents: c.parents, since: make([]uint32, len(c.parents))}
		if New().Build(m.links()) != c.want {
			t.Errorf("Build(%v) is %v", c.parents, !c.want)
		}
	}
}

// TestForestShapes builds the shapes that an attacker could choose, link by link
// and at once, and cuts and links them at the top and the bottom.
func TestForestShapes(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	const keys = 3_000
	for name, s := range shapes {
		for _, width := range []int{4, 16} {
			t.Run(fmt.Sprintf("%s/%d", name, width), func(t *testing.T) {
				linked, m := newOf(width, 1<<28), new(model)
				m.add(linked)
				for n := int32(1); n < keys; n++ {
					m.add(linked)
					m.link(linked, n, int32(s(int(n))))
				}
				check(t, linked, m)
				built := New()
				built.Build(m.links())
				check(t, built, m)
				// One newer link far up takes a way up and one down.
				for _, f := range []*Forest{linked, built} {
					levels := int(f.node(f.top(f.places.At(0).leaf)).level) + 1
					f.Date(1, m.height+1)
					for n := range f.Len() {
						if _, visited, _ := f.Newer(n, m.height, keys); visited > 2*levels {
							t.Fatalf("from key %d up: visited %d nodes of %d levels", n, visited, levels)
						}
					}
					f.Date(1, m.since[1])
				}
				for _, n := range []int32{1, keys / 2, keys - 1} {
					for _, f := range []*Forest{linked, built} {
						p, was := m.parents[n], m.clone()
						m.cut(f, n)
						check(t, f, m)
						m.link(f, n, p)
						check(t, f, m)
						m = was
						f.Date(n, m.since[n])
						check(t, f, m)
					}
				}
			})
		}
	}
}

// TestForestReads reads from several goroutines, which the race detector watches.
func TestForestReads(t *testing.T) {
	const keys = 2_000
	f := New()
	for n := range int32(keys) {
		if f.Add(); n > 0 {
			f.Link(n, int32(shapes["tree"](int(n))), 0)
		}
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for n := range int32(keys) {
				if p := f.Parent(n); f.Root(n) != 0 || f.Size(n) != keys || p != None && f.Depth(n) != f.Depth(p)+1 {
					t.Errorf("key %d: root %d, size %d, depth %d", n, f.Root(n), f.Size(n), f.Depth(n))
				}
			}
		})
	}
	wg.Wait()
}

// TestBlocks takes and frees blocks in random order: they do not overlap, and
// chunks without any go back.
func TestBlocks(t *testing.T) {
	type block struct {
		at    int32
		class uint8
		mark  int32
	}
	r := rand.New(rand.NewPCG(5, 6))
	b := newBlocks()
	var held []block
	most := 0
	for step := range int32(60_000) {
		growing := step/10_000%2 == 0
		if n := len(held); n > 0 && (r.IntN(10) < 4) == growing {
			i := r.IntN(n)
			for _, e := range b.entries(held[i].at, classes[held[i].class]) {
				if e.ref != held[i].mark {
					t.Fatalf("step %d: block %d of class %d was overwritten", step, held[i].at, held[i].class)
				}
			}
			b.free(held[i].at)
			held[i], held = held[n-1], held[:n-1]
		} else if growing || n > 0 {
			class := uint8(r.IntN(len(classes)))
			new := block{b.alloc(class), class, step}
			for i := range b.edit(new.at, classes[class]) {
				b.edit(new.at, classes[class])[i].ref = step
			}
			held = append(held, new)
		}
		most = max(most, int(b.chunks.Len()-b.gone.Len()))
	}
	for _, block := range held {
		b.free(block.at)
	}
	if left := int(b.chunks.Len() - b.gone.Len()); left > len(classes) || most < 3*len(classes) {
		t.Errorf("%d chunks are left of %d", left, most)
	}
}

// model is a forest that answers by walking parents.
type model struct {
	parents []int32
	since   []uint32 // 0 of a root
	height  uint32   // of the last link
}

func (m *model) walk(n int32) (root, depth int32) {
	for ; m.parents[n] != None; n = m.parents[n] {
		depth++
	}
	return n, depth
}

// newer is Forest.Newer.
func (m *model) newer(n int32, height uint32) int32 {
	for n != None && m.since[n] <= height {
		n = m.parents[n]
	}
	return n
}

func (m *model) clone() *model {
	return &model{slices.Clone(m.parents), slices.Clone(m.since), m.height}
}

func (m *model) links() []Link {
	links := make([]Link, len(m.parents))
	for n, parent := range m.parents {
		if links[n] = (Link{parent, m.since[n]}); parent == None {
			links[n].Since = 9 // it means nothing
		}
	}
	return links
}

func (m *model) lone(n int32) bool {
	for _, p := range m.parents {
		if p == n {
			return false
		}
	}
	return m.parents[n] == None
}

func (m *model) add(f *Forest) {
	f.Add()
	m.parents, m.since = append(m.parents, None), append(m.since, 0)
}

func (m *model) drop(f *Forest) {
	f.Drop()
	m.parents, m.since = m.parents[:len(m.parents)-1], m.since[:len(m.since)-1]
}

func (m *model) link(f *Forest, child, parent int32) {
	m.height++
	f.Link(child, parent, m.height)
	m.parents[child], m.since[child] = parent, m.height
}

func (m *model) cut(f *Forest, child int32) {
	f.Cut(child)
	m.parents[child], m.since[child] = None, 0
}

func (m *model) date(f *Forest, n int32, since uint32) {
	f.Date(n, since)
	m.since[n] = since
}

// check compares all answers of f with m, and looks for damage in its tours.
func check(t *testing.T, f *Forest, m *model) {
	t.Helper()
	if f.Len() != int32(len(m.parents)) {
		t.Fatalf("%d keys, want %d", f.Len(), len(m.parents))
	}
	roots, depths := make([]int32, f.Len()), make([]int32, f.Len())
	sizes := make([]int32, f.Len())
	var stack []int32
	for n := range f.Len() {
		depths[n] = None
	}
	for n := range f.Len() {
		at := n
		for stack = stack[:0]; depths[at] == None; at = m.parents[at] {
			if m.parents[at] == None {
				roots[at], depths[at] = at, 0
				break
			}
			stack = append(stack, at)
		}
		for i := len(stack) - 1; i >= 0; i-- {
			p := m.parents[stack[i]]
			roots[stack[i]], depths[stack[i]] = roots[p], depths[p]+1
		}
		sizes[roots[n]]++
	}
	checkNewer(t, f, m)
	reached := 0
	for n := range f.Len() {
		root, depth, size := f.Root(n), f.Depth(n), f.Size(n)
		if root != roots[n] || depth != depths[n] || size != sizes[root] || f.Parent(n) != m.parents[n] {
			t.Fatalf("key %d: root %d depth %d size %d parent %d, want %d %d %d %d", n,
				root, depth, size, f.Parent(n), roots[n], depths[n], sizes[roots[n]], m.parents[n])
		}
		if x := f.places.At(n).leaf; root != n {
			continue
		} else if size == 1 {
			if x != None {
				t.Fatalf("lone key %d has a node", n)
			}
		} else {
			var tour []int32
			reached += checkNode(t, f, f.top(x), &tour)
			checkTour(t, f, m, n, tour)
		}
	}
	if used := used(f); reached != used {
		t.Fatalf("%d nodes in trees, %d not free", reached, used)
	}
	blocks, states := 0, 0
	for c := range f.blocks.states.Len() {
		if f.blocks.chunks.At(c) != nil {
			states += int(f.blocks.states.At(c).used)
		}
	}
	for x := range f.nodes.Len() {
		if f.nodes.At(x).len > 0 {
			blocks++
		}
	}
	if blocks != used(f) || states != blocks {
		t.Fatalf("%d nodes, %d of them with entries, and %d blocks in use", used(f), blocks, states)
	}
}

// checkNewer compares Newer of some keys as of some heights with m.
func checkNewer(t *testing.T, f *Forest, m *model) {
	t.Helper()
	nodes := used(f)
	for n := int32(0); n < f.Len(); n += 1 + f.Len()/64 {
		for height := uint32(0); height <= m.height; height += 1 + m.height/3 {
			want := m.newer(n, height)
			got, visited, ok := f.Newer(n, height, nodes)
			if got != want || !ok || visited > nodes {
				t.Fatalf("from key %d up, %d is linked since after %d, want %d; visited %d of %d nodes, ok %v", n, got, height, want, visited, nodes, ok)
			}
			if got, again, ok := f.Newer(n, height, visited); got != want || again != visited || !ok {
				t.Fatalf("key %d as of %d in %d nodes: %d, %d visited, ok %v", n, height, visited, got, again, ok)
			}
			if _, _, ok := f.Newer(n, height, visited-1); ok && visited > 0 {
				t.Fatalf("key %d as of %d takes %d nodes, and less", n, height, visited)
			}
		}
	}
}

// used counts the nodes that are not free.
func used(f *Forest) int {
	n := int(f.nodes.Len())
	for x := f.unused; x != None; x = f.node(x).up {
		n--
	}
	return n
}

// checkNode checks x and all under it, appends its keys to tour, and returns
// how many nodes it has seen.
func checkNode(t *testing.T, f *Forest, x int32, tour *[]int32) (seen int) {
	t.Helper()
	h := f.nodes.At(x)
	fewest := f.least()
	if h.up < 0 {
		fewest = 2
	}
	if int(h.len) < fewest || int(h.len) > f.width {
		t.Fatalf("node %d has %d entries, want %d to %d", x, h.len, fewest, f.width)
	}
	if held := classes[h.class]; held < int(h.len) || f.blocks.states.At(h.at/chunkLen).class != h.class {
		t.Fatalf("node %d has %d entries in a block of %d", x, h.len, held)
	}
	seen = 1
	count, low := int32(0), f.entries(x)[0].low
	defer func() {
		if e := f.entry(x); h.up >= 0 && f.entries(h.up)[f.slot(h.up, x)] != e {
			t.Fatalf("node %d should be listed as %v", x, e)
		}
	}()
	for _, e := range f.entries(x) {
		low = min(low, e.low)
		if h.level == 0 {
			if count++; f.places.At(e.ref) != (place{f.Parent(e.ref), x, e.low}) {
				t.Fatalf("leaf %d lists key %d with %d, which is at %v", x, e.ref, e.low, f.places.At(e.ref))
			}
			*tour = append(*tour, e.ref)
			continue
		}
		c := f.nodes.At(e.ref)
		if c.up != x || c.level != h.level-1 {
			t.Fatalf("node %d of level %d lists node %d of level %d under %d", x, h.level, e.ref, c.level, c.up)
		}
		seen += checkNode(t, f, e.ref, tour)
		least := f.entries(e.ref)[0].low
		for _, e := range f.entries(e.ref) {
			least = min(least, e.low)
		}
		if e.low != least+c.base {
			t.Fatalf("node %d has least depth %d, is listed with %d", e.ref, least+c.base, e.low)
		}
		count += c.count
	}
	if low > f.drift || low < -f.drift {
		t.Fatalf("node %d has drifted to %d", x, low)
	}
	if count != h.count {
		t.Fatalf("node %d has %d keys, counts %d", x, count, h.count)
	}
	return seen
}

// checkTour checks that each key is where a preorder from root may have it.
func checkTour(t *testing.T, f *Forest, m *model, root int32, tour []int32) {
	t.Helper()
	var path []int32
	for i, n := range tour {
		depth := int(f.Depth(n))
		if i == 0 && n != root || depth > len(path) || i > 0 && (depth == 0 || path[depth-1] != m.parents[n]) {
			t.Fatalf("the tour of %d has %d, of depth %d, in a wrong place", root, n, depth)
		}
		x := f.places.At(n).leaf
		if since := f.entries(x)[f.slot(x, n)].newest; since != m.since[n] {
			t.Fatalf("key %d is linked since %d, want %d", n, since, m.since[n])
		}
		path = append(path[:depth], n)
	}
}

// BenchmarkForest measures the forest alone, without the store, on shapes that an
// attacker could choose. rejoin cuts the branch below the root that holds most of
// the tree, and links it again.
func BenchmarkForest(b *testing.B) {
	for name, s := range shapes {
		for _, keys := range []int{1_000, 10_000, 100_000, 1_000_000} {
			links := make([]Link, keys)
			links[0].Parent = None
			for n := 1; n < keys; n++ {
				links[n] = Link{int32(s(n)), uint32(n)}
			}
			before := heap()
			f := New()
			f.Build(links)
			perKey := float64(heap()-before) / float64(keys)
			r := rand.New(rand.NewPCG(3, 4))
			size := fmt.Sprintf("%s/%d/", name, keys)
			b.Run(size+"resolve", func(b *testing.B) {
				for b.Loop() {
					n := int32(r.IntN(keys))
					if f.Root(n) != 0 || f.Depth(n) < 0 {
						b.Fatal("wrong root")
					}
				}
				b.ReportMetric(perKey, "B/key")
			})
			b.Run(size+"deepest", func(b *testing.B) {
				for b.Loop() {
					if n := int32(keys - 1); f.Root(n) != 0 || f.Depth(n) < 0 {
						b.Fatal("wrong root")
					}
				}
			})
			b.Run(size+"rejoin", func(b *testing.B) {
				for b.Loop() {
					f.Cut(1)
					f.Link(1, 0, 1)
				}
			})
			b.Run(size+"link+cut", func(b *testing.B) {
				for b.Loop() {
					n := int32(1 + r.IntN(keys-1))
					p := f.Parent(n)
					f.Cut(n)
					f.Link(n, p, 1)
				}
				b.ReportMetric(float64(heap()-before)/float64(keys), "B/key")
			})
			runtime.KeepAlive(links)
		}
	}
}

// heap returns the bytes in use.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkForestMemory reports what a key costs in trees of so many keys, built
// at once and link by link.
func BenchmarkForestMemory(b *testing.B) {
	const keys = 1_000_000
	for _, size := range []int{1, 2, 3, 5, 10, 100} {
		links := make([]Link, keys)
		for n := range links {
			if links[n] = (Link{None, uint32(n)}); n%size != 0 {
				links[n].Parent = int32(n - 1)
			}
		}
		b.Run(fmt.Sprintf("build/%d", size), func(b *testing.B) {
			for b.Loop() {
				before := heap()
				f := New()
				f.Build(links)
				b.ReportMetric(float64(heap()-before)/keys, "B/key")
				runtime.KeepAlive(f)
			}
		})
		b.Run(fmt.Sprintf("link/%d", size), func(b *testing.B) {
			for b.Loop() {
				before := heap()
				f := New()
				for n, l := range links {
					if f.Add(); l.Parent != None {
						f.Link(int32(n), l.Parent, l.Since)
					}
				}
				b.ReportMetric(float64(heap()-before)/keys, "B/key")
				runtime.KeepAlive(f)
			}
		})
		runtime.KeepAlive(links)
	}
}
