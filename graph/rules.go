package graph

import (
	"cmp"
	"slices"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
)

// Action is a confirmed action as the graph is given it: decoded, and with its
// author established from a checked source (identity-rules §2).
type Action struct {
	protocol.Action
	Index  uint32 // of its tx in the block
	TxID   chainhash.Hash
	Author *protocol.KeyHash // nil: the tx has none
}

// Block is a block's actions, in any order, and its anchors.
type Block struct {
	Height   uint32
	Hash     chainhash.Hash
	PrevHash chainhash.Hash
	Time     uint32 // as the header says, like Bits; the graph keeps both for BlockHeader
	Bits     uint32
	Actions  []Action

	Anchors []AnchorTx // in any order
	// Header is the serialized header, of which Hash is the hash. It is looked at
	// only if there are Anchors.
	Header [protocol.HeaderSize]byte
}

// step applies the rules to one block. It changes the state in memory, and notes
// what has to be written because of it.
type step struct {
	*state
	height uint32
	counts Counts

	effects       []byte         // in their canonical encoding
	storedEffects []byte         // the same, as they are stored
	fresh         []storedAction // the block's own actions, in order of position
	first         int32          // the number of the first of them

	changed []int32         // keys whose record is another, some more than once
	sized   map[int32]int32 // roots of the identities whose record is another; none: merged
	renamed []int32         // names whose record is another, some more than once

	landmarks []mention // of every 64th action of a key
	late      []mention // of actions of earlier blocks

	header    [protocol.HeaderSize]byte      // if there are anchorTxs
	anchorTxs []anchorTx                     // in the order in which they were applied
	breaks    []storedBreak                  // in the same order
	chains    map[chainhash.Hash]chainRecord // those that have changed; may be nil
}

// mention says that an action is by or about a key.
type mention struct{ key, action int32 }

func newStep(s *state, height uint32, counts Counts) *step {
	return &step{state: s, height: height, counts: counts, first: s.txids.len(), sized: make(map[int32]int32)}
}

// apply runs the block, none of whose transactions may be on the chain already,
// through the four phases of identity-rules §4, and after them its anchors, which
// have nothing to do with links.
func (s *step) apply(b Block) {
	s.admit(b)
	var requests, accepts, revokes, lateRevokes []int32
	for i := range s.fresh {
		a, n := &s.fresh[i], s.first+int32(i)
		switch {
		case a.malformed:
			s.refuse(n, Malformed)
		case !a.hasAuthor:
			s.refuse(n, NoAuthor)
		case a.kind == protocol.MLR:
			requests = append(requests, n)
		case a.kind == protocol.MLA:
			accepts = append(accepts, n)
		default:
			revokes = append(revokes, n)
		}
	}

	// Phase 1: every MLR.
	for _, n := range requests {
		s.decideRequest(n)
	}

	// Phase 2: every MCR whose MLA was decided in an earlier block.
	for _, n := range revokes {
		target := s.find(s.reference(n))
		if target != none && s.actions[target].kind == protocol.MLA && s.actions[target].decided < s.height {
			s.decideRevoke(n, target)
		} else {
			lateRevokes = append(lateRevokes, n)
		}
	}

	// Phase 3: every MLA, those included that waited for one of the block's txs.
	for i := range s.fresh {
		accepts = append(accepts, s.release(s.first+int32(i), protocol.MLA)...)
	}
	slices.Sort(accepts)
	for _, n := range accepts {
		s.decideAccept(n)
	}

	// Phase 4: every MCR whose MLA was decided in this block, and those that have
	// nothing to act on.
	for i := range s.fresh {
		lateRevokes = append(lateRevokes, s.releaseRevokes(s.first+int32(i))...)
	}
	for _, n := range accepts {
		if n < s.first {
			lateRevokes = append(lateRevokes, s.releaseRevokes(n)...)
		}
	}
	slices.Sort(lateRevokes)
	for _, n := range lateRevokes {
		s.decideRevoke(n, s.find(s.reference(n)))
	}
	s.mention()
	s.anchor(&b)
}

// admit adds the block's actions, undecided.
func (s *step) admit(b Block) {
	if len(b.Actions) == 0 {
		return
	}
	s.blocks = append(s.blocks, blockSpan{s.height, s.first})
	s.fresh = make([]storedAction, 0, len(b.Actions))
	for i := range b.Actions {
		a := &b.Actions[i]
		stored := storedAction{
			kind: a.Kind, malformed: a.Malformed != nil, index: a.Index, txid: a.TxID,
			messageLen: uint32(len(a.Message)), message: a.Message,
		}
		if a.Author != nil {
			stored.hasAuthor, stored.author = true, *a.Author
		}
		if a.Malformed == nil && a.Kind == protocol.MLR {
			stored.parent = a.Parent
		} else if a.Malformed == nil {
			stored.reference = a.Ref
		}
		s.fresh = append(s.fresh, stored)
	}
	slices.SortFunc(s.fresh, func(x, y storedAction) int { return cmp.Compare(x.index, y.index) })
	for i := range s.fresh {
		s.add(&s.fresh[i])
	}
	for s.forest.Len() < s.keys.len() {
		s.forest.Add()
	}
}

