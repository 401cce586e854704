package anchor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/protocol"
)

const (
	// maxCoins is how many coins are looked at as possible batons, the largest first.
	// Whoever wants to hide a baton behind others has to give away more than it holds,
	// so many times.
	maxCoins = 1000
	// maxLine is how many anchors are followed back: more than can be unconfirmed.
	maxLine = 2 * MaxUnconfirmed
)

// nodeFacts are what the node says.
type nodeFacts struct {
	coins []ownCoin // of the keys, the largest first
	// spent says that the newest anchor's baton is.
	spent bool
	lines []line // that lead to batons, if there is no anchor or its baton is spent
	// unspent are outputs of refused anchors that are still there.
	unspent map[wire.OutPoint]bool
	// payer is what a genesis anchor that was refused spends; nil if there is none.
	payer *protocol.Output
}

// ownCoin is a coin to one of the keys.
type ownCoin struct {
	Coin
	key      protocol.KeyHash
	anchor   *signed // that it is the baton of; nil if it is none
	examined bool    // whether that is known
}

// line is anchors, each spending the baton of the next.
type line []link

// link is an anchor and what it spends with its first input.
type link struct {
	*signed
	from protocol.Output
}

// observeNode asks the node what bears on the next anchors.
func (p *Publisher) observeNode(ctx context.Context, f *facts) (*nodeFacts, error) {
	n := &nodeFacts{unspent: make(map[wire.OutPoint]bool)}
	if err := p.observeCoins(ctx, f, n); err != nil {
		return nil, err
	}
	tail := f.tail()
	if tail != nil {
		var err error
		if n.spent, err = p.isSpent(ctx, tail); err != nil {
			return nil, err
		}
	}
	if tail == nil || n.spent {
		if err := p.observeLines(ctx, f, n); err != nil {
			return nil, err
		}
	}
	for i, a := range f.pending {
		refusal := f.offers[a.txid].refusal
		if refusal == nil {
			continue
		}
		unspent, err := p.opt.Node.Unspent(ctx, a.spends)
		if err != nil {
			return nil, err
		}
		n.unspent[a.spends] = unspent
		if i == 0 && f.last == nil {
			payer, _, err := p.output(ctx, a.spends)
			if err != nil {
				return nil, fmt.Errorf("what pays for the genesis anchor: %w", err)
			}
			n.payer = &payer
		}
	}
	return n, nil
}

// observeCoins finds the coins of the keys, and which of them are batons.
func (p *Publisher) observeCoins(ctx context.Context, f *facts, n *nodeFacts) error {
	for _, k := range f.keys.all() {
		coins, err := p.opt.Node.Coins(ctx, k)
		if err != nil {
			return err
		}
		for _, c := range coins {
			n.coins = append(n.coins, ownCoin{Coin: c, key: k})
		}
	}
	slices.SortFunc(n.coins, func(a, b ownCoin) int {
		return cmp.Or(cmp.Compare(b.Value, a.Value), slices.Compare(a.OutPoint.Hash[:], b.OutPoint.Hash[:]),
			cmp.Compare(a.OutPoint.Index, b.OutPoint.Index))
	})
	for i := range n.coins[:min(len(n.coins), maxCoins)] {
		c := &n.coins[i]
		if c.examined = true; c.OutPoint.Index != 0 {
			continue
		}
		a, known := p.batons[c.OutPoint.Hash]
		if !known {
			raw, err := p.opt.Node.Transaction(ctx, c.OutPoint.Hash)
			if err != nil {
				return err
			}
			if a, err = readSigned(raw, time.Time{}, 0); err != nil {
				a = nil // it carries none
			}
			remember(p.batons, c.OutPoint.Hash, a)
		}
		c.anchor = a
	}
	return nil
}

// isSpent reports whether an anchor's baton is.
func (p *Publisher) isSpent(ctx context.Context, a *signed) (bool, error) {
	if unspent, err := p.opt.Node.Unspent(ctx, a.baton()); err != nil || unspent {
		return false, err
	}
	_, err := p.opt.Node.Transaction(ctx, a.txid)
	if errors.Is(err, ErrUnknown) { // then nothing can spend it
		return false, nil
	}
	return err == nil, err
}

// output returns an output and the transaction that it is of.
func (p *Publisher) output(ctx context.Context, out wire.OutPoint) (protocol.Output, []byte, error) {
	raw, err := p.opt.Node.Transaction(ctx, out.Hash)
	if err != nil {
		return protocol.Output{}, nil, err
	}
	output, err := outputOf(raw, out.Index)
	return output, raw, err
}

// observeLines follows anchors back from each baton, up to the tail or to a genesis
// anchor.
func (p *Publisher) observeLines(ctx context.Context, f *facts, n *nodeFacts) error {
	for _, c := range n.coins {
		if c.anchor == nil || c.anchor.Domain != f.domain {
			continue
		}
		l, err := p.observeLine(ctx, f, c.anchor)
		if err != nil {
			return err
		}
		n.lines = append(n.lines, l)
	}
	return nil
}

func (p *Publisher) observeLine(ctx context.Context, f *facts, a *signed) (l line, err error) {
	tail := f.tail()
	for range maxLine {
		from, raw, err := p.output(ctx, a.spends)
		if err != nil {
			return nil, err
		}
		l = append(l, link{a, from})
		before, err := readSigned(raw, time.Time{}, 0)
		if tail != nil && a.spends == tail.baton() || err != nil || a.spends.Index != 0 || before.Domain != f.domain {
			break
		}
		a = before
	}
	return l, nil
}
