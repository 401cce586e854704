package links

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// find returns the number of an action that was confirmed by the view's height.
// ErrNotFound if there is none.
func (v *Identities) find(txid chainhash.Hash) (int32, error) {
	n, err := v.ledger.number(txid)
	if err == nil && (n == none || v.ledger.heightOf(n) > v.height) {
		err = notThere(txid, v.height)
	}
	return n, err
}

func notThere(txid chainhash.Hash, height uint32) error {
	return fmt.Errorf("action %v as of height %d: %w", txid, height, store.ErrNotFound)
}

// Action describes an action by its txid. ErrNotFound if no action of that txid
// was confirmed as of the view; ErrReorganised. It reads 14 records at most, the message,
// and to find the action a chunk of each run of txids (package txids).
func (v *Identities) Action(txid chainhash.Hash) (ActionStatus, error) {
	if err := v.stillThere(); err != nil {
		return ActionStatus{}, err
	}
	n, err := v.find(txid)
	if err != nil {
		return ActionStatus{}, err
	}
	stored, err := v.ledger.action(n)
	if err != nil {
		return ActionStatus{}, err
	}
	return v.describe(n, &stored)
}

// describe says what is known of an action as of the view.
func (v *Identities) describe(n int32, stored *storedAction) (ActionStatus, error) {
	a := ActionStatus{
		TxID: stored.txid, Kind: stored.kind, Height: v.ledger.heightOf(n), Index: stored.index, Message: stored.message,
	}
	if stored.hasAuthor {
		a.Author = &stored.author
	}
	if !stored.malformed && stored.kind != protocol.MLR {
		a.Ref = &stored.reference
	}
	fate, err := fateOf(&v.ledger, n, stored)
	if err != nil {
		return ActionStatus{}, err
	}
	a.State, a.Decided = StateWaiting, a.Height
	if fate.height <= v.height { // what a waiting action concerns is not known yet
		if err := v.describeFate(&a, n, stored, &fate); err != nil {
			return ActionStatus{}, err
		}
	}
	if stored.messageLen > inlineMessage {
		if a.Message, err = LongMessage(v.ledger.txn, store.Position{Height: a.Height, Index: a.Index}, stored.messageLen); err != nil {
			return ActionStatus{}, err
		}
	}
	return a, nil
}

// describeFate says what became of an action that is decided as of the view.
func (v *Identities) describeFate(a *ActionStatus, n int32, stored *storedAction, of *fate) error {
	about, err := aboutOf(&v.ledger, stored, of)
	if err != nil {
		return err
	}
	if about.hasParent {
		a.Parent = &about.parent
	}
	if about.hasChild {
		a.Child = &about.child
	}
	if of.target != none {
		target, err := v.ledger.action(of.target)
		if err != nil {
			return err
		}
		a.RefTx = &target.txid
	}
	a.Decided = of.height
	switch {
	case of.refused():
		a.State, a.Reason = StateRefused, of.reason
		return nil
	case stored.kind == protocol.MCR:
		a.State = StateDone
		return nil
	}
	request, entered, left := n, StateOpen, StateUsed
	if stored.kind == protocol.MLA {
		request, entered, left = of.target, StateInForce, StateCut
	}
	a.State = entered
	link, cut, linked, err := v.linkOf(request, about.child)
	if err != nil || !linked {
		return err
	}
	by, since := link.accept, link.linked
	if stored.kind == protocol.MLA {
		by, since = link.revoke, link.cut
		if !cut {
			return nil
		}
	}
	if since > v.height {
		return nil
	}
	ended, err := v.ledger.action(by)
	a.State, a.Decided, a.By = left, since, &ended.txid
	return err
}

// linkOf returns the link of a request, whose child is given, as far as there has been
// one; and whether it was cut.
func (v *Identities) linkOf(request int32, child protocol.KeyHash) (link cutLink, cut, linked bool, err error) {
	if link, ok := v.state.link(v.state.keys.Find(child)); ok && link.request == request {
		return cutLink{accept: link.accept, linked: link.linked}, false, true, nil
	}
	link, cut, err = v.ledger.cut(request)
	return link, cut, cut, err
}

// LongMessage reads the message of the action at a position, which has length bytes: more than
// stand beside an action. ErrDamaged if it is not all there.
func LongMessage(txn *store.Txn, at store.Position, length uint32) ([]byte, error) {
	var message []byte
	for n := uint32(0); uint32(len(message)) < length; n++ {
		chunk, err := store.Read(txn, store.MessageKey(at, n))
		if err != nil {
			return nil, err
		}
		if len(chunk) == 0 {
			return nil, fmt.Errorf("%w: the message of the action at height %d, index %d is cut short", store.ErrDamaged, at.Height, at.Index)
		}
		message = append(message, chunk...)
	}
	return message, nil
}

// PageBytes is how many bytes of messages end a page early, which may have one message more. A byte of a message may take eight
// of an answer in JSON.
const PageBytes = 512 << 10

