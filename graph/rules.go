package graph

import (
	"cmp"
	"fmt"
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

// Block is a block's actions, in any order.
type Block struct {
	Height   uint32
	Hash     chainhash.Hash
	PrevHash chainhash.Hash
	Actions  []Action
}

// step applies the rules to one block. It changes the state in memory and
// collects the writes; if anything fails, both are worthless.
type step struct {
	*state
	w      *writes
	height uint32
	counts Counts

	effects []byte                           // in their canonical encoding
	records map[chainhash.Hash]*loadedRecord // read or made in this block
}

// loadedRecord is an action's record in use by a step.
type loadedRecord struct {
	actionRecord
	txid   chainhash.Hash
	stored []byte // as it was before the block, nil if new
}

// apply runs the block through the four phases of identity-rules §4.
func (s *step) apply(b Block) error {
	actions := slices.SortedFunc(slices.Values(b.Actions), func(x, y Action) int { return cmp.Compare(x.Index, y.Index) })
	fresh := make([]*loadedRecord, 0, len(actions))
	for i := range actions {
		r, err := s.admit(&actions[i])
		if err != nil {
			return err
		}
		fresh = append(fresh, r)
	}

	var requests, accepts, revokes, lateRevokes []*loadedRecord
	for i, r := range fresh {
		switch {
		case actions[i].Malformed != nil:
			s.refuse(r, Malformed)
		case !r.hasAuthor:
			s.refuse(r, NoAuthor)
		case r.kind == protocol.MLR:
			requests = append(requests, r)
		case r.kind == protocol.MLA:
			accepts = append(accepts, r)
		default:
			revokes = append(revokes, r)
		}
	}

	// Phase 1: every MLR.
	for _, r := range requests {
		s.decideRequest(r)
	}

	// Phase 2: every MCR whose MLA was decided in an earlier block.
	for _, r := range revokes {
		target, err := s.find(r.reference)
		if err != nil {
			return err
		}
		if target != nil && target.kind == protocol.MLA && target.decided < s.height {
			s.decideRevoke(r, target)
		} else {
			lateRevokes = append(lateRevokes, r)
		}
	}

	// Phase 3: every MLA, those included that waited for one of the block's txs.
	for _, r := range fresh {
		released, err := s.release(r, protocol.MLA)
		if err != nil {
			return err
		}
		accepts = append(accepts, released...)
	}
	sortByPosition(accepts)
	for _, r := range accepts {
		if err := s.decideAccept(r); err != nil {
			return err
		}
	}

	// Phase 4: every MCR whose MLA was decided in this block, and those that have
	// nothing to act on.
	for _, r := range uniqueRecords(fresh, accepts) {
		if r.kind == protocol.MLA && r.decided == never {
			continue // an MCR waits on while its MLA does
		}
		released, err := s.release(r, protocol.MCR)
		if err != nil {
			return err
		}
		lateRevokes = append(lateRevokes, released...)
	}
	sortByPosition(lateRevokes)
	for _, r := range lateRevokes {
		target, err := s.find(r.reference)
		if err != nil {
			return err
		}
		s.decideRevoke(r, target)
	}
	return s.store()
}

func sortByPosition(records []*loadedRecord) {
	slices.SortFunc(records, func(a, b *loadedRecord) int {
		return cmp.Or(cmp.Compare(a.at.height, b.at.height), cmp.Compare(a.at.index, b.at.index))
	})
}

// uniqueRecords lists what is in a or in b, once each.
func uniqueRecords(a, b []*loadedRecord) []*loadedRecord {
	seen := make(map[*loadedRecord]bool, len(a)+len(b))
	var out []*loadedRecord
	for _, list := range [2][]*loadedRecord{a, b} {
		for _, r := range list {
			if !seen[r] {
				seen[r] = true
				out = append(out, r)
			}
		}
	}
	return out
}

// admit makes the record of a new action, undecided.
func (s *step) admit(a *Action) (*loadedRecord, error) {
	known, err := s.load(a.TxID)
	if err != nil {
		return nil, err
	}
	if known != nil {
		return nil, fmt.Errorf("%w: transaction %v is at height %d already", ErrBlock, a.TxID, known.at.height)
	}
	r := &loadedRecord{txid: a.TxID, actionRecord: actionRecord{
		kind: a.Kind, at: position{s.height, a.Index}, decided: never, ended: never,
		messageLen: uint32(len(a.Message)),
	}}
	if a.Author != nil {
		r.hasAuthor, r.author = true, *a.Author
	}
	if a.Malformed == nil && a.Kind == protocol.MLR {
		r.hasParent, r.parent = true, a.Parent
		r.hasChild, r.child = r.hasAuthor, r.author
	}
	if a.Malformed == nil && a.Kind != protocol.MLR {
		r.hasReference, r.reference = true, a.Ref
	}
	if len(a.Message) <= inlineMessage {
		r.message = a.Message
	} else {
		for n, rest := uint32(0), a.Message; len(rest) > 0; n++ {
			chunk := rest[:min(len(rest), chunkSize)]
			s.w.insert(messageKey(a.TxID, n), chunk)
			rest = rest[len(chunk):]
		}
	}
	s.records[a.TxID] = r
	if r.hasAuthor {
		s.mention(r, r.author)
	}
	if r.hasParent {
		s.mention(r, r.parent)
	}
	return r, nil
}

// mention lists the action among those by and about key.
func (s *step) mention(r *loadedRecord, key protocol.KeyHash) {
	s.w.insert(mentionKey(key, r.at), r.txid[:])
}

// load returns the record of an action, nil if there is none.
func (s *step) load(txid chainhash.Hash) (*loadedRecord, error) {
	if r, ok := s.records[txid]; ok {
		return r, nil
	}
	stored, err := s.w.get(actionKey(txid))
	if err != nil || stored == nil {
		return nil, err
	}
	record, err := decodeActionRecord(stored)
	if err != nil {
		return nil, err
	}
	r := &loadedRecord{actionRecord: *record, txid: txid, stored: stored}
	s.records[txid] = r
	return r, nil
}

// named returns the record of the action that names an identity.
func (s *step) named(id chainhash.Hash) (*loadedRecord, error) {
	r, err := s.load(id)
	if err == nil && r == nil {
		err = fmt.Errorf("%w: identity %v has no action that names it", ErrDamaged, id)
	}
	return r, err
}

// find returns the action that a reference means, nil if none is confirmed.
func (s *step) find(ref protocol.Reference) (*loadedRecord, error) {
	for _, txid := range ref.TxIDs() {
		if r, err := s.load(txid); err != nil || r != nil {
			return r, err
		}
	}
	return nil, nil
}

// release ends the waiting of those actions of the given kind that wait for r,
// and returns them. What r is does not matter: a reference to the wrong kind is
// refused as soon as that is known.
func (s *step) release(r *loadedRecord, kind protocol.Kind) ([]*loadedRecord, error) {
	ref := protocol.RefersTo(r.txid).Canonical()
	waiters := s.waiting[ref]
	if len(waiters) == 0 {
		return nil, nil
	}
	var released []*loadedRecord
	var left []waiter
	for _, waiter := range waiters {
		w, err := s.load(waiter.txid)
		if err != nil {
			return nil, err
		}
		if w == nil {
			return nil, fmt.Errorf("%w: %v waits but is not stored", ErrDamaged, waiter.txid)
		}
		if w.kind != kind {
			left = append(left, waiter)
			continue
		}
		released = append(released, w)
		s.w.replace(waitingKey(ref, w.at), w.txid[:], nil)
		s.counts.Waiting--
	}
	s.setWaiting(ref, left)
	return released, nil
}

// decideRequest opens an MLR or refuses it.
func (s *step) decideRequest(r *loadedRecord) {
	if r.author == r.parent {
		s.refuse(r, SelfLink)
		return
	}
	r.decided = s.height
	s.emit(Effect{Type: RequestOpened, Tx: r.txid, Child: r.child, Parent: r.parent})
}

// decideAccept puts the link of an MLA in force, refuses it, or lets it wait.
func (s *step) decideAccept(r *loadedRecord) error {
	request, err := s.find(r.reference)
	if err != nil {
		return err
	}
	if request == nil {
		s.wait(r)
		return nil
	}
	s.attach(r, request)
	switch {
	case request.kind != protocol.MLR:
		s.refuse(r, WrongKind)
	case request.refused():
		s.refuse(r, RequestRefused)
	case r.author != request.parent:
		s.refuse(r, NotTheParent)
	case request.ended != never:
		s.refuse(r, RequestUsed)
	case s.hasParent(request.child):
		s.refuse(r, ChildHasParent)
	case s.wouldLoop(request.child, request.parent):
		s.refuse(r, Loop)
	default:
		r.decided = s.height
		request.ended, request.endedBy = s.height, r.txid
		return s.join(r.txid, request.txid, request.child, request.parent)
	}
	return nil
}

// decideRevoke cuts the link of the MLA target, which is nil if it is not
// confirmed; or refuses the MCR, or lets it wait.
func (s *step) decideRevoke(r, target *loadedRecord) {
	if target == nil || target.kind == protocol.MLA && target.decided == never {
		s.wait(r)
		return
	}
	s.attach(r, target)
	switch {
	case target.kind != protocol.MLA:
		s.refuse(r, WrongKind)
	case target.refused():
		s.refuse(r, AcceptRefused)
	case r.author != target.parent:
		s.refuse(r, NotTheParent)
	case target.ended != never:
		s.refuse(r, AlreadyRevoked)
	default:
		r.decided = s.height
		target.ended, target.endedBy = s.height, r.txid
		s.part(r.txid, target.txid, target.child, target.parent)
	}
}

func (s *step) hasParent(key protocol.KeyHash) bool {
	n := s.forest.find(key)
	return n != none && s.forest.parent[n] != none
}

// wouldLoop reports whether child is the root of parent's own tree.
func (s *step) wouldLoop(child, parent protocol.KeyHash) bool {
	c, p := s.forest.find(child), s.forest.find(parent)
	return c != none && p != none && s.forest.root(p) == c
}

// attach notes what an action's reference turned out to mean, and lists the
// action among those about the child and the parent that it concerns. One that
// refers to the wrong kind concerns nobody.
func (s *step) attach(r, target *loadedRecord) {
	r.refersTo = target.txid
	if r.kind == protocol.MLA && target.kind != protocol.MLR || r.kind == protocol.MCR && target.kind != protocol.MLA {
		return
	}
	r.hasParent, r.parent = target.hasParent, target.parent
	r.hasChild, r.child = target.hasChild, target.child
	// The author has had its mention since the action was confirmed.
	if r.hasParent && r.parent != r.author {
		s.mention(r, r.parent)
	}
	if r.hasChild && r.child != r.author {
		s.mention(r, r.child)
	}
}

func (s *step) refuse(r *loadedRecord, reason Reason) {
	r.decided, r.reason = s.height, reason
	s.counts.Refused++
	s.emit(Effect{Type: ActionRefused, Tx: r.txid, Kind: r.kind, Reason: reason, Author: r.author})
}

// wait lets an action wait for what it refers to.
func (s *step) wait(r *loadedRecord) {
	ref := r.reference.Canonical()
	s.setWaiting(ref, append(slices.Clone(s.waiting[ref]), waiter{r.at, r.txid}))
	s.w.insert(waitingKey(ref, r.at), r.txid[:])
	s.counts.Waiting++
	s.emit(Effect{Type: ActionWaiting, Tx: r.txid, Kind: r.kind, Author: r.author, Reference: r.reference})
}

func (s *step) emit(e Effect) { s.effects = e.appendTo(s.effects) }

// store writes the records that the block made or changed.
func (s *step) store() error {
	for _, r := range s.records {
		if value := r.encode(); string(value) != string(r.stored) {
			s.w.replace(actionKey(r.txid), r.stored, value)
		}
	}
	return nil
}
