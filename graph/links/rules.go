package links

import (
	"cmp"
	"fmt"
	"hash"
	"slices"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/graph/txids"
	"github.com/keytree-bch/keytree/protocol"
)

// Action is a confirmed action as the graph is given it: decoded, and with its
// author established from a checked source (protocol/SPEC.md §2).
type Action struct {
	protocol.Action
	Index  uint32 // of its tx in the block
	TxID   chainhash.Hash
	Author *protocol.KeyHash // nil: the tx has none
}

// Step is the rules applied to one block. It changes the state in memory, and notes
// what has to be written because of it.
type Step struct {
	*State
	*Draft
	height uint32
	Counts store.Counts // as of the block
	Tally  Tally        // of the block
	err    error        // the first of the store; what follows it does not count

	first         int32     // the number of the first of the block's own actions
	firstVersion  int32     // the number of the first of the versions of keys that it makes
	hashes        []uint32  // of their txids
	effects       hash.Hash // takes their canonical encoding
	space         []byte    // where that is made
	storedEffects []byte    // they as they are stored
	effectCount   int       // how many they are
	effectChunks  []int     // where chunks of them begin in storedEffects

	decided []int32                  // actions of earlier blocks
	cutNow  []int32                  // requests whose links were cut
	changed []changedKey             // in the order of their versions
	sized   map[chainhash.Hash]int32 // roots of the identities whose record is another; none: merged
	merged  map[chainhash.Hash]identityRecord
	renamed []chainhash.Hash // names whose record is another, some more than once

	landmarks   []mention // of the block's own actions
	lateMention []mention // of actions of earlier blocks
}

// mention says that an action is by or about a key.
type mention struct {
	key    protocol.KeyHash
	action int32
}

// Apply runs a block's actions, which may be in any order, through the four phases of
// protocol/SPEC.md §4. counts are those as of the block before; effects takes the effects in their
// canonical encoding. ErrBlock if the block has a transaction twice, or one that is on the
// chain already; other errors are the store's. The state is to be dropped then.
func Apply(s *State, d *Draft, height uint32, actions []Action, counts store.Counts, effects hash.Hash) (*Step, error) {
	step := &Step{State: s, Draft: d, height: height, Counts: counts, first: s.actions, firstVersion: s.versions.count, effects: effects, sized: make(map[chainhash.Hash]int32), merged: make(map[chainhash.Hash]identityRecord)}
	if err := step.admit(actions); err != nil {
		return nil, err
	}
	step.decide()
	return step, step.err
}

// StoredEffects returns the block's effects as they are stored.
func (s *Step) StoredEffects() []byte { return s.storedEffects }

