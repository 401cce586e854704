// Package forest keeps the links in force in memory: it answers which tree a key
// is in, how deep, and where on its way to the root links are newer than a height, without
// walking. What never belongs here: who may link.
package forest

import "github.com/keytree-bch/keytree/graph/cow"

// Forest is the links in force: rooted trees of keys, by number, that answer
// root, depth, size and sameness of trees in O(log n) for n keys in a tree, on
// every shape, and are linked and cut in O(log n).
//
// Each tree of two keys or more is its Euler tour: its keys in preorder, each
// with its depth, so that a branch is a key and what follows it for as long as
// it is deeper. Linking and cutting move one interval and shift its depths.
// Link-cut trees have the same bounds, but their reads restructure the tree, so
// that readers would exclude each other; here reads change nothing and many run
// at once.
//
// A tour is kept in the leaves of a B+ tree (tour.go). In a binary tree of
// millions of keys every step of every operation is a cache miss; here a read
// goes from the key to its leaf and up a handful of small nodes that stay in the
// cache, and linking or cutting a small branch rewrites one leaf. Nothing depends on
// chance or on the identity of keys: whoever pays for keys cannot choose a bad
// shape. A lone key has no node at all.
//
// A node also has the height of the newest link under it, so that a way up passes over all that has been as it is
// since an older height.
//
// A forest is a version, as package cow has them: Fork makes the next one, and the
// one before stays as it is. Reads may run concurrently with each other, changes of
// a version with nothing else.
type Forest struct {
	places cow.Array[place] // by number
	nodes  cow.Array[node]  // leaves and inner nodes of all tours
	unused int32            // first of the free nodes, which are linked by up; or None
	blocks blocks           // the entries of nodes
	width  int              // most entries in a node, at most maxWidth
	drift  int32            // farthest that the least entry of a node may be from zero
}

// place is where a key is. What a question asks of a key stands together, since in a forest of
// millions of keys the first look at each is a cache miss, or some. It repeats the low of the key's
// entry, so that reads do not touch entries.
type place struct {
	parent int32 // None for a root
	leaf   int32 // the leaf that lists the key; None for a lone key
	low    int32 // of its entry; 0 for a lone key
}

// list notes which leaf lists the key, None for a lone one, and the low of its entry.
func (p *place) list(leaf, low int32) { p.leaf, p.low = leaf, low }

// None stands for no key, where a number is expected.
const None = cow.None

// New returns a forest without keys.
func New() *Forest { return newOf(maxWidth, 1<<28) }

// newOf is for tests, which reach many levels and large drifts with few
// keys. width is at least 4.
func newOf(width int, drift int32) *Forest {
	return &Forest{unused: None, blocks: newBlocks(), width: width, drift: drift}
}

// Fork returns a new version, which is as f is now. f must not be changed any more.
func (f *Forest) Fork() *Forest {
	return &Forest{
		places: f.places.Fork(), nodes: f.nodes.Fork(), unused: f.unused,
		blocks: f.blocks.fork(), width: f.width, drift: f.drift,
	}
}

// Len returns the number of keys.
func (f *Forest) Len() int32 { return f.places.Len() }

// Add makes a lone key and returns its number, which is the former len.
func (f *Forest) Add() int32 {
	f.places.Append(place{parent: None, leaf: None})
	return f.Len() - 1
}

// Drop forgets the key with the highest number, which must be a lone one.
func (f *Forest) Drop() {
	f.places.Truncate(f.Len() - 1)
}

// Parent returns the parent of n, or None for a root.
func (f *Forest) Parent(n int32) int32 { return f.places.Ref(n).parent }

// Root returns the root of n's tree.
func (f *Forest) Root(n int32) int32 {
	x := f.places.At(n).leaf
	if x == None {
		return n
	}
	return ^f.node(f.top(x)).up
}

// Depth returns the number of links between n and its root.
func (f *Forest) Depth(n int32) int32 {
	at := f.places.At(n)
	depth := at.low
	for x := at.leaf; x >= 0; x = f.node(x).up {
		depth += f.node(x).base
	}
	return depth
}

// Newer returns the nearest key to n, itself first, then upwards, that is linked to its parent
// since a later height than the given one, and None if there is none, the root being reached; all
// keys before it have been below their parents at that height as they are now. visited is how many
// nodes of the tour it has looked at; it gives up once these are more than most: ok is false then.
//
// It looks at the nodes that hold a key above n, and a newer link: few, unless newer links have
// come in at many places beside the path.
func (f *Forest) Newer(n int32, height uint32, most int) (key int32, visited int, ok bool) {
	x := f.places.At(n).leaf
	if x == None {
		return None, 0, true
	}
	s := search{f: f, height: height, left: most}
	end := f.slot(x, n) + 1
	above := f.entries(x)[end-1].low + 1 // n is the first that is less deep
	for key = None; ; {
		key, above = s.before(x, end, above)
		if key != None || s.left < 0 || f.node(x).up < 0 {
			return key, most - s.left, s.left >= 0
		}
		above += f.node(x).base
		x, end = f.above(x)
	}
}