// ActionsOf lists up to limit actions by and about a key, in order of position, after the cursor;
// a nil cursor starts with the first. next is nil at the end. A page of very long messages holds
// fewer than limit, and so does one for which too much has to be passed over, maybe none: what
// counts is next. It reads what Action does for each and to find the first that mentions the key, 64 actions to come to
// the first of the page, and 4,096 that it passes over at most. ErrReorganised.
func (v *Identities) ActionsOf(ctx context.Context, key protocol.KeyHash, after *store.Position, limit int) (actions []ActionStatus, next *store.Position, err error) {
	if err := v.stillThere(); err != nil {
		return nil, nil, err
	}
	list, err := v.mentions(key)
	if err != nil {
		return nil, nil, err
	}
	if after != nil {
		if list.from, err = v.ledger.firstAfter(*after); err != nil {
			return nil, nil, err
		}
	}
	size := 0
	err = list.each(func(n int32, stored *storedAction) (bool, error) {
		if len(actions) >= limit || size > PageBytes {
			last := &actions[len(actions)-1]
			next = &store.Position{Height: last.Height, Index: last.Index}
			return false, nil
		}
		a, err := v.describe(n, stored)
		if err != nil {
			return false, err
		}
		actions = append(actions, a)
		size += len(a.Message)
		return true, ctx.Err()
	})
	if err == nil && next == nil && list.rest != none {
		next, err = v.ledger.cursorBefore(list.rest)
	}
	if err != nil {
		return nil, nil, err
	}
	return slices.Clip(actions), next, nil
}

// cursorBefore returns a cursor behind which the action of a number, which is not the first, comes
// next.
func (l *ledger) cursorBefore(n int32) (*store.Position, error) {
	before, err := l.action(n - 1)
	if err != nil {
		return nil, err
	}
	return &store.Position{Height: l.heightOf(n - 1), Index: before.index}, nil
}

// firstAfter returns the number of the first action after a position.
func (l *ledger) firstAfter(p store.Position) (int32, error) {
	block := search(l.blocks.Len(), func(i int32) bool { return l.blocks.Ref(i).height >= p.Height })
	from := l.firstOf(block)
	if block == l.blocks.Len() || l.blocks.At(block).height > p.Height {
		return from, nil
	}
	var err error
	return from + search(l.firstOf(block+1)-from, func(i int32) bool {
		a, readErr := l.action(from + i)
		if readErr != nil {
			err = readErr
		}
		return a.index > p.Index
	}), err
}

// firstFrom returns the number of the first action of the blocks from a height on, or the next number if there is
// none.
func (l *ledger) firstFrom(height uint32) int32 {
	return l.firstOf(search(l.blocks.Len(), func(i int32) bool { return l.blocks.Ref(i).height >= height }))
}

// firstOf returns the number of the first action of a block, or the next number if
// there is no such block.
func (l *ledger) firstOf(block int32) int32 {
	if block < l.blocks.Len() {
		return l.blocks.At(block).first
	}
	return l.known
}

// mentionList is the actions by and about a key, from a number on, as of a
// height. Those of its chain name the one before, so the list is walked backwards from
// landmark to landmark, and turned round.
type mentionList struct {
	*ledger
	key    protocol.KeyHash
	first  int32 // that mentions it, if it was in no identity then, else none: before all landmarks
	last   int32 // the last of its chain, none if it has none
	from   int32 // number of the first action of interest
	height uint32

	passed int   // how many late mentions were passed over
	rest   int32 // number from which on the list goes on, if too many were; else none
}

// mentions returns the actions by and about a key as of the view, from the first on.
func (v *Identities) mentions(key protocol.KeyHash) (mentionList, error) {
	list := mentionList{ledger: &v.ledger, key: key, last: none, height: v.height, rest: none}
	if n := v.state.inIdentity(key); n != none {
		list.last = v.state.places.Ref(n).mentioned
	}
	var err error
	list.first, err = v.ledger.firstMention(key)
	return list, err
}

// maxPassed is how many late mentions of a key are passed over for one page, since they were
// decided after the height that is asked about: anybody can make as many as he pays for.
const maxPassed = 4096

// mentioned is an action in the list.
type mentioned struct {
	number int32
	storedAction
}

// each visits the list in order of position until visit says that it is enough, or too much has
// been passed over.
func (l *mentionList) each(visit func(n int32, stored *storedAction) (more bool, err error)) error {
	end := l.firstFrom(l.height + 1)
	landmarks, late := l.records(store.PrefixLandmark), l.records(store.PrefixLate)
	defer landmarks.Close()
	defer late.Close()
	for from := l.from; from < end; {
		next, last := end, l.last // behind the next landmark; the last before that
		if l.first >= from {
			next, last = l.first+1, l.first
		} else if landmark := l.at(landmarks); landmark != none {
			next, last = landmark+1, landmark
			landmarks.Next()
		}
		chain, err := l.between(from, last)
		if err != nil {
			return err
		}
		if more, err := l.merge(chain, late, min(next, end), visit); err != nil || !more {
			return err
		}
		from = next
	}
	return nil
}

