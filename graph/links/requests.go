package links

import (
	"context"
	"encoding/binary"
	"slices"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// RequestState is what has become of a link request as of a block, and of the link that it asked
// for. Several make up a question.
type RequestState uint8

// The states of a request.
const (
	OpenRequest     RequestState = 1 << iota // it may be accepted
	AcceptedRequest                          // its link is in force
	CutRequest                               // its link was in force, and was cut
	RefusedRequest                           // for good

	AnyRequest = OpenRequest | AcceptedRequest | CutRequest | RefusedRequest
)

// Request is a link request, and what has become of it and of its link as of a block.
type Request struct {
	ActionStatus                 // of the MLR
	Link         RequestState    // one of them
	Since        uint32          // height at which it entered that state
	Revoke       *chainhash.Hash // CutRequest: the MCR. The MLA is By.
}

// Requests lists up to limit of the link requests that name a key as the parent, and are in one of the states:
// the newest first, in the reverse order of position. They begin with the one at a position, if one is given, and next is
// that of the one with which the next page begins; nil at the end. A page of very long messages holds fewer than
// limit, and so does one for which too much has to be passed over, maybe none: what counts is next. It reads what
// Action does and one more for each, what Action does to find the first that mentions the key, 64 actions to come to the first, and 4,096 actions at most that it passes over, and what became
// of the links of those that are requests. ErrReorganised.
func (v *Identities) Requests(ctx context.Context, parent protocol.KeyHash, states RequestState, from *store.Position, limit int) (requests []Request, next *store.Position, err error) {
	if err := v.stillThere(); err != nil {
		return nil, nil, err
	}
	list, err := v.mentions(parent)
	if err != nil {
		return nil, nil, err
	}
	end := v.ledger.firstFrom(v.height + 1)
	if from != nil {
		behind, err := v.ledger.firstAfter(*from)
		if err != nil {
			return nil, nil, err
		}
		end = min(end, behind)
	}
	size, passed := 0, 0
	err = list.eachBack(end, func(n int32, stored *storedAction) (bool, error) {
		if len(requests) >= limit || size > PageBytes || passed >= maxPassed {
			next = &store.Position{Height: v.ledger.heightOf(n), Index: stored.index}
			return false, nil
		}
		var r *Request
		if stored.asks(parent) {
			var err error
			if r, err = v.request(n, stored, states); err != nil {
				return false, err
			}
		}
		if r == nil {
			passed++
		} else {
			requests = append(requests, *r)
			size += len(r.Message)
		}
		return true, ctx.Err()
	})
	if err != nil {
		return nil, nil, err
	}
	return slices.Clip(requests), next, nil
}

// asks tells whether the action is a request that names a key as the parent.
func (a *storedAction) asks(parent protocol.KeyHash) bool {
	return a.kind == protocol.MLR && a.hasParent && a.parent == parent
}

// request describes a request, whose number is n, if it is in one of the states; nil if not.
func (v *Identities) request(n int32, stored *storedAction, states RequestState) (*Request, error) {
	r := Request{Link: RefusedRequest, Since: v.ledger.heightOf(n)}
	revoke := int32(none)
	if stored.reason == NoReason {
		link, cut, linked, err := v.linkOf(n, stored.child)
		switch {
		case err != nil:
			return nil, err
		case !linked || link.linked > v.height:
			r.Link = OpenRequest
		case !cut || link.cut > v.height:
			r.Link, r.Since = AcceptedRequest, link.linked
		default:
			r.Link, r.Since, revoke = CutRequest, link.cut, link.revoke
		}
	}
	if r.Link&states == 0 {
		return nil, nil
	}
	if revoke != none {
		by, err := v.ledger.action(revoke)
		if err != nil {
			return nil, err
		}
		r.Revoke = &by.txid
	}
	var err error
	r.ActionStatus, err = v.describe(n, stored)
	return &r, err
}

// Request describes a link request by its txid. ErrNotFound if no request of that txid was confirmed as of the
// view; ErrReorganised. It reads one record more than Action does.
func (v *Identities) Request(txid chainhash.Hash) (Request, error) {
	if err := v.stillThere(); err != nil {
		return Request{}, err
	}
	n, err := v.find(txid)
	if err != nil {
		return Request{}, err
	}
	stored, err := v.ledger.action(n)
	if err != nil {
		return Request{}, err
	}
	if stored.kind != protocol.MLR {
		return Request{}, notThere(txid, v.height)
	}
	r, err := v.request(n, &stored, AnyRequest)
	if err != nil {
		return Request{}, err
	}
	return *r, nil
}

// maxTouching is how many actions of its own block Touched looks at: anybody can make as many as he pays for.
const maxTouching = 1000

// Touched lists the link requests that name a key as the parent and on which something in the view's own block
// bears: those in it, and those that the key accepts there, or whose link it cuts. It looks at the last
// 1,000 actions there at most by and about the key, up to four records each; more tells whether there are others.
func (v *Identities) Touched(ctx context.Context, parent protocol.KeyHash) (requests []chainhash.Hash, more bool, err error) {
	if err := v.stillThere(); err != nil {
		return nil, false, err
	}
	list, err := v.mentions(parent)
	if err != nil {
		return nil, false, err
	}
	first := v.ledger.firstFrom(v.height)
	looked, known := 0, make(map[int32]bool)
	err = list.eachBack(v.ledger.firstFrom(v.height+1), func(n int32, stored *storedAction) (bool, error) {
		if n < first {
			return false, nil
		}
		if looked++; looked > maxTouching {
			more = true
			return false, nil
		}
		request, asked, err := v.askedBy(n, stored)
		if err == nil && request != none && asked.asks(parent) && !known[request] {
			known[request] = true
			requests = append(requests, asked.txid)
		}
		if err == nil {
			err = ctx.Err()
		}
		return err == nil, err
	})
	return requests, more, err
}

// askedBy returns the request that an action of a number is, accepts, or whose link it cuts, as far as that is known; none if there
// is no such.
func (v *Identities) askedBy(n int32, stored *storedAction) (int32, *storedAction, error) {
	for stored.kind != protocol.MLR {
		of, err := fateOf(&v.ledger, n, stored)
		if err != nil || of.target == none || of.refused() {
			return none, nil, err
		}
		n = of.target
		target, err := v.ledger.action(n)
		if err != nil {
			return none, nil, err
		}
		stored = &target
	}
	return n, stored, nil
}

// eachBack visits the list from the last number below end on, the newest first, until visit says that it is enough. It leaves out
// what turned out to be about the key after its own block: no request does.
func (l *mentionList) eachBack(end int32, visit func(n int32, stored *storedAction) (more bool, err error)) error {
	n, err := l.lastBelow(end)
	if err != nil {
		return err
	}
	for n != none {
		stored, err := l.action(n)
		if err != nil {
			return err
		}
		if more, err := visit(n, &stored); err != nil || !more {
			return err
		}
		end = n
		if n, err = stored.before(n, l.key); err != nil {
			return err
		}
	}
	// Before the chain come those that are in none: landmarks, and the first of all.
	more := true
	look := func(n int32) (bool, error) {
		stored, err := l.action(n)
		if err == nil {
			more, err = visit(n, &stored)
		}
		return more, err
	}
	prefix := store.NumberedKey(store.PrefixLandmark, l.key, 0)[:21]
	err = store.EachKeyBefore(l.txn, prefix, store.NumberedKey(store.PrefixLandmark, l.key, end), func(key []byte) (bool, error) {
		return look(int32(binary.BigEndian.Uint32(key[21:])))
	})
	if err == nil && more && l.first != none && l.first < end {
		_, err = look(l.first)
	}
	return err
}

// lastBelow returns the last action of the key's chain below a number; none if there is none.
func (l *mentionList) lastBelow(end int32) (int32, error) {
	landmarks := store.NewIterator(l.txn, store.NumberedKey(store.PrefixLandmark, l.key, 0)[:21])
	defer landmarks.Close()
	landmarks.Seek(store.NumberedKey(store.PrefixLandmark, l.key, end))
	n := l.at(landmarks)
	if n == none {
		n = l.last
	}
	for n >= end {
		stored, err := l.action(n)
		if err != nil {
			return none, err
		}
		if n, err = stored.before(n, l.key); err != nil {
			return none, err
		}
	}
	return n, nil
}
