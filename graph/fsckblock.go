package graph

import (
	"bytes"
	"errors"
	"maps"
	"slices"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
)

// block checks the block record and the effects of the block under way against
// each other and against the block above. record is nil if they cannot be read.
// hash is the state hash that should follow, before and after.
func (i *inspection) block(above blockRecord, hash *[32]byte) (record *blockRecord, effects []Effect, err error) {
	key := heightKey(prefixBlock, i.height)
	value, err := i.get(key)
	if err != nil || value == nil {
		return nil, nil, err
	}
	b, err := decodeBlockRecord(value)
	if err != nil {
		i.find(key, "%v", err)
		return nil, nil, nil
	}
	if i.height > i.params.StartHeight && b.prev != above.hash {
		i.find(key, "follows block %v, the one before it is %v", b.prev, above.hash)
	}
	encoded, err := i.chunks(prefixEffects)
	if err != nil {
		return nil, nil, err
	}
	// One wrong link of the chain is reported once: what follows may build on the
	// stored hash or on the right one.
	should := nextStateHash(*hash, b.hash, encoded)
	if b.stateHash != should && b.stateHash != nextStateHash(above.stateHash, b.hash, encoded) {
		i.find(key, "state hash %x, by its effects it is %x", b.stateHash, should)
	}
	*hash = should
	if effects, err = decodeEffects(encoded); err != nil {
		i.find(chunkKey(prefixEffects, i.height, 0), "%v", err)
		return nil, nil, nil
	}
	return &b, effects, nil
}

// chunks reads a long value of the block under way.
func (i *inspection) chunks(prefix byte) (value []byte, err error) {
	for n := uint32(0); ; n++ {
		key := chunkKey(prefix, i.height, n)
		chunk, err := read(i.txn, key)
		if err != nil || chunk == nil {
			return value, err
		}
		i.exists(key)
		if len(value)%chunkSize != 0 || len(chunk) == 0 || len(chunk) > chunkSize {
			i.find(key, "a chunk of %d bytes after %d", len(chunk), len(value))
		}
		value = append(value, chunk...)
	}
}

// replay does to the inspection's state what the effects say, and compares all
// that the block must have written.
func (i *inspection) replay(effects []Effect) error {
	i.want, i.undo = make(map[string][]byte), make(map[string][]byte)
	indexes := make(map[uint32]bool)
	var due []Effect // what has to come next
	for n := range effects {
		e := &effects[n]
		if len(due) > 0 {
			if *e != due[0] {
				i.find(chunkKey(prefixEffects, i.height, 0), "effect %d is %+v, it must be %+v", n, *e, due[0])
				i.stopped = true
				return nil
			}
			due = due[1:]
			continue
		}
		r, target, err := i.actionsOf(e)
		if err != nil {
			return err
		}
		if r != nil {
			if r.at.height == i.height && indexes[r.at.index] {
				i.find(actionKey(e.Tx), "its index in the block, %d, is another's", r.at.index)
			}
			indexes[r.at.index] = indexes[r.at.index] || r.at.height == i.height
			i.action(e, r, target)
			if err := i.messages(e.Tx, r); err != nil {
				return err
			}
		}
		problem := ""
		switch e.Type {
		case LinkFormed:
			due, problem, err = i.form(e)
		case LinkCut:
			due, problem = i.cut(e)
		case IdentityNamed, IdentityMerged:
			problem = "no link accounts for it"
		case ActionRefused:
			i.counts.Refused++
		}
		if err != nil {
			return err
		}
		if problem != "" {
			i.find(chunkKey(prefixEffects, i.height, 0), "effect %d, %+v: %s", n, *e, problem)
			i.stopped = true
			return nil
		}
	}
	if len(due) > 0 {
		i.find(chunkKey(prefixEffects, i.height, 0), "the last effect must be followed by %+v", due[0])
		i.stopped = true
		return nil
	}
	i.counts.Waiting = uint32(len(i.waiting))
	for _, key := range slices.Sorted(maps.Keys(i.want)) {
		if err := i.compare([]byte(key), i.want[key]); err != nil {
			return err
		}
		i.undo[key] = nil // there was nothing before
	}
	return i.undoRecord()
}

