package forest

// node is a leaf, of keys, or an inner node, of nodes, of the B+ tree of a tour.
// All nodes but the top one have at least forest.least entries. Depths are
// relative: the depth of a key is its entry's low plus the bases of all nodes
// from its leaf to the top.
type node struct {
	up    int32 // the inner node above; of a top node ^root, root being the first key
	base  int32
	count int32 // keys in the leaves under it
	at    int32 // its block
	class uint8 // of its block
	level uint8 // 0 for a leaf
	len   uint8 // of its entries
}

// entry is a key in a leaf, or a node in an inner node.
type entry struct {
	ref    int32
	low    int32  // its depth, or the least depth under it, before the base of the node that holds the entry
	newest uint32 // height of its link, or the greatest under it; 0 of a root
}

// least returns how many entries a node under another one has at least.
func (f *Forest) least() int { return max(2, f.width/4) }

// node returns a node for reading (cow.Array.Ref).
func (f *Forest) node(x int32) *node { return f.nodes.Ref(x) }

// edit returns a node for changing it.
func (f *Forest) edit(x int32) *node { return f.nodes.Edit(x) }

// entries returns the entries of x for reading. They do not follow later changes.
func (f *Forest) entries(x int32) []entry {
	h := f.node(x)
	return f.blocks.entries(h.at, int(h.len))
}

// editEntries returns the entries of x for changing them.
func (f *Forest) editEntries(x int32) []entry {
	h := f.node(x)
	return f.blocks.edit(h.at, int(h.len))
}

// slot returns where the entry of ref is in x, which has one.
func (f *Forest) slot(x, ref int32) int {
	all := f.entries(x)
	for i := range all {
		if all[i].ref == ref {
			return i
		}
	}
	panic("forest: the tours are damaged: a node does not list what it holds")
}

// top returns the top of the tree that x is in.
func (f *Forest) top(x int32) int32 {
	for f.node(x).up >= 0 {
		x = f.node(x).up
	}
	return x
}

// last reports whether x is the last node of its level.
func (f *Forest) last(x int32) bool {
	for ; f.node(x).up >= 0; x = f.node(x).up {
		if all := f.entries(f.node(x).up); all[len(all)-1].ref != x {
			return false
		}
	}
	return true
}

// low returns the least depth under x, before the bases of the nodes above x.
// Moving branches up and down lets bases and lows drift apart; low keeps them so
// near to zero that sums cannot overflow.
func (f *Forest) low(x int32) int32 {
	all := f.entries(x)
	low := all[0].low
	for i := range all {
		low = min(low, all[i].low)
	}
	if low > f.drift || low < -f.drift {
		f.edit(x).base += low
		all = f.editEntries(x)
		for i := range all {
			all[i].low -= low
			if f.node(x).level > 0 {
				f.edit(all[i].ref).base -= low
			} else {
				f.places.Edit(all[i].ref).low -= low
			}
		}
		low = 0
	}
	return f.node(x).base + low
}

// entry returns the entry of x in the node above it.
func (f *Forest) entry(x int32) entry {
	e := entry{ref: x, low: f.low(x)}
	for _, under := range f.entries(x) {
		e.newest = max(e.newest, under.newest)
	}
	return e
}

// newNode returns a node without entries that is the top of a tree.
func (f *Forest) newNode(level uint8, base int32) int32 {
	x := f.unused
	if x == None {
		x = f.nodes.Len()
		f.nodes.Append(node{})
	} else {
		f.unused = f.node(x).up
	}
	*f.edit(x) = node{up: None, base: base, level: level, at: None}
	return x
}

// free takes back x, whose entries have gone elsewhere.
func (f *Forest) free(x int32) {
	h := f.edit(x)
	f.blocks.free(h.at)
	h.up, h.len = f.unused, 0
	f.unused = x
}

// resize makes room for n entries in x, of which as many as fit remain.
func (f *Forest) resize(x int32, n int) []entry {
	h := f.edit(x)
	if class := classOf(n); h.at == None {
		h.class, h.at = class, f.blocks.alloc(class)
	} else if held := classes[h.class]; n > held || 2*classes[class] <= held {
		at := f.blocks.alloc(class)
		copy(f.blocks.edit(at, n), f.entries(x))
		f.blocks.free(h.at)
		h.class, h.at = class, at
	}
	h.len = uint8(n)
	return f.editEntries(x)
}

// own makes x the holder of entries, and returns the keys under them.
func (f *Forest) own(x int32, moved []entry) int32 {
	if f.node(x).level == 0 {
		for i := range moved {
			f.places.Edit(moved[i].ref).list(x, moved[i].low)
		}
		return int32(len(moved))
	}
	count := int32(0)
	for i := range moved {
		h := f.edit(moved[i].ref)
		h.up = x
		count += h.count
	}
	return count
}

// fill gives a new node its entries.
func (f *Forest) fill(x int32, all []entry) {
	copy(f.resize(x, len(all)), all)
	f.edit(x).count = f.own(x, all)
}

