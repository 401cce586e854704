package graph

import (
	"cmp"
	"slices"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/forest"
	"github.com/keytree-bch/keytree/protocol"
)

// state is what is held in memory: which key stands where now, and what became
// of each action. It is a function of the actions and effects in the store, and
// kept equal to them by every step, so that applying a block reads nothing.
//
// Keys and actions go by numbers, none standing for no key or no action. Actions
// are numbered in order of position, keys in the order in which they are first
// mentioned; so the numbers are the same in every graph of the same chain.
//
// Owned by Graph.mu: reads need it held for reading, changes for writing.
type state struct {
	keys    numbering[protocol.KeyHash]
	places  []keyPlace     // by key
	forest  *forest.Forest // by key
	txids   numbering[chainhash.Hash]
	actions []actionFate // by action
	blocks  []blockSpan  // those that have actions, in order

	names   map[int32]name // of identities that merged, by the action that names them
	waiting map[protocol.Reference][]int32
	// references are those of the actions in waiting, as pushed.
	references map[int32]protocol.Reference

	batons map[chainhash.Hash]baton // by the txid whose output 0 they are
}

func newState() *state {
	return &state{
		keys: newNumbering[protocol.KeyHash](), txids: newNumbering[chainhash.Hash](), forest: forest.New(),
		names: make(map[int32]name), waiting: make(map[protocol.Reference][]int32), references: make(map[int32]protocol.Reference),
		batons: make(map[chainhash.Hash]baton),
	}
}

// keyPlace is where a key stands now. Its parent is in the forest.
type keyPlace struct {
	accept int32 // MLA of the link to its parent
	id     int32 // action that names the identity of which it is the root

	// Children stand in the order in which they were linked.
	first, last    int32 // of its children
	next, previous int32 // of its parent's children

	// moved is a height from which on its parent, first child and next sibling have
	// been as they are.
	moved uint32

	mention  int32  // last action by or about it (mentions)
	mentions uint32 // how many there are
}

// actionFate is what an action is about and what has become of it.
type actionFate struct {
	kind    protocol.Kind
	reason  Reason // why it was refused
	index   uint32 // of its tx in the block
	author  int32
	parent  int32  // once it is known; so is the next
	child   int32  //
	decided uint32 // height at which it was decided; never while it waits
	ended   int32  // MLR: the MLA that used it; MLA: the MCR that cut its link
}

// refused reports whether the action was decided against.
func (a *actionFate) refused() bool { return a.reason != NoReason }

// blockSpan is a block and its first action.
type blockSpan struct {
	height uint32
	first  int32
}

// heightOf returns the height of the block that an action is in.
func (s *state) heightOf(action int32) uint32 { return s.blocks[s.spanOf(action)].height }

// heightOfTx returns the height of the block that an action is in, by its txid; ok
// is false if it is not on the chain.
func (s *state) heightOfTx(txid chainhash.Hash) (height uint32, ok bool) {
	n := s.txids.find(txid)
	if n == none {
		return 0, false
	}
	return s.heightOf(n), true
}

// spanOf returns which of s.blocks an action is in.
func (s *state) spanOf(action int32) int {
	i, exact := slices.BinarySearchFunc(s.blocks, action, func(b blockSpan, action int32) int { return cmp.Compare(b.first, action) })
	if !exact {
		i--
	}
	return i
}

// firstAfter returns the number of the first action after a position.
func (s *state) firstAfter(p position) int32 {
	block, exact := slices.BinarySearchFunc(s.blocks, p.height, func(b blockSpan, height uint32) int { return cmp.Compare(b.height, height) })
	if !exact {
		return s.firstOf(block)
	}
	from := s.blocks[block].first
	n, exact := slices.BinarySearchFunc(s.actions[from:s.firstOf(block+1)], p.index, func(a actionFate, index uint32) int { return cmp.Compare(a.index, index) })
	if exact {
		n++
	}
	return from + int32(n)
}

// firstOf returns the number of the first action of s.blocks[block], or the
// next number if there is no such block.
func (s *state) firstOf(block int) int32 {
	if block < len(s.blocks) {
		return s.blocks[block].first
	}
	return s.txids.len()
}

// keyNumber returns the number of a key that is mentioned.
func (s *state) keyNumber(hash protocol.KeyHash) int32 {
	n := s.keys.add(hash)
	if int(n) == len(s.places) {
		s.places = append(s.places, keyPlace{accept: none, id: none, first: none, last: none, next: none, previous: none, mention: none})
	}
	return n
}

// find returns the action that a reference means, none if none is confirmed.
func (s *state) find(ref protocol.Reference) int32 {
	for _, txid := range ref.TxIDs() {
		if n := s.txids.find(txid); n != none {
			return n
		}
	}
	return none
}

// add adds a confirmed action, undecided.
func (s *state) add(a *storedAction) int32 {
	n := s.txids.add(a.txid)
	fate := actionFate{kind: a.kind, index: a.index, author: none, parent: none, child: none, decided: never, ended: none}
	if a.hasAuthor {
		fate.author = s.keyNumber(a.author)
	}
	if a.kind == protocol.MLR && !a.malformed {
		fate.parent, fate.child = s.keyNumber(a.parent), fate.author
	}
	s.actions = append(s.actions, fate)
	return n
}