// actionsOf reads the records of the action that an effect is of and of the one
// that it refers to; nil where there is none, which has been reported.
func (i *inspection) actionsOf(e *Effect) (r, target *actionRecord, err error) {
	if e.Tx == (chainhash.Hash{}) {
		return nil, nil, nil
	}
	r, err = i.record(e.Tx)
	if err != nil || r == nil {
		return nil, nil, err
	}
	if r.refersTo != (chainhash.Hash{}) && e.Type != ActionWaiting {
		target, err = i.record(r.refersTo)
	}
	return r, target, err
}

func (i *inspection) record(txid chainhash.Hash) (*actionRecord, error) {
	key := actionKey(txid)
	value, err := read(i.txn, key)
	if err != nil {
		return nil, err
	}
	if value == nil {
		i.find(key, "missing")
		return nil, nil
	}
	r, err := decodeActionRecord(value)
	if err != nil {
		i.find(key, "%v", err)
		return nil, nil
	}
	if !bytes.Equal(r.encode(), value) {
		i.find(key, "holds what no action has")
	}
	return r, nil
}

// action compares an action's record with the effect that it had in the block
// under way, and counts what the block wrote because of it.
func (i *inspection) action(e *Effect, r, target *actionRecord) {
	key := actionKey(e.Tx)
	check := func(ok bool, problem string) {
		if !ok {
			i.find(key, "%s, not what effect %+v says", problem, *e)
		}
	}
	own := r.at.height == i.height
	if own {
		i.exists(key)
		i.mention(e.Tx, r, r.hasAuthor, r.author)
		i.mention(e.Tx, r, r.kind == protocol.MLR && r.hasParent, r.parent)
	}
	if e.Type == ActionWaiting {
		check(own && r.decided > i.height, "decided at another time")
		check(r.kind == e.Kind && r.hasAuthor && r.author == e.Author && r.hasReference && r.reference == e.Reference, "kind, author or reference")
		i.waiting[e.Tx] = r
		i.undo[string(waitingKey(r.reference.Canonical(), r.at))] = nil
		i.undo[string(key)] = r.before(i.height)
		return
	}

	i.decided++
	check(r.decided == i.height, "decided at another time")
	if _, waited := i.waiting[e.Tx]; waited {
		delete(i.waiting, e.Tx)
		i.undo[string(waitingKey(r.reference.Canonical(), r.at))] = bytes.Clone(e.Tx[:])
	} else {
		check(own, "confirmed at another time")
	}
	if r.kind != protocol.MLR && target != nil {
		i.mention(e.Tx, r, r.hasParent && r.parent != r.author, r.parent)
		i.mention(e.Tx, r, r.hasChild && r.child != r.author, r.child)
	}
	i.undo[string(key)] = r.before(i.height)

	check(r.hasAuthor == (e.Type != ActionRefused || e.Author != protocol.KeyHash{}), "author")
	check((r.reason == NoReason) == (e.Type != ActionRefused), "reason")
	check(r.refersTo == (chainhash.Hash{}) || r.hasReference && r.reference.Means(r.refersTo), "what it refers to")
	check((target != nil) == (r.kind != protocol.MLR && r.reason != Malformed && r.reason != NoAuthor), "whether it refers to something")
	check(i.concerns(r, target), "parent or child")
	kind, targetKind := protocol.MLR, protocol.Kind(0)
	switch e.Type {
	case LinkFormed:
		kind, targetKind = protocol.MLA, protocol.MLR
	case LinkCut:
		kind, targetKind = protocol.MCR, protocol.MLA
	case ActionRefused:
		check(r.kind == e.Kind && r.author == e.Author && r.ended == never, "kind, author or end")
		check(r.reason == e.Reason && (target == nil || i.refusal(e.Reason, r, target)), "reason")
		return
	}
	check(r.kind == kind, "kind")
	check(r.hasParent && r.hasChild && r.parent == e.Parent && r.child == e.Child, "parent or child")
	if e.Type == RequestOpened {
		check(r.author == e.Child, "author")
		return
	}
	check(r.author == e.Parent && r.refersTo == e.Ref, "author, or what it refers to")
	if target == nil {
		return
	}
	i.ended++
	check(target.kind == targetKind && !target.refused() && target.decided <= i.height &&
		target.parent == e.Parent && target.child == e.Child, "what it refers to is something else")
	if target.ended != i.height || target.endedBy != e.Tx {
		i.find(actionKey(e.Ref), "ended otherwise than effect %+v says", *e)
	}
	if _, ok := i.undo[string(actionKey(e.Ref))]; !ok {
		i.undo[string(actionKey(e.Ref))] = target.before(i.height)
	}
}