// remove takes the entries from i to j-1 out of x.
func (f *Forest) remove(x int32, i, j int) {
	all := f.editEntries(x)
	copy(all[i:], all[j:])
	f.resize(x, len(all)-(j-i))
}

// recount adds keys to the counts of x and all nodes above it.
func (f *Forest) recount(x, keys int32) {
	for ; x >= 0; x = f.node(x).up {
		f.edit(x).count += keys
	}
}

// insert puts at most width entries, which are relative to x and counted in x
// already, before entry i of x. Full nodes are divided. It returns the highest
// node that has got an entry.
func (f *Forest) insert(x int32, i int, moved []entry) int32 {
	n := int(f.node(x).len)
	if n+len(moved) > f.width {
		return f.overflow(x, i, moved)
	}
	all := f.resize(x, n+len(moved))
	copy(all[i+len(moved):], all[i:n])
	copy(all[i:], moved)
	f.own(x, moved)
	return x
}

// overflow is insert for a node that cannot hold all: half of them go to a new
// node behind it. It recurs at most once per level.
func (f *Forest) overflow(x int32, i int, moved []entry) int32 {
	var room [2 * maxWidth]entry
	all := append(room[:0], f.entries(x)[:i]...)
	all = append(all, moved...)
	all = append(all, f.entries(x)[i:]...)
	keep := len(all) / 2
	y := f.newNode(f.node(x).level, f.node(x).base)
	f.fill(y, all[keep:])
	copy(f.resize(x, keep), all)
	if i < keep {
		f.own(x, all[i:min(keep, i+len(moved))])
	}
	f.edit(x).count -= f.node(y).count
	p, s := f.above(x)
	if p < 0 {
		return f.cover(x, y)
	}
	e := f.entry(x)
	f.editEntries(p)[s] = e
	return f.insert(p, s+1, []entry{f.entry(y)})
}

// cover returns a new top over a, which was one, and its right neighbour b.
func (f *Forest) cover(a, b int32) int32 {
	root := f.node(a).up
	t := f.newNode(f.node(a).level+1, 0)
	f.edit(t).up = root
	f.fill(t, []entry{f.entry(a), f.entry(b)})
	return t
}

// shift moves entries between neighbours under the same node: the first k of b
// to the end of a, or, if k is negative, the last -k of a to the start of b.
func (f *Forest) shift(a, b int32, k int) {
	from, to := b, a
	if k < 0 {
		from, to = a, b
	}
	delta := f.node(from).base - f.node(to).base
	old, n := f.editEntries(from), int(f.node(to).len)
	var moved []entry
	if k > 0 {
		moved = f.resize(to, n+k)[n:]
		copy(moved, old)
		copy(old, old[k:])
		k = len(old) - k
	} else {
		all := f.resize(to, n-k)
		copy(all[-k:], all[:n])
		moved = all[:-k]
		k += len(old)
		copy(moved, old[k:])
	}
	f.resize(from, k)
	if delta != 0 {
		for i := range moved {
			moved[i].low += delta
			if f.node(to).level > 0 {
				f.edit(moved[i].ref).base += delta
			}
		}
	}
	count := f.own(to, moved)
	f.edit(from).count -= count
	f.edit(to).count += count
}

// even makes one node of the neighbours a and b, if it can hold their entries,
// and otherwise gives both as many. It returns what is left of them, b being None
// if there is one.
func (f *Forest) even(a, b int32) (int32, int32) {
	n, m := int(f.node(a).len), int(f.node(b).len)
	switch {
	case n+m > f.width:
		f.shift(a, b, (m-n)/2)
		return a, b
	case n < m:
		f.shift(a, b, -n)
		f.free(a)
		return b, None
	default:
		f.shift(a, b, m)
		f.free(b)
		return a, None
	}
}

// mend restores the entries of the nodes above x, and the least lengths, after x has got
// other entries or lost some.
func (f *Forest) mend(x int32) {
	for f.node(x).up >= 0 {
		p := f.node(x).up
		all, s := f.entries(p), f.slot(p, x)
		if int(f.node(x).len) >= f.least() {
			e := f.entry(x)
			if all[s] == e {
				return
			}
			f.editEntries(p)[s] = e
		} else {
			s = min(s, len(all)-2)
			a, b := f.even(all[s].ref, all[s+1].ref)
			all = f.editEntries(p)
			all[s] = f.entry(a)
			if b != None {
				all[s+1] = f.entry(b)
			} else {
				f.remove(p, s+1, s+2)
			}
		}
		x = p
	}
	f.trim(x)
}

// trim takes away tops of one node, and returns the top that remains.
func (f *Forest) trim(x int32) int32 {
	for f.node(x).level > 0 && f.node(x).len == 1 {
		child := f.entries(x)[0].ref
		f.edit(child).base += f.node(x).base
		f.edit(child).up = f.node(x).up
		f.free(x)
		x = child
	}
	return x
}

// settle makes x, whose up is not valid, the top of the tree of root.
func (f *Forest) settle(x, root int32) {
	if f.node(x).count == 1 {
		f.free(x)
		f.places.Edit(root).list(None, 0)
		return
	}
	f.edit(x).up = ^root
	f.low(x)
}