// mentions lists the keys that an action is by and about, once each, as far as
// that was known when its own block had been applied. What comes out later is
// listed apart (prefixLate).
func (s *state) mentions(action int32, height uint32) (keys [3]int32, n int) {
	a := &s.actions[action]
	about := [3]int32{a.author, none, none}
	if a.kind == protocol.MLR || a.decided == height {
		about[1], about[2] = a.parent, a.child
	}
	for _, key := range about {
		if key != none && !slices.Contains(keys[:n], key) {
			keys[n] = key
			n++
		}
	}
	return keys, n
}

// attach notes what an action's reference turned out to mean. One that refers to
// the wrong kind concerns nobody.
func (s *state) attach(action, target int32) {
	a, t := &s.actions[action], &s.actions[target]
	if t.kind == a.kind-1 {
		a.parent, a.child = t.parent, t.child
	}
}

// wait lets an action wait for what it refers to.
func (s *state) wait(action int32, ref protocol.Reference) {
	canonical := ref.Canonical()
	waiters := append(slices.Clone(s.waiting[canonical]), action)
	slices.Sort(waiters)
	s.waiting[canonical] = waiters
	s.references[action] = ref
}

// unwait ends an action's waiting, if it does.
func (s *state) unwait(action int32) {
	ref, ok := s.references[action]
	if !ok {
		return
	}
	delete(s.references, action)
	canonical := ref.Canonical()
	left := slices.DeleteFunc(slices.Clone(s.waiting[canonical]), func(n int32) bool { return n == action })
	if len(left) == 0 {
		delete(s.waiting, canonical)
		return
	}
	s.waiting[canonical] = left
}

// addChild makes child the last of parent's children, at a height, and returns the key whose
// record says so: the sibling before it, else the parent.
func (s *state) addChild(child, parent int32, height uint32) (changed int32) {
	defer func() { s.places[child].moved, s.places[changed].moved = height, height }()
	p := &s.places[parent]
	before := p.last
	s.places[child].previous, p.last = before, child
	if before == none {
		p.first = child
		return parent
	}
	s.places[before].next = child
	return before
}

// removeChild is the reverse of addChild, for any of parent's children.
func (s *state) removeChild(child, parent int32, height uint32) (changed int32) {
	defer func() { s.places[child].moved, s.places[changed].moved = height, height }()
	c, p := &s.places[child], &s.places[parent]
	if c.next == none {
		p.last = c.previous
	} else {
		s.places[c.next].previous = c.previous
	}
	changed = parent
	if c.previous == none {
		p.first = c.next
	} else {
		changed = c.previous
		s.places[changed].next = c.next
	}
	c.next, c.previous = none, none
	return changed
}

// record returns the record of a key as it is now.
func (s *state) record(key int32) keyRecord {
	place := &s.places[key]
	var r keyRecord
	if parent := s.forest.Parent(key); parent != none {
		r.hasParent, r.parent = true, s.keys.values[parent]
		r.accept, r.linked = s.txids.values[place.accept], s.actions[place.accept].decided
	}
	if place.first != none {
		r.hasFirst, r.first = true, s.keys.values[place.first]
	}
	if place.next != none {
		r.hasNext, r.next = true, s.keys.values[place.next]
	}
	if place.id != none {
		r.id = s.txids.values[place.id]
	}
	return r
}

// name is where a name of an identity stands in its set of names that merged.
type name struct {
	up       int32  // next towards the set's representative; none in the representative
	weight   uint32 // representative: names in the set
	survivor int32  // representative: the identity that holds the tree
}

// merge makes one set of those of two names, of which id survives, and returns
// the names whose records changed.
//
// Names that merged form sets, found by union-find: each name points to another
// of its set, and the set's representative knows the identity that survives. A
// chain of merges, each into the next older identity, would otherwise make the
// first name as slow to resolve as an attacker likes. The smaller set goes under
// the larger, so a name is found in O(log n) steps; pointers are versioned and
// never moved, so that holds as of any height.
func (s *state) merge(merged, id int32) (changed [2]int32) {
	small, large := s.representative(merged), s.representative(id)
	a, b := s.nameOf(small), s.nameOf(large)
	if a.weight > b.weight {
		small, large = large, small
	}
	s.names[small] = name{up: large, survivor: none}
	s.names[large] = name{up: none, weight: a.weight + b.weight, survivor: id}
	return [2]int32{small, large}
}

func (s *state) nameOf(id int32) name {
	if n, ok := s.names[id]; ok {
		return n
	}
	return name{up: none, weight: 1, survivor: id}
}

func (s *state) representative(id int32) int32 {
	for {
		n := s.nameOf(id)
		if n.up == none {
			return id
		}
		id = n.up
	}
}

// nameRecord returns the record of a name as it is now.
func (s *state) nameRecord(id int32) nameRecord {
	n := s.nameOf(id)
	r := nameRecord{weight: n.weight}
	if n.up != none {
		r.up = s.txids.values[n.up]
	} else {
		r.survivor = s.txids.values[n.survivor]
	}
	return r
}
