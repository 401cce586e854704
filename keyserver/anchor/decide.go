package anchor

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
)

// decision is the next thing to do. After it everything is observed again. nil: there
// is nothing to do.
type decision interface{ isDecision() }

type (
	// askNode looks again, and asks the node, too.
	askNode struct{}
	// keep stores anchors that are out there, and which chain they are of.
	keep struct {
		genesis *chainhash.Hash // nil: as before
		anchors []*signed
		why     string
	}
	// name tells the database which chain of anchors it is in.
	name struct{ chain string }
	// prepare makes the key that the baton is to go to next.
	prepare struct{}
	// promote puts the next key into its place.
	promote struct{}
	// retire removes the previous key.
	retire struct{}
	// prune forgets all stored anchors but these.
	prune struct{ kept []*signed }
	// hand hands an anchor to the node.
	hand struct{ anchor *signed }
	// sign makes an anchor and stores it.
	sign struct {
		draft
		instead *signed // that the node refused; nil for none
		cause   error   // its refusal
	}
)

func (askNode) isDecision() {}
func (keep) isDecision()    {}
func (name) isDecision()    {}
func (prepare) isDecision() {}
func (promote) isDecision() {}
func (retire) isDecision()  {}
func (prune) isDecision()   {}
func (hand) isDecision()    {}
func (sign) isDecision()    {}

// check decides what the start needs: nothing in the end, if the hashchain agrees with
// all anchors and the state file has them.
func (f *facts) check() (decision, error) {
	if d, err := f.settle(); d != nil || err != nil || f.broken() != "" {
		return d, err
	}
	return f.recover()
}

// publish decides how anchoring goes on. A lasting trouble is an error, too.
func (f *facts) publish() (d decision, err error) {
	if d, err = f.settle(); d == nil && err == nil {
		if f.broken() != "" {
			err = fmt.Errorf("%w: chain %v: %s", errBroken, f.genesis, f.broken())
		} else {
			d, err = f.proceed()
		}
	}
	if (d == nil && err == nil || isTrouble(err)) && f.node == nil && f.mustCount() {
		return askNode{}, nil
	}
	return d, err
}

func (f *facts) proceed() (decision, error) {
	if d, err := f.bring(); d != nil || err != nil {
		return d, err
	}
	if !f.due() {
		return nil, nil
	}
	return f.next(*f.keys.current)
}

// mustCount reports whether the funds have not been counted for long.
func (f *facts) mustCount() bool {
	return f.now.Sub(f.counted) >= countEvery || f.now.Before(f.counted)
}

// handOn decides how the baton gets to a new key.
func (f *facts) handOn() (decision, error) {
	if d, err := f.settle(); d != nil || err != nil {
		return d, err
	}
	switch {
	case f.broken() != "":
		return nil, fmt.Errorf("%w: %s", errBroken, f.broken())
	case f.tail() == nil:
		return nil, errors.New("there is no anchor yet, and so no baton to hand on: to use another key, stop the server and move the key file away")
	case f.keys.previous != nil:
		return nil, fmt.Errorf("the last change of the key is not buried yet: wait until the new key's first anchor is %d blocks deep, and payments to the old address are taken up", settled)
	}
	if d, err := f.bring(); d != nil || err != nil {
		return d, err
	}
	if f.keys.next == nil {
		return prepare{}, nil
	}
	return f.next(*f.keys.next)
}

// settle decides what state file, database and keys lack. It fails unless the hashchain
// agrees with all anchors.
func (f *facts) settle() (decision, error) {
	for i := range f.commitments {
		if err := f.commitments[i].judge(f); err != nil {
			return nil, err
		}
	}
	if d, err := f.whichChain(); d != nil || err != nil || f.tail() == nil {
		return d, err
	}
	if f.ours != nil {
		if f.find(f.last.txid) == nil {
			return keep{anchors: []*signed{f.dated(f.last)}}, nil // a reorganisation may undo it
		}
		if f.named != f.ours.ID.String() {
			return name{f.ours.ID.String()}, nil
		}
		if f.broken() != "" {
			return nil, nil
		}
	}
	holder, ok := protocol.P2PKHKey(f.tail().script)
	switch {
	case !ok || !f.keys.owns(&holder):
		return nil, fmt.Errorf("%w: output 0 of anchor %v, the baton, does not pay the key in %s: give the key file that belongs to the chain of anchors %v",
			ErrMismatch, f.tail().txid, f.keyFile, f.genesis)
	case f.keys.next != nil && holder == *f.keys.next:
		return promote{}, nil
	case f.isSettled():
		if f.node == nil && f.asked != f.block {
			return askNode{}, nil
		}
		if f.node != nil && !f.oldPayment() {
			return retire{}, nil
		}
	}
	if kept := f.needed(); len(kept) < len(f.stored) {
		return prune{kept}, nil
	}
	return nil, nil
}

// agrees reports whether the hashchain has what an anchor commits to.
func (c *commitment) agrees() bool {
	return c.have != nil && c.have.Head == c.Head && c.have.Root() == c.Root
}

// foreign reports whether an anchor is of another keyserver for sure: its entry 0 is
// another one. Nobody can tell where an anchor at a later position comes from.
func (c *commitment) foreign() bool { return c.Position == 0 && !c.agrees() }

func (c *commitment) judge(f *facts) error {
	switch {
	case c.agrees():
		return nil
	case c.have == nil:
		return fmt.Errorf("%w: anchor %v, %s, commits to position %d with head %x, but the hashchain ends at position %d with head %s: "+
			"the keyserver's database is older than what was anchored, and to serve it would be a second history; restore the newest backup",
			ErrAhead, c.txid, c.where, c.Position, c.Head, f.head.Size-1, f.head.Head)
	}
	return fmt.Errorf("%w: anchor %v, %s, commits to position %d with head %x and root %x, where the hashchain has head %s and root %s: "+
		"this is not the database that was anchored, and to serve it would be a second history",
		ErrContradicts, c.txid, c.where, c.Position, c.Head, c.Root, c.have.Head, c.have.Root())
}