// concat joins two tours given by their tops, either of which may be None, with
// bases that are relative to the same, and returns the top of the whole.
func (f *Forest) concat(a, b int32) int32 {
	switch {
	case a == None:
		return b
	case b == None:
		return a
	}
	f.edit(a).up, f.edit(b).up = None, None
	if f.node(a).level == f.node(b).level {
		if least := f.least(); min(int(f.node(a).len), int(f.node(b).len)) < least {
			if a, b = f.even(a, b); b == None {
				return a
			}
		}
		return f.cover(a, b)
	}
	// The lower one becomes a child at the edge of the higher one, beside x.
	high, low := a, b
	if f.node(a).level < f.node(b).level {
		high, low = b, a
	}
	x := high
	for f.node(x).level > f.node(low).level {
		f.edit(x).count += f.node(low).count
		f.edit(low).base -= f.node(x).base
		all := f.entries(x)
		if high == a {
			x = all[len(all)-1].ref
		} else {
			x = all[0].ref
		}
	}
	p, s := f.node(x).up, 0
	if high == a {
		s = int(f.node(p).len)
	}
	if int(f.node(low).len) < f.least() {
		left, right := x, low
		if high == b {
			left, right = low, x
		}
		_, right = f.even(left, right)
		e, all := f.entry(x), f.editEntries(p)
		all[min(s, len(all)-1)] = e
		if right == None {
			f.mend(p) // x, the longer one, has taken all
			return f.top(x)
		}
	}
	f.mend(f.insert(p, s, []entry{f.entry(low)}))
	return f.top(x)
}

// split divides the tour of leaf x before entry i of x. Either part may be None.
// The bases of their tops are as that of the former top.
func (f *Forest) split(x int32, i int) (left, right int32) {
	p, s := f.above(x)
	count := f.node(x).count
	left, right = f.divide(x, i)
	for p >= 0 {
		for _, part := range [2]int32{left, right} {
			if part != None {
				f.edit(part).base += f.node(p).base
			}
		}
		up, at := f.above(p)
		total := f.node(p).count
		f.edit(p).count -= count
		f.remove(p, s, s+1)
		l, r := f.divide(p, s)
		left, right = f.concat(l, left), f.concat(right, r)
		p, s, count = up, at, total
	}
	return left, right
}

// above returns the node above x, if there is one, and where x is in it.
func (f *Forest) above(x int32) (up int32, s int) {
	if up = f.node(x).up; up >= 0 {
		s = f.slot(up, x)
	}
	return up, s
}

// divide makes of node x, taken by itself, one top for the entries before i and
// one for the others.
func (f *Forest) divide(x int32, i int) (left, right int32) {
	f.edit(x).up = None
	n := int(f.node(x).len)
	switch {
	case i == 0:
		return None, f.trim(x)
	case i == n:
		return f.trim(x), None
	}
	y := f.newNode(f.node(x).level, f.node(x).base)
	if i < n-i {
		f.shift(y, x, i)
		return f.trim(y), f.trim(x)
	}
	f.shift(x, y, i-n)
	return f.trim(x), f.trim(y)
}

// branchEnd returns the leaf and the entry before which the branch of the key at
// entry i of leaf x ends, or no leaf if it ends with the tour. If it ends with
// leaf x, the place is the end of x.
func (f *Forest) branchEnd(x int32, i int) (int32, int) {
	leaf, all := x, f.entries(x)
	end, low := len(all), all[i].low
	for j := i + 1; j < end; j++ {
		if all[j].low <= low {
			return x, j
		}
	}
	inside := true // nothing after leaf has been passed
	for ; f.node(x).up >= 0; x = f.node(x).up {
		low += f.node(x).base
		p, s := f.above(x)
		all = f.entries(p)
		for s++; s < len(all) && all[s].low > low; s++ {
			inside = false
		}
		if s == len(all) {
			continue
		}
		for {
			x = all[s].ref
			low -= f.node(x).base
			all = f.entries(x)
			for s = 0; all[s].low > low; s++ {
				inside = false
			}
			if f.node(x).level > 0 {
				continue
			}
			if inside {
				return leaf, end
			}
			return x, s
		}
	}
	if inside {
		return leaf, end
	}
	return None, 0
}

// pack returns the top of a new tour of these keys with their depths. Nodes are
// left room for a third more.
func (f *Forest) pack(all []entry) int32 {
	for level := uint8(0); ; level++ {
		groups := 1
		if len(all) > f.width {
			fill := f.width * 3 / 4
			groups = (len(all) + fill - 1) / fill
		}
		rest := all
		for g := range groups {
			x := f.newNode(level, 0)
			n := len(rest) / (groups - g)
			f.fill(x, rest[:n])
			// Entry g of the level above overwrites one that is in a node already.
			rest, all[g] = rest[n:], f.entry(x)
		}
		if all = all[:groups]; groups == 1 {
			return all[0].ref
		}
	}
}
