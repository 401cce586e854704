package graph

import (
	"math/rand/v2"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
)

// forest is the links in force: rooted trees of keys that answer root, depth,
// size and sameness of trees in O(log n) for n keys in a tree, on every shape,
// and are linked and cut in O(log n).
//
// Each tree is its Euler tour, one opening and one closing bracket per key, in
// a treap. The depth of a key is the balance of the brackets before its own;
// its branch is what stands between its two brackets, so linking and cutting
// move one interval. Link-cut trees have the same bounds, but their reads
// restructure the tree, so that readers would exclude each other; here reads
// change nothing and many run at once.
//
// Priorities are random per process, not derived from keys: whoever pays for
// keys cannot choose a bad shape.
//
// Owned by Graph.mu: reads need it held for reading, changes for writing.
type forest struct {
	index  map[protocol.KeyHash]int32 // key to its number
	keys   []protocol.KeyHash         // by number
	parent []int32                    // by number; none for a root
	accept []chainhash.Hash           // by number: the MLA of the link to parent
	nodes  []bracket                  // 2n opens key n, 2n+1 closes it
	rand   *rand.Rand
}

// none stands for "no key" and "no bracket".
const none int32 = -1

// bracket is a node of a treap over a tour. Links are indexes into nodes.
type bracket struct {
	up, left, right int32
	priority        uint32
	count           int32 // brackets in this subtree of the treap
	balance         int32 // opening minus closing brackets in it
}

func newForest() *forest {
	return &forest{
		index: make(map[protocol.KeyHash]int32),
		rand:  rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())),
	}
}

func opening(n int32) int32 { return 2 * n }
func closing(n int32) int32 { return 2*n + 1 }

// find returns the number of key, or none if it was never in a link.
func (f *forest) find(key protocol.KeyHash) int32 {
	if n, ok := f.index[key]; ok {
		return n
	}
	return none
}

// add returns the number of key, which becomes a tree of its own if it is new.
func (f *forest) add(key protocol.KeyHash) int32 {
	if n, ok := f.index[key]; ok {
		return n
	}
	n := f.addDetached(key)
	f.join(opening(n), closing(n))
	return n
}

// addDetached registers key without a tour; the caller builds one.
func (f *forest) addDetached(key protocol.KeyHash) int32 {
	n := int32(len(f.keys))
	f.index[key] = n
	f.keys = append(f.keys, key)
	f.parent = append(f.parent, none)
	f.accept = append(f.accept, chainhash.Hash{})
	f.nodes = append(f.nodes,
		bracket{up: none, left: none, right: none, priority: f.rand.Uint32(), count: 1, balance: 1},
		bracket{up: none, left: none, right: none, priority: f.rand.Uint32(), count: 1, balance: -1})
	return n
}

// root returns the root of n's tree.
func (f *forest) root(n int32) int32 {
	x := f.top(opening(n))
	for f.nodes[x].left != none {
		x = f.nodes[x].left
	}
	return x / 2
}

// depth returns the number of links between n and its root.
func (f *forest) depth(n int32) int32 {
	_, balance := f.before(opening(n))
	return balance
}

// size returns the number of keys in n's tree.
func (f *forest) size(n int32) int32 {
	return f.nodes[f.top(opening(n))].count / 2
}

// link makes child, which must be the root of another tree than parent's, a
// child of parent by the MLA accept.
func (f *forest) link(child, parent int32, accept chainhash.Hash) {
	branch := f.top(opening(child))
	at, _ := f.before(opening(parent))
	left, right := f.split(f.top(opening(parent)), at+1)
	f.join(f.join(left, branch), right)
	f.parent[child], f.accept[child] = parent, accept
}

// cut takes child, which must have a parent, out of its tree with its branch.
func (f *forest) cut(child int32) {
	whole := f.top(opening(child))
	from, _ := f.before(opening(child))
	to, _ := f.before(closing(child))
	left, rest := f.split(whole, from)
	_, right := f.split(rest, to-from+1)
	f.join(left, right)
	f.parent[child], f.accept[child] = none, chainhash.Hash{}
}

// top returns the root of the treap that holds x.
func (f *forest) top(x int32) int32 {
	for f.nodes[x].up != none {
		x = f.nodes[x].up
	}
	return x
}

