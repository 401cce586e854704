package anchor

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/graph/anchors"
	"github.com/keytree-bch/keytree/protocol"
)

// maxTopUps is how many coins an anchor takes up beside the baton.
const maxTopUps = 100

// Why there is no next anchor for now, though one would be due. It takes somebody
// else, so these are said once in a while only.
var (
	// errFunds says that the baton cannot pay for another anchor.
	errFunds = errors.New("the next anchor waits for a confirmed payment")
	// errCrowded says that too many anchors are unconfirmed.
	errCrowded = errors.New("the next anchor waits until earlier ones are confirmed")
	// errBroken says that there can be no next anchor.
	errBroken = errors.New("the chain of anchors was broken, and nothing is anchored any more: " +
		"to begin another one, which auditors must be told of, move key and state file away")
)

func isTrouble(err error) bool {
	return errors.Is(err, errFunds) || errors.Is(err, errCrowded) || errors.Is(err, errBroken)
}

// errElsewhere says that an anchor was made that is not known here: by another
// publisher with the same key, or before the state file was lost.
var errElsewhere = errors.New("the baton was spent by a transaction that is not known here: waiting until it is confirmed")

// recover decides about anchors by this key that the node has and the state file does
// not. errElsewhere if there are some that cannot be had.
func (f *facts) recover() (decision, error) {
	if f.node == nil {
		return askNode{}, nil
	}
	tail := f.tail()
	if tail != nil && !f.node.spent {
		return nil, nil
	}
	for _, l := range f.node.lines {
		if found := l.after(tail, f); len(found) > 0 {
			d := keep{anchors: found, why: "found anchors that were not in the state file"}
			if f.genesis == nil {
				d.genesis = &found[0].txid
			}
			return d, nil
		}
	}
	if tail != nil {
		return nil, fmt.Errorf("anchor %v: %w", tail.txid, errElsewhere)
	}
	return nil, nil
}

// after returns the anchors of a line in their order; none if they do not come from the
// tail, or from a genesis anchor by one of the keys if the tail is nil, or if one of them
// is not signed: then it is none, whatever the node says.
func (l line) after(tail *signed, f *facts) (found []*signed) {
	for _, a := range l {
		if tail != nil && a.txid == tail.txid || a.raw.VerifyInput0(a.from) != nil {
			return nil
		}
		found = append(found, a.signed)
	}
	if len(l) == 0 {
		return nil
	}
	first := l[len(l)-1]
	if tail != nil && first.spends != tail.baton() {
		return nil
	}
	if tail == nil {
		_, unlock := first.raw.Input0()
		if author, ok := protocol.Author(unlock, first.from.Script); !ok || !f.keys.owns(&author) {
			return nil
		}
	}
	slices.Reverse(found)
	return found
}

// bring decides what to hand to the node of what is not confirmed.
func (f *facts) bring() (decision, error) {
	for i, a := range f.pending {
		o, offered := f.offers[a.txid]
		switch {
		case o.refusal != nil:
			return f.replace(i, o.refusal)
		case !offered || o.block != f.block || f.now.Sub(o.at) >= offerEvery:
			return hand{a}, nil
		}
	}
	return nil, nil
}

// replace makes an anchor that the node refuses anew, with the same record, on the same
// baton. Those after it cannot be confirmed any more.
func (f *facts) replace(i int, refusal error) (decision, error) {
	if f.node == nil {
		return askNode{}, nil
	}
	a := f.pending[i]
	rate := max(a.rate, f.feeRate)
	if errors.Is(refusal, ErrFee) {
		if rate = max(2*a.rate, f.feeRate); rate > maxRaise*f.feeRate {
			return nil, fmt.Errorf("anchor %v at %d satoshi per byte: raise --anchor-fee-rate: %w", a.txid, a.rate, refusal)
		}
	} else if !f.node.unspent[a.spends] {
		return nil, fmt.Errorf("anchor %v: %w: %w", a.txid, errElsewhere, refusal)
	}
	first, err := f.spentBy(i)
	if err != nil {
		return nil, err
	}
	to, _ := protocol.P2PKHKey(a.script) // settle and next have checked it
	d := draft{record: a.Anchor, spends: append([]protocol.UTXO{first}, f.topUps(first.OutPoint)...), to: to, rate: rate, made: a.made}
	return sign{d, a, refusal}, d.affordable()
}