// decide runs the actions through the phases.
func (s *Step) decide() {
	var requests, accepts, revokes, lateRevokes []int32
	for n := s.first; n < s.actions; n++ {
		switch a := s.own(n); {
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
		if target := s.targetOf(n); target.number != none && target.number < s.first && target.kind == protocol.MLA && target.decided() {
			s.decideRevoke(n, target)
		} else {
			lateRevokes = append(lateRevokes, n)
		}
	}

	// Phase 3: every MLA, those included that waited for one of the block's txs.
	for n := s.first; n < s.actions; n++ {
		accepts = append(accepts, s.release(n, protocol.MLA)...)
	}
	slices.Sort(accepts)
	for _, n := range accepts {
		s.decideAccept(n)
	}

	// Phase 4: every MCR whose MLA was decided in this block, and those that have
	// nothing to act on.
	for n := s.first; n < s.actions; n++ {
		lateRevokes = append(lateRevokes, s.releaseRevokes(n)...)
	}
	for _, n := range accepts {
		if n < s.first {
			lateRevokes = append(lateRevokes, s.releaseRevokes(n)...)
		}
	}
	slices.Sort(lateRevokes)
	for _, n := range lateRevokes {
		s.decideRevoke(n, s.targetOf(n))
	}
	if s.actions > s.first {
		s.mentionAll()
	}
}

// admit adds the block's actions, undecided.
func (s *Step) admit(actions []Action) error {
	if len(actions) == 0 {
		return nil
	}
	s.blocks.Append(blockSpan{s.height, s.first})
	order := make([]*Action, len(actions))
	for i := range actions {
		order[i] = &actions[i]
	}
	slices.SortFunc(order, func(x, y *Action) int { return cmp.Compare(x.Index, y.Index) })
	numbers, hashes, err := s.numbersOf(len(order), func(i int) chainhash.Hash { return order[i].TxID })
	if err != nil {
		return err
	}
	for i, a := range order {
		if n := numbers[i]; n != none {
			return store.OnChain(a.TxID, s.heightOf(n))
		}
		if n, ok := s.numbers[a.TxID]; ok && n < s.first {
			return store.OnChain(a.TxID, s.heightOf(n))
		} else if ok || i > 0 && order[i-1].Index == a.Index {
			return fmt.Errorf("%w: block %d has transaction %v, index %d, twice", store.ErrBlock, s.height, a.TxID, a.Index)
		}
		s.add(a.stored())
	}
	s.hashes = hashes
	s.actions += int32(len(order))
	return nil
}

// stored returns the action as it is stored, undecided.
func (a *Action) stored() storedAction {
	stored := storedAction{
		kind: a.Kind, malformed: a.Malformed != nil, index: a.Index, txid: a.TxID, target: none,
		messageLen: uint32(len(a.Message)), message: a.Message,
	}
	if a.Author != nil {
		stored.hasAuthor, stored.author = true, *a.Author
	}
	switch {
	case stored.malformed:
	case a.Kind == protocol.MLR:
		stored.hasParent, stored.parent = true, a.Parent
		stored.hasChild, stored.child = stored.hasAuthor, stored.author
	default:
		stored.reference = a.Ref
	}
	return stored
}

// own returns one of the block's own actions, to be changed.
func (s *Step) own(n int32) *storedAction { return &s.fresh[n-s.known] }

// fail notes an error of the store.
func (s *Step) fail(err error) {
	if s.err == nil {
		s.err = err
	}
}

// acted is an action and what became of it.
type acted struct {
	number int32 // none if it is not there: the rest is zero then
	storedAction
	fate
}

// decided reports whether it does not wait.
func (a *acted) decided() bool { return a.height != never }

// acted returns an action with what became of it.
func (s *Step) acted(n int32) acted {
	if n == none {
		return acted{number: none}
	}
	a, err := s.action(n)
	if err != nil {
		s.fail(err)
		return acted{number: none}
	}
	o, err := fateOf(s.Draft, n, &a)
	if err != nil {
		s.fail(err)
		return acted{number: none}
	}
	return acted{n, a, o}
}

// about returns the keys that an action is about.
func (s *Step) about(a *acted) about {
	of, err := aboutOf(s.Draft, &a.storedAction, &a.fate)
	if err != nil {
		s.fail(err)
	}
	return of
}

// targetOf returns what an action refers to.
func (s *Step) targetOf(n int32) acted {
	a, err := s.action(n)
	if err != nil {
		s.fail(err)
		return acted{number: none}
	}
	target, err := s.find(a.reference)
	if err != nil {
		s.fail(err)
	}
	return s.acted(target)
}

// mentionAll lists the block's actions among those of the keys that they mention, and adds them to
// the index.
func (s *Step) mentionAll() {
	var first []txids.Mention
	space := make([]mentioning, 3*(s.actions-s.first))
	for n := s.first; n < s.actions; n++ {
		a := s.own(n)
		keys, count := a.keys()
		a.mentions = space[:0:count]
		space = space[count:]
		for _, key := range keys[:count] {
			m := s.mention(key, n)
			if !m.chained() {
				hash := s.index.HashKey(key)
				known, err := s.knows(key, hash)
				if err != nil {
					s.fail(err)
					return
				}
				if m.first = !known; m.first {
					s.met[key] = true
					first = append(first, txids.Mention{Hash: hash, Action: n})
				}
			}
			a.mentions = append(a.mentions, m)
			if m.landmark() {
				s.landmarks = append(s.landmarks, mention{key, n})
			}
		}
	}
	s.index.Add(s.first, s.hashes, first)
}

// release returns the actions of the given kind that wait for n. The kind of n does
// not matter: a reference to the wrong kind is refused as soon as that is known.
func (s *Step) release(n int32, kind protocol.Kind) []int32 {
	a, err := s.action(n)
	if err != nil {
		s.fail(err)
		return nil
	}
	w := wanted{kind, protocol.RefersTo(a.txid).Canonical()}
	if !s.waiting.any(w) {
		return nil
	}
	released, err := s.waiters(w)
	if err != nil {
		s.fail(err)
	}
	return released
}

// releaseRevokes returns the MCRs that wait for n, unless n is an MLA that waits
// itself.
func (s *Step) releaseRevokes(n int32) []int32 {
	if a := s.acted(n); a.kind == protocol.MLA && !a.decided() {
		return nil
	}
	return s.release(n, protocol.MCR)
}

// decideRequest opens an MLR or refuses it.
func (s *Step) decideRequest(n int32) {
	a := s.own(n)
	if a.author == a.parent {
		s.refuse(n, SelfLink)
		return
	}
	s.emit(storedEffect{effect: RequestOpened, action: n}, &Effect{Tx: a.txid, Child: a.child, Parent: a.parent})
}

// decideAccept puts the link of an MLA in force, refuses it, or lets it wait.
func (s *Step) decideAccept(n int32) {
	target := s.targetOf(n)
	if target.number == none {
		s.letWait(n)
		return
	}
	accept, request := s.acted(n), s.about(&target)
	child, parent := s.keys.Find(request.child), s.keys.Find(request.parent)
	if s.settle(n, &target, request, s.refusesAccept(&accept, &target, request, child, parent)) {
		s.join(&accept, &target, child, parent)
	}
}

// refusesAccept says why an MLA that refers to target, which is about two keys of these numbers, is refused.
func (s *Step) refusesAccept(accept, target *acted, request about, child, parent int32) Reason {
	switch {
	case target.kind != protocol.MLR:
		return WrongKind
	case target.refused():
		return RequestRefused
	case accept.author != request.parent:
		return NotTheParent
	}
	link, inForce := s.link(child)
	switch {
	case inForce && link.request == target.number || s.ended(target.number, child):
		return RequestUsed
	case inForce:
		return ChildHasParent
	case child != none && parent != none && s.forest.Root(parent) == child:
		return Loop
	}
	return NoReason
}

// ended reports whether the link of a request, whose child is given, was in force and was cut. A key whose
// links were cut is in an identity for good, so of others nothing is read.
func (s *Step) ended(request, child int32) bool {
	if child == none || !s.places.Ref(child).named {
		return false
	}
	_, was, err := s.cut(request)
	if err != nil {
		s.fail(err)
	}
	return was
}

// decideRevoke cuts the link of the MLA target, or refuses the MCR, or lets it wait.
func (s *Step) decideRevoke(n int32, target acted) {
	if target.number == none || target.kind == protocol.MLA && !target.decided() {
		s.letWait(n)
		return
	}
	revoke, accept := s.acted(n), s.about(&target)
	if s.settle(n, &target, accept, s.refusesRevoke(&revoke, &target, accept)) {
		s.part(&revoke, &target, accept)
	}
}

// refusesRevoke says why an MCR that refers to target is refused.
func (s *Step) refusesRevoke(revoke, target *acted, accept about) Reason {
	switch {
	case target.kind != protocol.MLA:
		return WrongKind
	case target.refused():
		return AcceptRefused
	case revoke.author != accept.parent:
		return NotTheParent
	}
	if link, inForce := s.link(s.keys.Find(accept.child)); !inForce || link.accept != target.number {
		return AlreadyRevoked
	}
	return NoReason
}

// settle notes what became of an action that refers to target, and reports whether it is not
// refused.
func (s *Step) settle(n int32, target *acted, of about, reason Reason) bool {
	s.meet(n, target, of, reason)
	if reason != NoReason {
		s.refuse(n, reason)
	}
	return reason == NoReason
}

// meet notes what an action's reference turned out to mean, and what became of the
// action. That ends its waiting.
func (s *Step) meet(n int32, target *acted, of about, reason Reason) {
	if n >= s.first {
		a := s.own(n)
		a.target, a.reason = target.number, reason
		if reason != WrongKind {
			a.hasParent, a.hasChild, a.parent, a.child = of.hasParent, of.hasChild, of.parent, of.child
		}
		return
	}
	a, err := s.action(n)
	if err != nil {
		s.fail(err)
		return
	}
	s.waiting.remove(a.wants())
	s.Counts.Waiting--
	s.fates[n] = lateFate{s.height, reason, target.number}
	s.decided = append(s.decided, n)
	if reason == WrongKind {
		return
	}
	for _, key := range [...]struct {
		has bool
		protocol.KeyHash
	}{{of.hasParent, of.parent}, {of.hasChild && of.child != of.parent, of.child}} {
		if key.has && key.KeyHash != a.author { // the author has had its mention
			s.lateMention = append(s.lateMention, mention{key.KeyHash, n})
		}
	}
}

// wants returns what an action waits for, if it does.
func (a *storedAction) wants() wanted { return wanted{a.kind, a.reference.Canonical()} }

func (s *Step) refuse(n int32, reason Reason) {
	a, err := s.action(n)
	if err != nil {
		s.fail(err)
		return
	}
	if n >= s.first {
		s.own(n).reason = reason
	}
	s.Counts.Refused++
	s.emit(storedEffect{effect: ActionRefused, action: n, reason: reason}, &Effect{Kind: a.kind, Reason: reason, Tx: a.txid, Author: a.author})
}

// letWait lets an action of the block wait for what it refers to.
func (s *Step) letWait(n int32) {
	if n < s.first {
		return // it goes on waiting
	}
	a := s.own(n)
	a.waits = true
	w := a.wants()
	s.waiting.add(w)
	s.waits[w] = append(s.waits[w], n)
	s.Counts.Waiting++
	s.emit(storedEffect{effect: ActionWaiting, action: n}, &Effect{Kind: a.kind, Tx: a.txid, Author: a.author, Reference: a.reference})
}

// emit notes an effect, as it is stored and as it is.
func (s *Step) emit(o storedEffect, e *Effect) {
	if s.effectCount%effectsPerChunk == 0 {
		s.effectChunks = append(s.effectChunks, len(s.storedEffects))
	}
	s.effectCount++
	s.storedEffects = o.appendTo(s.storedEffects)
	e.Type = o.effect
	s.space = e.appendTo(s.space[:0])
	s.effects.Write(s.space)
	s.Tally.add(e)
}