// concerns reports whether a decided action's parent and child are as they must
// be: of a request its own, else those of what it refers to.
func (i *inspection) concerns(r, target *actionRecord) bool {
	switch {
	case r.reason == Malformed:
		return !r.hasParent && !r.hasChild && !r.hasReference
	case r.kind == protocol.MLR:
		return r.hasParent && r.hasChild == r.hasAuthor && r.child == r.author && (r.reason == SelfLink) == (r.hasAuthor && r.parent == r.author)
	case target == nil:
		return !r.hasParent && !r.hasChild
	case r.reason == WrongKind && !r.hasParent && !r.hasChild:
		return true // what the target is about may not have been known yet
	}
	return r.hasParent == target.hasParent && r.parent == target.parent && r.hasChild == target.hasChild && r.child == target.child
}

// refusal reports whether the reason can be why r, which refers to target, was
// refused in the block under way.
func (i *inspection) refusal(reason Reason, r, target *actionRecord) bool {
	switch reason {
	case WrongKind:
		return r.kind == protocol.MLA && target.kind != protocol.MLR || r.kind == protocol.MCR && target.kind != protocol.MLA
	case RequestRefused:
		return r.kind == protocol.MLA && target.refused()
	case AcceptRefused:
		return r.kind == protocol.MCR && target.refused()
	case NotTheParent:
		return r.author != target.parent
	case RequestUsed:
		return r.kind == protocol.MLA && target.ended <= i.height
	case AlreadyRevoked:
		return r.kind == protocol.MCR && target.ended <= i.height
	case ChildHasParent, Loop:
		return r.kind == protocol.MLA && target.decided <= i.height
	}
	return false
}

// mention expects that an action is listed among those by and about key, if it
// is.
func (i *inspection) mention(txid chainhash.Hash, r *actionRecord, is bool, key protocol.KeyHash) {
	if is {
		i.want[string(mentionKey(key, r.at))] = bytes.Clone(txid[:])
	}
}

// messages checks the chunks of a long message of the block under way.
func (i *inspection) messages(txid chainhash.Hash, r *actionRecord) error {
	if r.at.height != i.height || r.messageLen <= inlineMessage {
		return nil
	}
	for n, left := uint32(0), int(r.messageLen); left > 0; n++ {
		key := messageKey(txid, n)
		i.undo[string(key)] = nil
		chunk, err := i.get(key)
		if err != nil || chunk == nil {
			return err
		}
		if want := min(left, chunkSize); len(chunk) != want {
			i.find(key, "holds %d bytes, expected %d", len(chunk), want)
		}
		left -= chunkSize
	}
	return nil
}

// before returns the record as it was before the block at height, nil if the
// action was not confirmed then.
func (r *actionRecord) before(height uint32) []byte {
	if r.at.height >= height {
		return nil
	}
	old := *r
	if old.ended >= height {
		old.ended, old.endedBy = never, chainhash.Hash{}
	}
	if old.decided >= height {
		old.decided, old.reason, old.refersTo = never, NoReason, chainhash.Hash{}
		if old.kind != protocol.MLR {
			old.hasParent, old.hasChild = false, false
			old.parent, old.child = protocol.KeyHash{}, protocol.KeyHash{}
		}
	}
	return old.encode()
}

// undoRecord compares the undo record of the block under way with what taking it
// back needs.
func (i *inspection) undoRecord() error {
	if i.height < i.undoFrom {
		return nil
	}
	key := chunkKey(prefixUndo, i.height, 0)
	encoded, err := i.chunks(prefixUndo)
	if err != nil {
		return err
	}
	err = eachEntry(encoded, func(entry, old []byte) {
		want, ok := i.undo[string(entry)]
		switch {
		case !ok:
			i.find(key, "it brings back %x, which the block did not change, or brings it back twice", entry)
		case !bytes.Equal(old, want) || (old == nil) != (want == nil):
			i.find(key, "it brings back %x as %s, before the block it was %s", entry, shown(old), shown(want))
		}
		delete(i.undo, string(entry))
	})
	if errors.Is(err, ErrDamaged) {
		i.find(key, "%v", err)
		return nil
	}
	for _, entry := range slices.Sorted(maps.Keys(i.undo)) {
		i.find(key, "it does not bring back %x", entry)
	}
	return err
}
