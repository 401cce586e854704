package forest

import (
	"cmp"
	"slices"
)

// Watch finds those keys of branches that somebody watches, in time that grows with their number, and not with
// the branches. It counts the watched keys below each node of the tours.
//
// It is beside the forest, of one version at a time, and follows to another one by what the two do not share: so watching
// costs the forest, and those who read it, nothing. It belongs to one goroutine. It takes a bit for each key of
// the forest, and 4 bytes for each node.
type Watch struct {
	forest *Forest
	keys   []uint64 // a bit for each key, by number: whether it is watched
	under  []int32  // by node: watched keys in the leaves under it; 0 if it is free
}

// NewWatch returns a Watch of a version, without watched keys.
func NewWatch(f *Forest) *Watch { return &Watch{forest: f} }

// Watches tells whether a key is watched.
func (w *Watch) Watches(n int32) bool {
	return int(n/64) < len(w.keys) && w.keys[n/64]>>(n%64)&1 != 0
}

// Add lets a key be watched that is not.
func (w *Watch) Add(n int32) {
	for int(n/64) >= len(w.keys) {
		w.keys = append(w.keys, 0)
	}
	w.keys[n/64] |= 1 << (n % 64)
	w.count(n, 1)
}

// Remove lets a key that is watched be watched no more.
func (w *Watch) Remove(n int32) {
	w.keys[n/64] &^= 1 << (n % 64)
	w.count(n, -1)
}

// count adds to the counts of all nodes above a key.
func (w *Watch) count(n, more int32) {
	w.fit()
	for x := w.forest.places.At(n).leaf; x >= 0; x = w.forest.node(x).up {
		w.under[x] += more
	}
}

// fit makes room for the nodes of the forest.
func (w *Watch) fit() {
	if n := int(w.forest.nodes.Len()); n > len(w.under) {
		w.under = append(w.under, make([]int32, n-len(w.under))...)
	}
}

// interval is a branch in its tour.
type interval struct{ top, first, end int32 } // the tour's top node; the numbers of the branch's keys in it

// Below returns the watched keys in the branches of some different keys, each once, whichever of them are below each other. They are
// in the order of the tours, so that who looks at each finds nearly the same nodes as for the one before.
func (w *Watch) Below(keys []int32) (watched []int32) {
	w.fit()
	branches := make([]interval, 0, len(keys))
	for _, n := range keys {
		if x := w.forest.places.At(n).leaf; x != None {
			if top := w.forest.top(x); w.under[top] > 0 {
				branches = append(branches, w.forest.branch(top, n))
			}
		} else if w.Watches(n) { // a lone key
			watched = append(watched, n)
		}
	}
	slices.SortFunc(branches, func(a, b interval) int {
		return cmp.Or(cmp.Compare(a.top, b.top), cmp.Compare(a.first, b.first))
	})
	last := interval{top: None}
	for _, b := range branches {
		if b.top == last.top && b.first < last.end {
			continue // below the one before
		}
		last = b
		watched = w.within(watched, b.top, b.first, b.end)
	}
	return watched
}

// within appends the watched keys of numbers from first to end-1 in the tour under x.
func (w *Watch) within(watched []int32, x, first, end int32) []int32 {
	f := w.forest
	leaf := f.node(x).level == 0
	at := int32(0) // of the tour
	for _, e := range f.entries(x) {
		if at >= end {
			break
		}
		count := int32(1)
		if !leaf {
			count = f.node(e.ref).count
		}
		switch {
		case at+count <= first:
		case leaf:
			if w.Watches(e.ref) {
				watched = append(watched, e.ref)
			}
		case w.under[e.ref] > 0:
			watched = w.within(watched, e.ref, first-at, end-at)
		}
		at += count
	}
	return watched
}

// branch returns the branch of a key in the tour of a top node.
func (f *Forest) branch(top, n int32) interval {
	x := f.places.At(n).leaf
	i := f.slot(x, n)
	b := interval{top: top, first: f.rank(x, i)}
	if y, j := f.branchEnd(x, i); y != None {
		b.end = f.rank(y, j)
	} else {
		b.end = f.node(top).count
	}
	return b
}

// rank returns how many keys of the tour come before entry i of leaf x.
func (f *Forest) rank(x int32, i int) int32 {
	rank := int32(i)
	for f.node(x).up >= 0 {
		p := f.node(x).up
		for _, e := range f.entries(p) {
			if e.ref == x {
				break
			}
			rank += f.node(e.ref).count
		}
		x = p
	}
	return rank
}

// Follow makes it a Watch of another version of the forest, older or younger. It takes time in proportion to what the two
// do not share.
func (w *Watch) Follow(next *Forest) {
	old := w.forest
	w.forest = next
	w.fit()
	var d dirty
	for x := range next.nodes.Since(&old.nodes) {
		d.add(next, x) // one that lists other nodes than before was edited
		if x < old.nodes.Len() && old.node(x).inner() && !next.node(x).inner() {
			w.under[x] = 0
		}
	}
	for n := range next.places.Since(&old.places) {
		if !w.Watches(n) {
			continue
		}
		was, is := old.places.At(n).leaf, next.places.At(n).leaf
		if was == is {
			continue
		}
		if was != None {
			w.under[was]--
			d.above(next, was)
		}
		if is != None {
			w.under[is]++
			d.above(next, is)
		}
	}
	clear(w.under[next.nodes.Len():])
	for level := 0; level < len(d); level++ { // counts that change make those above them wrong
		slices.Sort(d[level])
		for _, x := range slices.Compact(d[level]) {
			sum := int32(0)
			for _, e := range next.entries(x) {
				sum += w.under[e.ref]
			}
			if sum != w.under[x] {
				w.under[x] = sum
				d.above(next, x)
			}
		}
	}
}

// inner tells whether it is an inner node, and not a leaf, or free.
func (h *node) inner() bool { return h.len > 0 && h.level > 0 }

// dirty are inner nodes whose counts may be wrong, by their levels.
type dirty [][]int32

// add adds a node if there is an inner one of that number.
func (d *dirty) add(f *Forest, x int32) {
	if x < 0 || x >= f.nodes.Len() || !f.node(x).inner() {
		return
	}
	level := int(f.node(x).level)
	for level >= len(*d) {
		*d = append(*d, nil)
	}
	(*d)[level] = append((*d)[level], x)
}

// above adds the node above one.
func (d *dirty) above(f *Forest, x int32) {
	if x < f.nodes.Len() {
		d.add(f, f.node(x).up)
	}
}
