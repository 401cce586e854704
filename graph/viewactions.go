package graph

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/dgraph-io/badger/v4"
	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
)

// find returns the number of an action that was confirmed by the view's height.
// ErrNotFound if there is none.
func (v *View) find(s *state, txid chainhash.Hash) (int32, error) {
	if n := s.txids.Find(txid); n != none && s.heightOf(n) <= v.height {
		return n, nil
	}
	return none, fmt.Errorf("action %v as of height %d: %w", txid, v.height, ErrNotFound)
}

// stateAt returns the state of an action as of a height at which it was
// confirmed, and since when.
func (s *state) stateAt(action int32, height uint32) (state State, since uint32) {
	a := s.actions.Ref(action)
	switch {
	case a.decided > height:
		return StateWaiting, s.heightOf(action)
	case a.refused():
		return StateRefused, a.decided
	case a.kind == protocol.MCR:
		return StateDone, a.decided
	}
	entered, left := StateOpen, StateUsed
	if a.kind == protocol.MLA {
		entered, left = StateInForce, StateCut
	}
	if a.ended != none && s.actions.Ref(a.ended).decided <= height {
		return left, s.actions.Ref(a.ended).decided
	}
	return entered, a.decided
}

// Action describes an action by its txid. ErrNotFound if no action of that txid
// was confirmed as of the view; ErrReorganised.
func (v *View) Action(txid chainhash.Hash) (a ActionStatus, err error) {
	err = v.withStore(func(s *state, txn *badger.Txn) error {
		n, err := v.find(s, txid)
		if err != nil {
			return err
		}
		stored, err := s.stored(txn, n)
		if err != nil {
			return err
		}
		a, err = v.describe(s, txn, n, &stored)
		return err
	})
	return a, err
}

// describe says what is known of an action as of the view.
func (v *View) describe(s *state, txn *badger.Txn, n int32, stored *storedAction) (ActionStatus, error) {
	fate := s.actions.Ref(n)
	state, since := s.stateAt(n, v.height)
	a := ActionStatus{
		TxID: stored.txid, Kind: stored.kind, Height: s.heightOf(n), Index: stored.index,
		Message: stored.message, State: state, Decided: since,
	}
	hash := func(key int32) *protocol.KeyHash {
		if key == none {
			return nil
		}
		h := s.keys.Key(key)
		return &h
	}
	txid := func(action int32) *chainhash.Hash {
		h := s.txids.Key(action)
		return &h
	}
	a.Author = hash(fate.author)
	if !stored.malformed && stored.kind != protocol.MLR {
		a.Ref = &stored.reference
	}
	// What a waiting action concerns is not known yet.
	if state != StateWaiting {
		a.Parent, a.Child = hash(fate.parent), hash(fate.child)
		if a.Ref != nil && fate.reason != NoAuthor {
			if target := s.find(*a.Ref); target != none {
				a.RefTx = txid(target)
			}
		}
	}
	switch state {
	case StateRefused:
		a.Reason = fate.reason
	case StateUsed, StateCut:
		a.By = txid(fate.ended)
	}
	if stored.messageLen > inlineMessage {
		var err error
		if a.Message, err = longMessage(txn, position{a.Height, a.Index}, stored.messageLen); err != nil {
			return ActionStatus{}, err
		}
	}
	return a, nil
}

func longMessage(txn *badger.Txn, at position, length uint32) ([]byte, error) {
	var message []byte
	for n := uint32(0); uint32(len(message)) < length; n++ {
		chunk, err := read(txn, messageKey(at, n))
		if err != nil {
			return nil, err
		}
		if len(chunk) == 0 {
			return nil, fmt.Errorf("%w: the message of the action at height %d, index %d is cut short", ErrDamaged, at.height, at.index)
		}
		message = append(message, chunk...)
	}
	return message, nil
}

// maxPageBytes is where ActionsOf ends a page early for the size of its
// messages.
const maxPageBytes = 1 << 20