// search looks for a newer link than a height.
type search struct {
	f      *Forest
	height uint32
	left   int // nodes that it may still look at; negative once it has given up
}

// before goes through the entries of x before the one at end, from the last to the first, and
// returns the first key that is less deep than above and than all that have come before it, and is linked
// since a later height; None if there is none. least is how deep the least deep of
// all was, or above.
func (s *search) before(x int32, end int, above int32) (key, least int32) {
	if s.left--; s.left < 0 {
		return None, above
	}
	leaf, all := s.f.node(x).level == 0, s.f.entries(x)
	for i := end - 1; i >= 0; i-- {
		e := &all[i]
		if e.low >= above {
			continue
		}
		if e.newest > s.height {
			if leaf {
				return e.ref, e.low
			}
			under := s.f.node(e.ref)
			if key, _ := s.before(e.ref, int(under.len), above-under.base); key != None || s.left < 0 {
				return key, e.low
			}
		}
		above = e.low
	}
	return None, above
}

// Size returns the number of keys in n's tree.
func (f *Forest) Size(n int32) int32 {
	x := f.places.At(n).leaf
	if x == None {
		return 1
	}
	return f.node(f.top(x)).count
}

// Link makes child, which must be the root of another tree than parent's, a
// child of parent since a height.
func (f *Forest) Link(child, parent int32, since uint32) {
	depth := f.Depth(parent)
	branch := f.plant(child)
	f.Date(child, since)
	x := f.plant(parent)
	f.places.Edit(child).parent = parent
	i := f.slot(x, parent)
	if branch = f.top(branch); f.node(branch).level > 0 {
		root := ^f.node(f.top(x)).up
		left, right := f.top(x), None
		if i+1 < int(f.node(x).len) || !f.last(x) {
			left, right = f.split(x, i+1)
		}
		f.edit(branch).up = None
		f.edit(branch).base += depth + 1
		f.settle(f.concat(f.concat(left, branch), right), root)
		return
	}
	// A small branch goes into the leaf of its parent.
	var room [maxWidth]entry
	moved := room[:copy(room[:], f.entries(branch))]
	shift := f.node(branch).base + f.entries(x)[i].low + 1
	for k := range moved {
		moved[k].low += shift
	}
	f.free(branch)
	f.recount(x, int32(len(moved)))
	f.mend(f.insert(x, i+1, moved))
}

// Date says since which height a key is linked to its parent; 0 of a root.
func (f *Forest) Date(n int32, since uint32) {
	x := f.places.At(n).leaf
	if x == None {
		return // a lone key is a root
	}
	f.editEntries(x)[f.slot(x, n)].newest = since
	f.mend(x)
}

// plant returns the leaf of n, which is made if n is a lone key.
func (f *Forest) plant(n int32) int32 {
	if f.places.At(n).leaf == None {
		x := f.newNode(0, 0)
		f.edit(x).up = ^n
		f.fill(x, []entry{{ref: n}})
	}
	return f.places.At(n).leaf
}

// Cut takes child, which must have a parent, out of its tree with its branch.
func (f *Forest) Cut(child int32) {
	f.places.Edit(child).parent = None
	x := f.places.At(child).leaf
	i := f.slot(x, child)
	y, j := f.branchEnd(x, i)
	if x != y {
		root, depth := ^f.node(f.top(x)).up, f.Depth(child)
		right := None
		if y != None {
			_, right = f.split(y, j)
		}
		x = f.places.At(child).leaf
		left, branch := f.split(x, f.slot(x, child))
		f.edit(branch).base -= depth
		f.settle(branch, child)
		f.Date(child, 0)
		f.settle(f.concat(left, right), root)
		return
	}
	var room [maxWidth]entry
	all := f.entries(x)
	moved := room[:copy(room[:], all[i:j])]
	f.recount(x, -int32(len(moved)))
	f.remove(x, i, j)
	if root := ^f.node(x).up; root >= 0 {
		f.settle(x, root)
	} else {
		f.mend(x)
	}
	x = f.newNode(0, -moved[0].low)
	moved[0].newest = 0
	f.fill(x, moved)
	f.settle(x, child)
}
