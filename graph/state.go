package graph

import (
	"slices"
	"sort"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/cow"
	"github.com/keytree-bch/keytree/graph/forest"
	"github.com/keytree-bch/keytree/protocol"
)

// none stands for no key or no action, where a number is expected.
const none = cow.None

// state is what is held in memory: which key stands where now, and what became
// of each action. It is a function of the actions and effects in the store, and
// kept equal to them by every step, so that applying a block reads nothing.
//
// Keys and actions go by numbers, none standing for no key or no action. Actions
// are numbered in order of position, keys in the order in which they are first
// mentioned; so the numbers are the same in every graph of the same chain.
//
// A state is a version, as package cow has them: a step changes a fork, which shares
// with the state before all that it does not change. A state that was published is
// read by anybody and changed by nobody.
type state struct {
	keys      cow.Index[protocol.KeyHash]
	places    cow.Array[keyPlace]    // by key
	mentioned cow.Array[keyMentions] // by key
	forest    *forest.Forest         // by key
	txids     cow.Index[chainhash.Hash]
	actions   cow.Array[actionFate] // by action
	blocks    cow.Array[blockSpan]  // those that have actions, in order

	names   cow.Map[int32, name] // of identities that merged, by the action that names them
	waiting waiting

	batons cow.Map[chainhash.Hash, baton] // by the txid whose output 0 they are
}

func newState() *state {
	return &state{
		keys: cow.NewIndex[protocol.KeyHash](), txids: cow.NewIndex[chainhash.Hash](), forest: forest.New(),
		names: cow.NewMap[int32, name](), waiting: newWaiting(), batons: cow.NewMap[chainhash.Hash, baton](),
	}
}

// fork returns a state that is as s is now, to be changed. s must not be changed any
// more.
func (s *state) fork() *state {
	return &state{
		keys: s.keys.Fork(), places: s.places.Fork(), mentioned: s.mentioned.Fork(), forest: s.forest.Fork(),
		txids: s.txids.Fork(), actions: s.actions.Fork(), blocks: s.blocks.Fork(),
		names: s.names.Fork(), waiting: s.waiting.fork(), batons: s.batons.Fork(),
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
}

// keyMentions is where the actions by and about a key end (state.mentions).
type keyMentions struct {
	last  int32  // action
	count uint32 // how many there are
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
func (s *state) heightOf(action int32) uint32 { return s.blocks.At(s.spanOf(action)).height }

// heightOfTx returns the height of the block that an action is in, by its txid; ok
// is false if it is not on the chain.
func (s *state) heightOfTx(txid chainhash.Hash) (height uint32, ok bool) {
	n := s.txids.Find(txid)
	if n == none {
		return 0, false
	}
	return s.heightOf(n), true
}

// spanOf returns which of s.blocks an action is in.
func (s *state) spanOf(action int32) int32 {
	return search(s.blocks.Len(), func(i int32) bool { return s.blocks.Ref(i).first > action }) - 1
}

// search returns the first number below n of which is holds, as it does of all that
// follow; n if there is none.
func search(n int32, is func(i int32) bool) int32 {
	return int32(sort.Search(int(n), func(i int) bool { return is(int32(i)) }))
}

// firstAfter returns the number of the first action after a position.
func (s *state) firstAfter(p position) int32 {
	block := search(s.blocks.Len(), func(i int32) bool { return s.blocks.Ref(i).height >= p.height })
	from := s.firstOf(block)
	if block == s.blocks.Len() || s.blocks.At(block).height > p.height {
		return from
	}
	return from + search(s.firstOf(block+1)-from, func(i int32) bool { return s.actions.Ref(from+i).index > p.index })
}

// firstOf returns the number of the first action of a block, or the next number if
// there is no such block.
func (s *state) firstOf(block int32) int32 {
	if block < s.blocks.Len() {
		return s.blocks.At(block).first
	}
	return s.txids.Len()
}

// keyNumber returns the number of a key that is mentioned.
func (s *state) keyNumber(hash protocol.KeyHash) int32 {
	n := s.keys.Add(hash)
	if n == s.places.Len() {
		s.places.Append(keyPlace{accept: none, id: none, first: none, last: none, next: none, previous: none})
		s.mentioned.Append(keyMentions{last: none})
	}
	return n
}

// find returns the action that a reference means, none if none is confirmed.
func (s *state) find(ref protocol.Reference) int32 {
	for _, txid := range ref.TxIDs() {
		if n := s.txids.Find(txid); n != none {
			return n
		}
	}
	return none
}

// add adds a confirmed action, undecided.
func (s *state) add(a *storedAction) int32 {
	n := s.txids.Add(a.txid)
	fate := actionFate{kind: a.kind, index: a.index, author: none, parent: none, child: none, decided: never, ended: none}
	if a.hasAuthor {
		fate.author = s.keyNumber(a.author)
	}
	if a.kind == protocol.MLR && !a.malformed {
		fate.parent, fate.child = s.keyNumber(a.parent), fate.author
	}
	s.actions.Append(fate)
	return n
}

// mentions lists the keys that an action is by and about, once each, as far as
// that was known when its own block had been applied. What comes out later is
// listed apart (prefixLate).
func (s *state) mentions(action int32, height uint32) (keys [3]int32, n int) {
	a := s.actions.Ref(action)
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
	a, t := s.actions.Edit(action), s.actions.At(target)
	if t.kind == a.kind-1 {
		a.parent, a.child = t.parent, t.child
	}
}

// addChild makes child the last of parent's children, at a height, and returns the key whose
// record says so: the sibling before it, else the parent.
func (s *state) addChild(child, parent int32, height uint32) (changed int32) {
	defer func() { s.places.Edit(child).moved, s.places.Edit(changed).moved = height, height }()
	p := s.places.Edit(parent)
	before := p.last
	s.places.Edit(child).previous, p.last = before, child
	if before == none {
		p.first = child
		return parent
	}
	s.places.Edit(before).next = child
	return before
}

// removeChild is the reverse of addChild, for any of parent's children.
func (s *state) removeChild(child, parent int32, height uint32) (changed int32) {
	defer func() { s.places.Edit(child).moved, s.places.Edit(changed).moved = height, height }()
	c := s.places.Edit(child)
	if c.next == none {
		s.places.Edit(parent).last = c.previous
	} else {
		s.places.Edit(c.next).previous = c.previous
	}
	changed = parent
	if c.previous == none {
		s.places.Edit(parent).first = c.next
	} else {
		changed = c.previous
		s.places.Edit(changed).next = c.next
	}
	c.next, c.previous = none, none
	return changed
}

// record returns the record of a key as it is now.
func (s *state) record(key int32) keyRecord {
	place := s.places.Ref(key)
	var r keyRecord
	if parent := s.forest.Parent(key); parent != none {
		r.hasParent, r.parent = true, s.keys.Key(parent)
		r.accept, r.linked = s.txids.Key(place.accept), s.actions.At(place.accept).decided
	}
	if place.first != none {
		r.hasFirst, r.first = true, s.keys.Key(place.first)
	}
	if place.next != none {
		r.hasNext, r.next = true, s.keys.Key(place.next)
	}
	if place.id != none {
		r.id = s.txids.Key(place.id)
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
	s.names.Set(small, name{up: large, survivor: none})
	s.names.Set(large, name{up: none, weight: a.weight + b.weight, survivor: id})
	return [2]int32{small, large}
}

func (s *state) nameOf(id int32) name {
	if n, ok := s.names.Get(id); ok {
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
		r.up = s.txids.Key(n.up)
	} else {
		r.survivor = s.txids.Key(n.survivor)
	}
	return r
}