// ActionsOf lists up to limit actions by and about a key, in order of position,
// after the cursor; a nil cursor starts with the first. next is nil at the end.
// A page of very long messages holds fewer than limit. ErrReorganised.
func (v *View) ActionsOf(ctx context.Context, key protocol.KeyHash, after *ActionCursor, limit int) (actions []ActionStatus, next *ActionCursor, err error) {
	err = v.withStore(func(s *state, txn *badger.Txn) error {
		n := s.keys.Find(key)
		if n == none {
			return nil
		}
		l := mentionList{s: s, txn: txn, key: n, height: v.height}
		if after != nil {
			l.from = s.firstAfter(position{after.Height, after.Index})
		}
		size := 0
		return l.each(func(n int32, stored *storedAction) (bool, error) {
			if len(actions) >= limit || size > maxPageBytes {
				last := &actions[len(actions)-1]
				next = &ActionCursor{last.Height, last.Index}
				return false, nil
			}
			a, err := v.describe(s, txn, n, stored)
			if err != nil {
				return false, err
			}
			actions = append(actions, a)
			size += len(a.Message)
			return true, ctx.Err()
		})
	})
	if err != nil {
		return nil, nil, err
	}
	return slices.Clip(actions), next, nil
}

// mentionList is the actions by and about a key, from a number on, as of a
// height. Each action names the one before it that mentions the key, so the list
// is walked backwards from landmark to landmark, and turned round.
type mentionList struct {
	s      *state
	txn    *badger.Txn
	key    int32
	from   int32 // number of the first action of interest
	height uint32
}

// mentioned is an action in the list.
type mentioned struct {
	number int32
	storedAction
}

// each visits the list in order of position until visit says that it is enough.
func (l *mentionList) each(visit func(n int32, stored *storedAction) (more bool, err error)) error {
	end := l.s.firstAfter(position{l.height, never})
	late := newIterator(l.txn, l.mentionKey(prefixLate, 0)[:21])
	defer late.Close()
	late.Seek(l.mentionKey(prefixLate, l.from))
	for from := l.from; from < end; {
		landmark, ok := l.landmark(from)
		last := landmark
		if !ok {
			landmark, last = end, l.s.mentioned.Ref(l.key).last
		}
		some, err := l.between(from, last)
		if err != nil {
			return err
		}
		for {
			n := l.nextLate(late)
			var next mentioned
			switch {
			case len(some) > 0 && (n == none || some[0].number < n):
				next, some = some[0], some[1:]
			case n != none && n <= landmark:
				stored, err := l.s.stored(l.txn, n)
				if err != nil {
					return err
				}
				next = mentioned{n, stored}
				late.Next()
			default:
				next.number = none
			}
			if next.number == none {
				break
			}
			if next.number >= end {
				return nil
			}
			if more, err := visit(next.number, &next.storedAction); err != nil || !more {
				return err
			}
		}
		from = landmark + 1
	}
	return nil
}

// nextLate returns the next action that turned out to be about the key after its
// own block, as far as that was known as of the height; none at the end.
func (l *mentionList) nextLate(late *badger.Iterator) int32 {
	for ; late.Valid(); late.Next() {
		if n := actionInKey(late.Item().Key()); n < l.s.actions.Len() && l.s.actions.Ref(n).decided <= l.height {
			return n
		}
	}
	return none
}

func (l *mentionList) mentionKey(prefix byte, action int32) []byte {
	return mentionKey(prefix, l.s.keys.Key(l.key), action)
}

// actionInKey reads the action off a key made by mentionKey.
func actionInKey(key []byte) int32 { return int32(binary.BigEndian.Uint32(key[21:])) }

// landmark returns the first landmark from a number on.
func (l *mentionList) landmark(from int32) (action int32, ok bool) {
	it := newIterator(l.txn, l.mentionKey(prefixLandmark, 0)[:21])
	defer it.Close()
	if it.Seek(l.mentionKey(prefixLandmark, from)); !it.Valid() {
		return none, false
	}
	n := actionInKey(it.Item().Key())
	return n, n < l.s.actions.Len() // else it lies above the tip
}

// between walks back from the action last, which mentions the key, to the number
// from, and returns what it met in order of position.
func (l *mentionList) between(from, last int32) (met []mentioned, err error) {
	for n := last; n >= from; {
		stored, err := l.s.stored(l.txn, n)
		if err != nil {
			return nil, err
		}
		met = append(met, mentioned{n, stored})
		keys, count := l.s.mentions(n, l.s.heightOf(n))
		i := slices.Index(keys[:count], l.key)
		if i < 0 || i >= len(stored.previous) || stored.previous[i] >= n {
			return nil, fmt.Errorf("%w: action %v does not say which one mentions the same key before it", ErrDamaged, stored.txid)
		}
		n = stored.previous[i]
	}
	slices.Reverse(met)
	return met, nil
}