// spentBy returns what an unconfirmed anchor spends with its first input.
func (f *facts) spentBy(i int) (protocol.UTXO, error) {
	if i > 0 {
		return f.batonOf(f.pending[i-1])
	}
	if f.last != nil {
		return f.batonOf(f.last)
	}
	out := f.pending[0].spends // a genesis anchor's
	if holder, ok := protocol.P2PKHKey(f.node.payer.Script); ok && f.keys.owns(&holder) {
		return protocol.UTXO{OutPoint: out, Value: f.node.payer.Value, Script: f.node.payer.Script}, nil
	}
	return protocol.UTXO{}, fmt.Errorf("output %v, which the genesis anchor spends, does not pay the anchor key", out)
}

func (f *facts) batonOf(a *signed) (protocol.UTXO, error) {
	holder, ok := protocol.P2PKHKey(a.script)
	if !ok || !f.keys.owns(&holder) {
		return protocol.UTXO{}, fmt.Errorf("%w: the key that holds the baton of anchor %v is not here any more", ErrMismatch, a.txid)
	}
	return protocol.UTXO{OutPoint: a.baton(), Value: a.value, Script: a.script}, nil
}

// due tells whether it is time for the next anchor.
func (f *facts) due() bool {
	tail := f.tail()
	if tail == nil {
		return true
	}
	waiting := f.head.Size - 1 - tail.Position
	if waiting == 0 {
		return !f.heartbeat().IsZero() && !f.time.Before(f.heartbeat())
	}
	return waiting >= f.MaxEntries || f.now.Before(tail.made) || f.now.Sub(tail.made) >= f.Interval
}

// heartbeat is the time that a block has to have before the last record is repeated if no
// entry comes; zero while that anchor is not confirmed. Only times of blocks count: what
// the local clock or a lost state file say makes no repetition come early.
func (f *facts) heartbeat() time.Time {
	if f.last == nil || len(f.pending) > 0 || f.broken() != "" {
		return time.Time{}
	}
	return f.lastTime.Add(f.Heartbeat)
}

// next makes the next anchor, and pays the baton to a key.
func (f *facts) next(to protocol.KeyHash) (decision, error) {
	if n := len(f.pending); n >= MaxUnconfirmed {
		return nil, fmt.Errorf("%w: there are %d", errCrowded, n)
	}
	// An anchor that is not known here would be contradicted by another on the same baton,
	// or by a second genesis anchor.
	if d, err := f.recover(); d != nil || err != nil {
		return d, err
	}
	var spends []protocol.UTXO
	if tail := f.tail(); tail != nil {
		baton, err := f.batonOf(tail)
		if err != nil {
			return nil, err
		}
		spends = append(spends, baton)
		spends = append(spends, f.topUps(baton.OutPoint)...)
	} else if spends = f.topUps(wire.OutPoint{}); len(spends) == 0 {
		return nil, fmt.Errorf("%w: it is the first one", errFunds)
	}
	d := draft{
		record: protocol.Anchor{Domain: f.domain, Position: f.head.Size - 1, Head: f.head.Head, Root: f.head.Root()},
		spends: spends, to: to, rate: f.feeRate, made: f.now,
	}
	return sign{draft: d}, d.affordable()
}

// topUps returns coins of the keys to be spent beside the baton, the largest first.
// Unconfirmed ones are left for later, as they can be undone by whoever pays; tokens
// are left alone, and so are the batons of other chains, which would be broken.
func (f *facts) topUps(baton wire.OutPoint) (spends []protocol.UTXO) {
	for _, c := range f.node.coins {
		holder, ok := protocol.P2PKHKey(c.Script)
		if ok && holder == c.key && c.examined && c.anchor == nil && c.Confirmed && !c.HasToken &&
			c.OutPoint != baton && c.Value > f.feeRate*protocol.P2PKHInputSize && len(spends) < maxTopUps {
			spends = append(spends, c.UTXO)
		}
	}
	return spends
}

// cost is what an anchor costs at the fee rate that is configured, in satoshi.
func (r *rules) cost() int64 {
	return r.feeRate * int64(protocol.RecordTxSize(1, protocol.AnchorScriptSize(r.domain), false))
}

// spare is the value of the coins, in satoshi, besides batons of the chain: the node may
// not have heard of the next anchor yet.
func (f *facts) spare() (value int64) {
	for _, c := range f.node.coins {
		isBaton := f.last != nil && c.OutPoint == f.last.baton() ||
			slices.ContainsFunc(f.pending, func(a *signed) bool { return c.OutPoint == a.baton() })
		if !c.HasToken && !isBaton {
			value += c.Value
		}
	}
	return value
}

// stranded reports whether the hashchain agrees with a chain of anchors that the keys
// here cannot go on with.
func (f *facts) stranded() *anchors.Chain {
	if f.genesis != nil || f.namedChain == nil || f.namedChain.Break != protocol.Unbroken {
		return nil
	}
	return f.namedChain
}
