package links

import (
	"sort"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/cow"
	"github.com/keytree-bch/keytree/graph/forest"
	"github.com/keytree-bch/keytree/graph/statemap"
	"github.com/keytree-bch/keytree/graph/txids"
	"github.com/keytree-bch/keytree/protocol"
)

// none stands for no key or no action, where a number is expected.
const none = cow.None

// State is what is held in memory of links: where the keys stand that are or were in one,
// and what somebody waits for. All else is in the
// store, so that what only costs a fee takes no memory. It is a function of what is
// in the store, and kept equal to it by every step.
//
// Keys and actions go by numbers, none standing for no key or no action. Actions are
// numbered in order of position; the numbers of keys mean nothing beyond this process.
//
// A state is a version, as package cow has them: a step changes a fork, which shares
// with the state before all that it does not change. A state that was published is
// read by anybody and changed by nobody.
type State struct {
	keys    cow.Index[protocol.KeyHash]
	places  cow.Array[keyPlace] // by key
	namedBy cow.Array[naming]   // by key: seldom changed, so apart from what is copied often; see nameKey
	forest  *forest.Forest      // by key

	versions keyVersions // of keys

	blocks  cow.Array[blockSpan] // those that have actions, in order
	actions int32                // how many there are
	index   txids.Index          // of their txids, and of who is the first to mention a key

	waiting waiting

	records *statemap.Map // as of the block, of which it gives the state root; nil: that is not kept
}

// NewState returns the state before the first block.
func NewState() *State {
	return &State{
		keys: cow.NewIndex[protocol.KeyHash](), forest: forest.New(), index: txids.New(), waiting: newWaiting(),
	}
}

// Fork returns a state that is as s is now, to be changed. s must not be changed any
// more.
func (s *State) Fork() *State {
	return &State{
		keys: s.keys.Fork(), places: s.places.Fork(), namedBy: s.namedBy.Fork(), forest: s.forest.Fork(),
		versions: s.versions.fork(), blocks: s.blocks.Fork(), actions: s.actions, index: s.index, waiting: s.waiting.fork(),
		records: s.records,
	}
}

// keyPlace is where a key stands now. Its parent is in the forest.
type keyPlace struct {
	request int32  // MLR that the MLA accepted; none of a root
	stands  uint32 // height at which the link came into force; of a root, at which its identity got its id or its root

	// Children stand in the order in which they were linked.
	first, last    int32 // of its children
	next, previous int32 // of its parent's children

	version   int32 // last of its versions (keyVersion)
	mentioned int32 // last action of the chain of those that mention it (mentioning)
	nth       uint8 // of that version
	since     uint8 // of that action
	named     bool  // it is in an identity
}

// nameKey names a key, since a height: by the MLA of the link to its parent; or, if it is a root, by the action
// that names its identity; by nothing as long as it is in none.
func (s *State) nameKey(key int32, by naming, since uint32) {
	*s.namedBy.Edit(key) = by
	p := s.places.Edit(key)
	p.stands, p.named = since, !by.none()
}

// blockSpan is a block and the number of the first of what it has.
type blockSpan struct {
	height uint32
	first  int32
}

// spanOf returns the block that has the thing of a number.
func spanOf(blocks *cow.Array[blockSpan], number int32) blockSpan {
	return blocks.At(search(blocks.Len(), func(i int32) bool { return blocks.Ref(i).first > number }) - 1)
}

// search returns the first number below n of which is holds, as it does of all that
// follow; n if there is none.
func search(n int32, is func(i int32) bool) int32 {
	return int32(sort.Search(int(n), func(i int) bool { return is(int32(i)) }))
}

// enter returns the number of a key, which it gets if it has none.
func (s *State) enter(hash protocol.KeyHash) int32 {
	n := s.place(hash)
	if n == s.forest.Len() {
		s.forest.Add()
	}
	return n
}

// place is enter before the forest has been built.
func (s *State) place(hash protocol.KeyHash) int32 {
	n := s.keys.Add(hash)
	if n == s.places.Len() {
		s.places.Append(keyPlace{request: none, first: none, last: none, next: none, previous: none, version: none, mentioned: none})
		s.namedBy.Append(naming{})
	}
	return n
}

// inIdentity returns the number of a key that is in an identity; none if it is in none.
func (s *State) inIdentity(hash protocol.KeyHash) int32 {
	n := s.keys.Find(hash)
	if n != none && !s.places.Ref(n).named {
		return none // it was taken back
	}
	return n
}

// keyLink is the link of a key to its parent.
type keyLink struct {
	request, accept int32
	linked          uint32 // height at which it came into force
}

// link returns the link of the key of a number to its parent; ok is false if it has none.
func (s *State) link(n int32) (l keyLink, ok bool) {
	if n == none || s.forest.Parent(n) == none {
		return l, false
	}
	p := s.places.Ref(n)
	return keyLink{p.request, s.namedBy.Ref(n).number, p.stands}, true
}

// identity returns what names the identity of a root; zero if it is in none.
func (s *State) identity(root int32) naming { return s.namedBy.At(root) }

// IdentityOf returns the identity of a key, zero if it is in none, and its root, which is the key
// itself then.
func (s *State) IdentityOf(hash protocol.KeyHash) (id chainhash.Hash, root protocol.KeyHash) {
	n := s.inIdentity(hash)
	if n == none {
		return id, hash
	}
	top := s.forest.Root(n)
	return s.identity(top).tx, s.keys.Key(top)
}

// addChild makes child the last of parent's children, and returns the key whose
// record says so: the sibling before it, else the parent.
func (s *State) addChild(child, parent int32) (changed int32) {
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
func (s *State) removeChild(child, parent int32) (changed int32) {
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
func (s *State) record(key int32) keyRecord {
	place := s.places.Ref(key)
	r := keyRecord{since: place.stands}
	if parent := s.forest.Parent(key); parent != none {
		r.hasParent, r.parent = true, s.keys.Key(parent)
		r.accept, r.request = s.namedBy.At(key), place.request
	} else {
		r.id = s.namedBy.At(key)
	}
	if place.first != none {
		r.hasFirst, r.first = true, s.keys.Key(place.first)
	}
	if place.next != none {
		r.hasNext, r.next = true, s.keys.Key(place.next)
	}
	return r
}

// mention notes that an action mentions a key, and returns its place in the key's list. Of a key
// that is in no identity it does not know whether it is the first.
func (s *State) mention(hash protocol.KeyHash, action int32) mentioning {
	n := s.inIdentity(hash)
	if n == none {
		return mentioning{previous: none}
	}
	p := s.places.Edit(n)
	m := mentioning{previous: p.mentioned, since: (p.since + 1) % landmarkEvery}
	p.mentioned, p.since = action, m.since
	return m
}

// Keys returns how many keys are or were in links.
func (s *State) Keys() int { return int(s.keys.Len()) }

// Waits returns how many things somebody waits for.
func (s *State) Waits() int { return int(s.waiting.counts.Len()) }

// Index returns the index of the actions' txids: with the state, it is changed by nobody once that
// was published.
func (s *State) Index() *txids.Index { return &s.index }

// Actions returns how many actions there are.
func (s *State) Actions() int32 { return s.actions }

// Blocks returns how many blocks have actions.
func (s *State) Blocks() int { return int(s.blocks.Len()) }