// merge visits some of the chain, and the late mentions among them, below the number end.
func (l *mentionList) merge(chain []mentioned, late *store.Iterator, end int32, visit func(n int32, stored *storedAction) (more bool, err error)) (more bool, err error) {
	for {
		before := end
		if len(chain) > 0 {
			before = min(before, chain[0].number)
		}
		n, err := l.nextLate(late, before)
		var next mentioned
		switch {
		case err != nil || l.rest != none:
			return false, err
		case n != none:
			late.Next()
			if next.storedAction, err = l.action(n); err != nil {
				return false, err
			}
			next.number = n
		case len(chain) == 0 || chain[0].number >= end:
			return true, nil
		default:
			next, chain = chain[0], chain[1:]
		}
		if more, err := visit(next.number, &next.storedAction); err != nil || !more {
			return false, err
		}
	}
}

// records returns an iterator over the key's records under a prefix, from the first
// action of interest on.
func (l *mentionList) records(prefix byte) *store.Iterator {
	it := store.NewIterator(l.txn, store.NumberedKey(prefix, l.key, 0)[:21])
	it.Seek(store.NumberedKey(prefix, l.key, l.from))
	return it
}

// at returns the action that an iterator of records is at; none at the end.
func (l *mentionList) at(it *store.Iterator) int32 {
	if !it.Valid() {
		return none
	}
	n := int32(binary.BigEndian.Uint32(it.Item().Key()[21:]))
	if n >= l.known {
		return none
	}
	return n
}

// nextLate returns the next action, of a number below before, that turned out to be about the
// key after its own block, as far as that was known as of the height; none if there is none. Once
// maxPassed were passed over it sets rest.
func (l *mentionList) nextLate(late *store.Iterator, before int32) (int32, error) {
	for ; ; late.Next() {
		n := l.at(late)
		if n == none || n >= before {
			return none, nil
		}
		if l.passed >= maxPassed {
			l.rest = n
			return none, nil
		}
		if o, ok, err := l.late(n); err != nil || ok && o.height <= l.height {
			return n, err
		}
		l.passed++
	}
}

// between walks back from the action last, which mentions the key, to the number
// from, and returns what it met in order of position.
func (l *mentionList) between(from, last int32) (met []mentioned, err error) {
	for n := last; n >= from; {
		stored, err := l.action(n)
		if err != nil {
			return nil, err
		}
		met = append(met, mentioned{n, stored})
		if n, err = stored.before(n, l.key); err != nil {
			return nil, err
		}
	}
	slices.Reverse(met)
	return met, nil
}

// mentioning returns the action's place in the list of a key; ok is false if it does
// not mention it.
func (a *storedAction) mentioning(key protocol.KeyHash) (m mentioning, ok bool) {
	keys, n := a.keys()
	i := slices.Index(keys[:n], key)
	if i < 0 {
		return m, false
	}
	return a.mentions[i], true
}

// before returns the number of the action before this one, of number n, in the chain of a key; none if it is the
// first, or in none.
func (a *storedAction) before(n int32, key protocol.KeyHash) (int32, error) {
	m, ok := a.mentioning(key)
	if !ok || m.previous >= n {
		return none, fmt.Errorf("%w: action %v does not say which one mentions the same key before it", store.ErrDamaged, a.txid)
	}
	return m.previous, nil
}

// ReadActions reads the actions of the block at height as they were given to Apply, in order of
// position, from what is stored of them; longMessage reads the messages that are stored apart.
// Only that they are malformed is known of those that are. ErrDamaged.
func ReadActions(txn *store.Txn, height uint32, longMessage func(at store.Position, length uint32) ([]byte, error)) (actions []Action, err error) {
	err = eachAction(txn, height, func(stored *storedAction) (err error) {
		a := stored.given()
		if stored.messageLen > inlineMessage {
			a.Message, err = longMessage(store.Position{Height: height, Index: a.Index}, stored.messageLen)
		}
		actions = append(actions, a)
		return err
	})
	return actions, err
}

// eachAction visits the actions of the block at height, as they are stored, in order of position.
func eachAction(txn *store.Txn, height uint32, visit func(stored *storedAction) error) error {
	return store.EachChunk(txn, store.PrefixActions, height, func(_ uint32, chunk []byte) error {
		actions, err := decodeActions(chunk)
		for i := range actions {
			if err == nil {
				err = visit(&actions[i])
			}
		}
		return err
	})
}

// given returns the action as it was given, but for a long message.
func (a *storedAction) given() Action {
	action := Action{Index: a.index, TxID: a.txid, Action: protocol.Action{Kind: a.kind, Parent: a.parent, Ref: a.reference, Message: a.message}}
	if a.hasAuthor {
		action.Author = &a.author
	}
	if a.malformed {
		action.Malformed = errMalformed
	}
	return action
}

// errMalformed stands for whatever made an action malformed, which is not stored.
var errMalformed = errors.New("malformed")
