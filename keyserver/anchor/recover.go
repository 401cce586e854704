package anchor

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/keytree-bch/keytree/protocol"
)

// maxLine is how many anchors are followed back: more than can be unconfirmed.
const maxLine = 2 * MaxUnconfirmed

// errElsewhere says that an anchor was made that is not known here: by another
// publisher with the same key, or before the state file was lost.
var errElsewhere = errors.New("the baton was spent by a transaction that is not known here: waiting until it is confirmed")

// check is one attempt of Check.
func (p *Publisher) check(ctx context.Context) error {
	v, err := p.opt.Chain.View()
	if err != nil {
		return err
	}
	defer v.Close()
	for {
		s, err := p.survey(ctx, v)
		if err != nil {
			return err
		}
		found := false
		if s.broken == "" {
			if found, err = p.recover(ctx, s); err != nil {
				return err
			}
		}
		if !found {
			err := p.count(ctx, s, false)
			p.report(s, "")
			return err
		}
	}
}

// recover looks for anchors by this key that the node has and the state file does not,
// and stores them. errElsewhere if there are some that cannot be had.
func (p *Publisher) recover(ctx context.Context, s *survey) (found bool, err error) {
	tail := s.tail()
	if tail != nil {
		if unspent, err := p.opt.Node.Unspent(ctx, tail.baton()); err != nil || unspent {
			return false, err
		}
		_, err := p.opt.Node.Transaction(ctx, tail.txid)
		if errors.Is(err, ErrUnknown) { // then nothing can spend it
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	line, err := p.findLine(ctx, tail)
	if err != nil {
		return false, err
	}
	if len(line) == 0 {
		if tail != nil {
			return false, fmt.Errorf("anchor %v: %w", tail.txid, errElsewhere)
		}
		return false, nil
	}
	for _, a := range line {
		p.opt.Log.Info().Stringer("txid", a.txid).Uint64("position", a.Position).Msg("found an anchor that was not in the state file")
		p.state.put(a)
	}
	if p.state.genesis == nil {
		p.state.genesis = &line[0].txid
	}
	return true, p.state.save()
}

// findLine looks among the coins of the keys for a baton, and returns the anchors that
// lead to it from the tail, or from a genesis anchor by this key if the tail is nil.
func (p *Publisher) findLine(ctx context.Context, tail *signed) ([]*signed, error) {
	for _, k := range p.keys.all() {
		coins, err := p.opt.Node.Coins(ctx, k.hash)
		if err != nil {
			return nil, err
		}
		for _, coin := range coins {
			if coin.OutPoint.Index != 0 {
				continue
			}
			a, err := p.anchorOf(ctx, coin)
			if err != nil {
				return nil, err
			}
			if a == nil || a.Domain != p.opt.Domain || tail != nil && a.txid == tail.txid {
				continue
			}
			line, err := p.followBack(ctx, a, tail)
			if err != nil || line != nil {
				return line, err
			}
		}
	}
	return nil, nil
}

// anchorOf returns the anchor that a coin is the baton of, nil if there is none.
func (p *Publisher) anchorOf(ctx context.Context, coin Coin) (*signed, error) {
	if coin.OutPoint.Index != 0 {
		return nil, nil
	}
	raw, err := p.opt.Node.Transaction(ctx, coin.OutPoint.Hash)
	if err != nil {
		return nil, err
	}
	a, err := readSigned(raw, fromUnix(0), 0)
	if err != nil { // it carries none
		return nil, nil
	}
	return a, nil
}

// followBack returns the anchors up to a, in their order; nil if they do not come from
// the tail, or from a genesis anchor by this key if the tail is nil, or if one of them
// is not signed: then it is none, whatever the node says.
func (p *Publisher) followBack(ctx context.Context, a, tail *signed) (line []*signed, err error) {
	for range maxLine {
		line = append(line, a)
		raw, err := p.opt.Node.Transaction(ctx, a.spends.Hash)
		if err != nil {
			return nil, err
		}
		spent, err := outputOf(raw, a.spends.Index)
		if err != nil {
			return nil, err
		}
		if err := a.checkSignature(spent); err != nil {
			p.opt.Log.Warn().Err(err).Stringer("txid", a.txid).Msg("the node has what looks like an anchor, but is not signed")
			return nil, nil
		}
		if tail != nil && a.spends == tail.baton() {
			slices.Reverse(line)
			return line, nil
		}
		before, err := readSigned(raw, fromUnix(0), 0)
		if err == nil && a.spends.Index == 0 && before.Domain == p.opt.Domain {
			a = before
			continue
		}
		if tail != nil {
			return nil, nil
		}
		_, unlock := a.raw.Input0()
		if author, ok := protocol.Author(unlock, spent.Script); !ok || !p.keys.owns(&author) {
			return nil, nil
		}
		slices.Reverse(line)
		return line, nil
	}
	return nil, nil
}