// mention lists the block's actions among those of the keys that they mention.
func (s *step) mention() {
	previous := make([]int32, 0, 3*len(s.fresh))
	for i := range s.fresh {
		n := s.first + int32(i)
		keys, count := s.mentions(n, s.height)
		at := len(previous)
		for _, key := range keys[:count] {
			place := &s.places[key]
			previous = append(previous, place.mention)
			place.mention = n
			if place.mentions++; place.mentions%landmarkEvery == 0 {
				s.landmarks = append(s.landmarks, mention{key, n})
			}
		}
		s.fresh[i].previous = previous[at:len(previous):len(previous)]
	}
}

// reference returns what an action, of the block or waiting, refers to.
func (s *step) reference(n int32) protocol.Reference {
	if n >= s.first {
		return s.fresh[n-s.first].reference
	}
	return s.references[n]
}

// release returns the actions of the given kind that wait for n. What n is does
// not matter: a reference to the wrong kind is refused as soon as that is known.
func (s *step) release(n int32, kind protocol.Kind) (released []int32) {
	if len(s.waiting) == 0 {
		return nil
	}
	for _, waiter := range s.waiting[protocol.RefersTo(s.txids.values[n]).Canonical()] {
		if s.actions[waiter].kind == kind {
			released = append(released, waiter)
		}
	}
	return released
}

// releaseRevokes returns the MCRs that wait for n, unless n is an MLA that waits
// itself.
func (s *step) releaseRevokes(n int32) []int32 {
	if a := &s.actions[n]; a.kind == protocol.MLA && a.decided == never {
		return nil
	}
	return s.release(n, protocol.MCR)
}

// decideRequest opens an MLR or refuses it.
func (s *step) decideRequest(n int32) {
	a := &s.actions[n]
	if a.author == a.parent {
		s.refuse(n, SelfLink)
		return
	}
	a.decided = s.height
	s.emit(storedEffect{effect: RequestOpened, action: n})
}

// decideAccept puts the link of an MLA in force, refuses it, or lets it wait.
func (s *step) decideAccept(n int32) {
	target := s.find(s.reference(n))
	if target == none {
		s.letWait(n)
		return
	}
	a, request := &s.actions[n], &s.actions[target]
	s.meet(n, target)
	switch {
	case request.kind != protocol.MLR:
		s.refuse(n, WrongKind)
	case request.refused():
		s.refuse(n, RequestRefused)
	case a.author != request.parent:
		s.refuse(n, NotTheParent)
	case request.ended != none:
		s.refuse(n, RequestUsed)
	case s.forest.Parent(request.child) != none:
		s.refuse(n, ChildHasParent)
	case s.forest.Root(request.parent) == request.child:
		s.refuse(n, Loop)
	default:
		a.decided = s.height
		request.ended = n
		s.join(n, target)
	}
}

// decideRevoke cuts the link of the MLA target, which is none if it is not
// confirmed; or refuses the MCR, or lets it wait.
func (s *step) decideRevoke(n, target int32) {
	if target == none || s.actions[target].kind == protocol.MLA && s.actions[target].decided == never {
		s.letWait(n)
		return
	}
	a, accept := &s.actions[n], &s.actions[target]
	s.meet(n, target)
	switch {
	case accept.kind != protocol.MLA:
		s.refuse(n, WrongKind)
	case accept.refused():
		s.refuse(n, AcceptRefused)
	case a.author != accept.parent:
		s.refuse(n, NotTheParent)
	case accept.ended != none:
		s.refuse(n, AlreadyRevoked)
	default:
		a.decided = s.height
		accept.ended = n
		s.part(n, target)
	}
}

// meet ends an action's waiting: what it refers to is there.
func (s *step) meet(n, target int32) {
	s.attach(n, target)
	if n < s.first {
		s.unwait(n)
		s.counts.Waiting--
		a := &s.actions[n]
		for _, key := range distinct([]int32{a.parent, a.child}) {
			if key != none && key != a.author { // the author has had its mention
				s.late = append(s.late, mention{key, n})
			}
		}
	}
}

func (s *step) refuse(n int32, reason Reason) {
	a := &s.actions[n]
	a.decided, a.reason = s.height, reason
	s.counts.Refused++
	s.emit(storedEffect{effect: ActionRefused, action: n, reason: reason})
}

// letWait lets an action of the block wait for what it refers to.
func (s *step) letWait(n int32) {
	if n < s.first {
		return // it goes on waiting
	}
	s.wait(n, s.reference(n))
	s.counts.Waiting++
	s.emit(storedEffect{effect: ActionWaiting, action: n})
}

func (s *step) emit(o storedEffect) {
	s.storedEffects = o.appendTo(s.storedEffects)
	e, _ := s.effectOf(&o, func(action int32) (protocol.Reference, error) { return s.reference(action), nil })
	s.effects = e.appendTo(s.effects)
}
