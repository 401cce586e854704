package graph

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"hash"
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

	effects       hash.Hash      // SHA-256 of them in their canonical encoding
	space         []byte         // where that is made
	storedEffects []byte         // they as they are stored
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
	return &step{state: s, height: height, counts: counts, first: s.txids.Len(), effects: sha256.New(), sized: make(map[int32]int32)}
}

// apply runs the block through the four phases of identity-rules §4, and after them
// its anchors, which have nothing to do with links. ErrBlock if it has a transaction
// twice, or one that is on the chain already; the state is to be dropped then.
func (s *step) apply(b *Block) error {
	if err := s.admit(b); err != nil {
		return err
	}
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
		if target != none && s.isMLA(target) && s.actions.Ref(target).decided < s.height {
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
	s.anchor(b)
	return nil
}

// admit adds the block's actions, undecided.
func (s *step) admit(b *Block) error {
	if len(b.Actions) == 0 {
		return nil
	}
	s.blocks.Append(blockSpan{s.height, s.first})
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
		a := &s.fresh[i]
		switch n := s.add(a); {
		case n < s.first:
			return onChain(a.txid, s.heightOf(n))
		case n < s.first+int32(i), i > 0 && s.fresh[i-1].index == a.index:
			return fmt.Errorf("%w: block %v has transaction %v, index %d, twice", ErrBlock, b.Hash, a.txid, a.index)
		}
	}
	for s.forest.Len() < s.keys.Len() {
		s.forest.Add()
	}
	return nil
}

// mention lists the block's actions among those of the keys that they mention.
func (s *step) mention() {
	previous := make([]int32, 0, 3*len(s.fresh))
	for i := range s.fresh {
		n := s.first + int32(i)
		keys, count := s.mentions(n, s.height)
		at := len(previous)
		for _, key := range keys[:count] {
			place := s.mentioned.Edit(key)
			previous = append(previous, place.last)
			place.last = n
			if place.count++; place.count%landmarkEvery == 0 {
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
	return s.waiting.reference(n)
}

// release returns the actions of the given kind that wait for n. What n is does
// not matter: a reference to the wrong kind is refused as soon as that is known.
func (s *step) release(n int32, kind protocol.Kind) []int32 {
	return s.waiting.on(protocol.RefersTo(s.txids.Key(n)), kind)
}

// releaseRevokes returns the MCRs that wait for n, unless n is an MLA that waits
// itself.
func (s *step) releaseRevokes(n int32) []int32 {
	if s.isMLA(n) && s.actions.Ref(n).decided == never {
		return nil
	}
	return s.release(n, protocol.MCR)
}

func (s *step) isMLA(n int32) bool { return s.actions.Ref(n).kind == protocol.MLA }

// decideRequest opens an MLR or refuses it.
func (s *step) decideRequest(n int32) {
	a := s.actions.Edit(n)
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
	s.meet(n, target)
	author, request := s.actions.Ref(n).author, s.actions.At(target)
	switch {
	case request.kind != protocol.MLR:
		s.refuse(n, WrongKind)
	case request.refused():
		s.refuse(n, RequestRefused)
	case author != request.parent:
		s.refuse(n, NotTheParent)
	case request.ended != none:
		s.refuse(n, RequestUsed)
	case s.forest.Parent(request.child) != none:
		s.refuse(n, ChildHasParent)
	case s.forest.Root(request.parent) == request.child:
		s.refuse(n, Loop)
	default:
		s.actions.Edit(n).decided = s.height
		s.actions.Edit(target).ended = n
		s.join(n, target)
	}
}

// decideRevoke cuts the link of the MLA target, which is none if it is not
// confirmed; or refuses the MCR, or lets it wait.
func (s *step) decideRevoke(n, target int32) {
	if target == none || s.isMLA(target) && s.actions.Ref(target).decided == never {
		s.letWait(n)
		return
	}
	s.meet(n, target)
	author, accept := s.actions.Ref(n).author, s.actions.At(target)
	switch {
	case accept.kind != protocol.MLA:
		s.refuse(n, WrongKind)
	case accept.refused():
		s.refuse(n, AcceptRefused)
	case author != accept.parent:
		s.refuse(n, NotTheParent)
	case accept.ended != none:
		s.refuse(n, AlreadyRevoked)
	default:
		s.actions.Edit(n).decided = s.height
		s.actions.Edit(target).ended = n
		s.part(n, target)
	}
}

// meet ends an action's waiting: what it refers to is there.
func (s *step) meet(n, target int32) {
	s.attach(n, target)
	if n < s.first {
		a := s.actions.Ref(n)
		s.waiting.remove(n, a.kind)
		s.counts.Waiting--
		for _, key := range distinct([]int32{a.parent, a.child}) {
			if key != none && key != a.author { // the author has had its mention
				s.late = append(s.late, mention{key, n})
			}
		}
	}
}

func (s *step) refuse(n int32, reason Reason) {
	a := s.actions.Edit(n)
	a.decided, a.reason = s.height, reason
	s.counts.Refused++
	s.emit(storedEffect{effect: ActionRefused, action: n, reason: reason})
}

// letWait lets an action of the block wait for what it refers to.
func (s *step) letWait(n int32) {
	if n < s.first {
		return // it goes on waiting
	}
	s.waiting.add(n, s.actions.Ref(n).kind, s.reference(n))
	s.counts.Waiting++
	s.emit(storedEffect{effect: ActionWaiting, action: n})
}

func (s *step) emit(o storedEffect) {
	s.storedEffects = o.appendTo(s.storedEffects)
	e, _ := s.effectOf(&o, func(action int32) (protocol.Reference, error) { return s.reference(action), nil })
	s.hash(e.appendTo)
}

// hash adds an effect to effects.
func (s *step) hash(appendTo func([]byte) []byte) {
	s.space = appendTo(s.space[:0])
	s.effects.Write(s.space)
}