// before returns how many brackets stand before x in its tour, and their
// balance.
func (f *forest) before(x int32) (count, balance int32) {
	if l := f.nodes[x].left; l != none {
		count, balance = f.nodes[l].count, f.nodes[l].balance
	}
	for up := f.nodes[x].up; up != none; x, up = up, f.nodes[up].up {
		if f.nodes[up].right != x {
			continue
		}
		count, balance = count+1, balance+sign(up)
		if l := f.nodes[up].left; l != none {
			count, balance = count+f.nodes[l].count, balance+f.nodes[l].balance
		}
	}
	return count, balance
}

// sign is the balance of bracket x alone.
func sign(x int32) int32 { return 1 - 2*(x&1) }

// update recomputes the sums of x from its children, and their up links.
func (f *forest) update(x int32) {
	b := &f.nodes[x]
	b.count, b.balance = 1, sign(x)
	for _, c := range [2]int32{b.left, b.right} {
		if c != none {
			b.count += f.nodes[c].count
			b.balance += f.nodes[c].balance
			f.nodes[c].up = x
		}
	}
}

// join concatenates two tours given by the tops of their treaps, either of
// which may be none, and returns the top of the result.
func (f *forest) join(a, b int32) int32 {
	switch {
	case a == none:
		return b
	case b == none:
		return a
	case f.nodes[a].priority > f.nodes[b].priority:
		f.nodes[a].right = f.join(f.nodes[a].right, b)
		f.update(a)
		return a
	default:
		f.nodes[b].left = f.join(a, f.nodes[b].left)
		f.update(b)
		return b
	}
}

// split cuts the tour under x, the top of its treap or none, after its first n
// brackets.
func (f *forest) split(x, n int32) (left, right int32) {
	if x == none {
		return none, none
	}
	f.nodes[x].up = none
	before := int32(0)
	if l := f.nodes[x].left; l != none {
		before = f.nodes[l].count
	}
	if before < n {
		f.nodes[x].right, right = f.split(f.nodes[x].right, n-before-1)
		f.update(x)
		left = x
	} else {
		left, f.nodes[x].left = f.split(f.nodes[x].left, n)
		f.update(x)
		right = x
	}
	return left, right
}

// rooted reports whether every key reaches a root by its parents: there is no
// cycle.
func (f *forest) rooted() bool {
	const unseen, onPath, good = 0, 1, 2
	mark := make([]byte, len(f.keys))
	for n := range int32(len(f.keys)) {
		at := n
		for at != none && mark[at] == unseen {
			mark[at] = onPath
			at = f.parent[at]
		}
		if at != none && mark[at] == onPath {
			return false
		}
		for at = n; at != none && mark[at] == onPath; at = f.parent[at] {
			mark[at] = good
		}
	}
	return true
}

// build makes the tours of all keys from their parents, in time linear in their
// number. Every key must have been registered by addDetached, and the parents,
// set by the caller, must have no cycle.
func (f *forest) build() {
	children := make([]int32, len(f.keys)) // first child, then siblings
	sibling := make([]int32, len(f.keys))
	for n := range f.keys {
		children[n] = none
	}
	for n := len(f.keys) - 1; n >= 0; n-- {
		if p := f.parent[n]; p != none {
			sibling[n], children[p] = children[p], int32(n)
		}
	}
	var b tourBuilder
	for n := range int32(len(f.keys)) {
		if f.parent[n] != none {
			continue
		}
		b.spine = b.spine[:0]
		for at := n; ; {
			b.push(f, opening(at))
			if c := children[at]; c != none {
				at = c
				continue
			}
			b.push(f, closing(at))
			for at != n && sibling[at] == none {
				at = f.parent[at]
				b.push(f, closing(at))
			}
			if at == n {
				break
			}
			at = sibling[at]
		}
		b.finish(f)
	}
}

// tourBuilder makes a treap of brackets that arrive in tour order. spine is its
// right edge, top first.
type tourBuilder struct{ spine []int32 }

func (b *tourBuilder) push(f *forest, x int32) {
	last := none
	for len(b.spine) > 0 {
		end := b.spine[len(b.spine)-1]
		if f.nodes[end].priority > f.nodes[x].priority {
			break
		}
		// end's subtree is complete: nothing will be added to its right edge.
		f.update(end)
		last, b.spine = end, b.spine[:len(b.spine)-1]
	}
	f.nodes[x].left = last
	if len(b.spine) > 0 {
		f.nodes[b.spine[len(b.spine)-1]].right = x
	}
	b.spine = append(b.spine, x)
}

func (b *tourBuilder) finish(f *forest) {
	for i := len(b.spine) - 1; i >= 0; i-- {
		f.update(b.spine[i])
	}
}