// whichChain settles which chain is this publisher's, should the state file have been
// lost, or another version of the genesis anchor than the stored one been confirmed.
func (f *facts) whichChain() (decision, error) {
	if f.first && f.choice != nil {
		if f.choiceChain == nil || f.choiceChain.Domain != f.domain {
			return nil, fmt.Errorf("%w: --anchor-chain %v: there is no such chain of anchors for %s on this chain: is the node on another one, or does the index start too late?",
				ErrMismatch, f.choice, f.domain)
		}
		if f.named == "" && f.genesis == nil && len(f.own) == 0 {
			return name{f.choice.String()}, nil // the hashchain agrees with it
		}
	}
	switch {
	case f.ours != nil:
		return nil, nil
	case len(f.own) > 0:
		return f.choose()
	case f.genesis != nil && f.find(*f.genesis) == nil:
		return nil, fmt.Errorf("%w: %s names the chain of anchors %v, which is not on this chain: is the node on another one, or does the index start too late?",
			ErrMismatch, f.state, f.genesis)
	case f.genesis == nil && f.named != "" && f.namedChain == nil:
		return nil, fmt.Errorf("%w: the keyserver's database names the chain of anchors %s, which is not on this chain: is the node on another one, or does the index start too late?",
			ErrMismatch, f.named)
	case f.first && f.genesis == nil && f.named == "" && !f.unanchored && (len(f.unclaimed) > 0 || f.more):
		return nil, f.undecided()
	}
	return nil, nil
}

// undecided lists the chains that may be this keyserver's.
func (f *facts) undecided() error {
	var text strings.Builder
	for _, c := range f.unclaimed {
		author := "nobody"
		if c.Genesis.Author != nil {
			author = fmt.Sprintf("the key with hash %x", *c.Genesis.Author)
		}
		how := "contradicts the hashchain"
		switch {
		case c.first.agrees():
			how = "agrees with the hashchain"
		case c.first.have == nil:
			how = "is ahead of the hashchain"
		}
		fmt.Fprintf(&text, "; chain %v with %d anchors up to position %d, begun in block %d by %s: its first anchor, at position %d, %s",
			c.ID, c.Anchors, c.Last.Position, c.Genesis.Height, author, c.Genesis.Position, how)
	}
	if f.more {
		text.WriteString("; and more")
	}
	return fmt.Errorf("%w: the hashchain ends at position %d, the database names no chain of anchors, and no anchor key that is here has made one of these%s. "+
		"If one of them is this keyserver's, its database may be an old backup: restore the anchor key, or say --anchor-key-file FILE --anchor-chain TXID, "+
		"and the hashchain is compared with it. If none is, say --anchor-chain none: anybody can begin a chain for %s",
		ErrUndecided, f.head.Size-1, text.String(), f.domain)
}

// choose settles which of the chains by the keys goes on.
func (f *facts) choose() (decision, error) {
	open := slices.DeleteFunc(slices.Clone(f.own), func(c ownChain) bool { return c.Break != protocol.Unbroken })
	chosen := f.own[len(f.own)-1]
	switch {
	case len(open) > 1:
		return nil, fmt.Errorf("%w: the key has made %d chains of anchors for %s that go on, %v and %v among them: restore %s, which says which one is meant",
			ErrMismatch, len(open), f.domain, open[0].ID, open[1].ID, f.state)
	case len(open) == 1:
		chosen = open[0]
	}
	if f.genesis != nil {
		if first := f.find(*f.genesis); first == nil || first.spends != chosen.first.spends {
			return nil, fmt.Errorf("%w: %s names the chain of anchors %v, which is not on the chain, where this key has made %v: "+
				"to begin another one would be a second history", ErrMismatch, f.state, f.genesis, chosen.ID)
		}
	}
	return keep{&chosen.ID, []*signed{f.dated(chosen.first)}, "found the chain of anchors by its author"}, nil
}

// dated returns an anchor with the time at which its record was made, if a stored
// version of it tells.
func (f *facts) dated(a *signed) *signed {
	other := followerOf(f.stored, a.spends)
	if other == nil {
		return a
	}
	dated := *a
	dated.made = other.made
	return &dated
}

// isSettled reports whether there is a previous key, and an anchor by the present one is
// so deep that nodes do not undo it.
func (f *facts) isSettled() bool {
	if f.keys.previous == nil {
		return false
	}
	for _, status := range f.confirmed {
		if status.Author != nil && *status.Author == *f.keys.current && status.Height+settled-1 <= f.height {
			return true
		}
	}
	return false
}

// oldPayment reports whether a payment waits at the previous key's address that is worth
// as much as an anchor costs: the next one takes it up.
func (f *facts) oldPayment() bool {
	return slices.ContainsFunc(f.node.coins, func(c ownCoin) bool {
		return c.key == *f.keys.previous && !c.HasToken && c.Value >= f.cost() && c.anchor == nil
	})
}

// needed returns the stored anchors that are not buried, and can still be confirmed.
func (f *facts) needed() (kept []*signed) {
	for _, a := range f.stored {
		status, confirmed := f.confirmed[a.txid]
		isLast := f.last != nil && a.txid == f.last.txid
		if isLast || slices.Contains(f.pending, a) || confirmed && status.Height+buried > f.height {
			kept = append(kept, a)
		}
	}
	return kept
}
