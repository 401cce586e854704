package anchor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
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

// step looks around, brings to the node what is not confirmed, and makes the next anchor
// if it is time for one.
func (p *Publisher) step(ctx context.Context) error {
	s, err := p.look(ctx)
	if err != nil {
		p.problem(err)
		return err
	}
	err = p.proceed(ctx, s)
	if errors.Is(err, errFunds) || errors.Is(err, errCrowded) || errors.Is(err, errBroken) {
		p.report(s, err.Error())
		p.remind(s, err)
		return p.count(ctx, s, false)
	}
	p.report(s, "")
	if err != nil {
		p.problem(err)
	}
	return err
}

// look makes a survey as of now.
func (p *Publisher) look(ctx context.Context) (*survey, error) {
	if p.state.failed != nil {
		return nil, p.state.failed
	}
	v, err := p.opt.Chain.View()
	if err != nil {
		return nil, err
	}
	defer v.Close()
	return p.survey(ctx, v)
}

func (p *Publisher) proceed(ctx context.Context, s *survey) error {
	if s.broken != "" {
		return fmt.Errorf("%w: chain %v: %s", errBroken, p.state.genesis, s.broken)
	}
	if err := p.bring(ctx, s); err != nil {
		return err
	}
	head := p.opt.Hashchain.Chain()
	if !p.due(s, head.Size) {
		return p.count(ctx, s, false)
	}
	if len(s.pending) >= MaxUnconfirmed {
		return fmt.Errorf("%w: there are %d", errCrowded, len(s.pending))
	}
	return p.publish(ctx, s, &head, p.keys.current.hash)
}

// due reports whether it is time for the next anchor of a hashchain with size entries.
func (p *Publisher) due(s *survey, size uint64) bool {
	tail := s.tail()
	if tail == nil {
		return true
	}
	waiting := size - 1 - tail.Position
	now := p.opt.Now()
	return waiting >= p.opt.MaxEntries ||
		waiting > 0 && (now.Before(tail.made) || now.Sub(tail.made) >= p.opt.Interval)
}

// publish makes the next anchor, pays the baton to a key, and brings it to the node.
func (p *Publisher) publish(ctx context.Context, s *survey, head *hashchain.Chain, to protocol.KeyHash) error {
	// An anchor that is not known here would be contradicted by another on the same baton,
	// or by a second genesis anchor.
	if found, err := p.recover(ctx, s); err != nil || found {
		return err // the next step takes up what was found
	}
	inputs, err := p.inputs(ctx, s)
	if err != nil {
		return err
	}
	d := draft{
		record: protocol.Anchor{Domain: p.opt.Domain, Position: head.Size - 1, Head: head.Head, Root: head.Root()},
		inputs: inputs, to: to, rate: p.opt.FeeRate, made: p.opt.Now(),
	}
	a, err := p.store(&d)
	if err != nil {
		return err
	}
	s.pending = append(s.pending, a)
	if err := p.settleKeys(s); err != nil {
		return err
	}
	if err := p.bring(ctx, s); err != nil {
		return err
	}
	return p.count(ctx, s, true)
}

// store signs an anchor and puts it on disk. It may be broadcast then.
func (p *Publisher) store(d *draft) (*signed, error) {
	raw, err := d.sign()
	if err != nil {
		return nil, err
	}
	a, err := readSigned(raw, d.made, d.rate)
	if err != nil {
		return nil, err
	}
	first := p.state.genesis == nil
	if first || p.state.find(*p.state.genesis) != nil && p.state.find(*p.state.genesis).spends == a.spends {
		p.state.genesis = &a.txid // or what replaces it
	}
	p.state.put(a)
	if err := p.state.save(); err != nil {
		return nil, err
	}
	p.opt.Log.Info().Stringer("txid", a.txid).Uint64("position", a.Position).Hex("head", a.Head[:]).
		Int64("fee_rate", d.rate).Int64("baton", a.value).Bool("genesis", *p.state.genesis == a.txid).Msg("anchor signed")
	return a, nil
}

// bring hands the node whatever is not confirmed. What the node refuses is replaced by
// an anchor with the same record that spends the same baton.
func (p *Publisher) bring(ctx context.Context, s *survey) error {
	taken := make(map[chainhash.Hash]offer, len(s.pending))
	defer func() { p.offered = taken }()
	for i := 0; i < len(s.pending); {
		a := s.pending[i]
		now := p.opt.Now()
		if o, ok := p.offered[a.txid]; ok && o.block == s.block && now.Sub(o.at) < offerEvery {
			taken[a.txid] = o
			i++
			continue
		}
		err := p.opt.Node.Submit(ctx, a.raw)
		switch {
		case err == nil:
			if _, again := p.offered[a.txid]; !again {
				p.opt.Log.Info().Stringer("txid", a.txid).Uint64("position", a.Position).Msg("the node has the anchor")
			}
			taken[a.txid] = offer{s.block, now}
			i++
		case errors.Is(err, ErrFee):
			rate := max(2*a.rate, p.opt.FeeRate)
			if rate > maxRaise*p.opt.FeeRate {
				return fmt.Errorf("anchor %v at %d satoshi per byte: raise --anchor-fee-rate: %w", a.txid, a.rate, err)
			}
			p.opt.Log.Warn().Err(err).Int64("fee_rate", rate).Msg("the node wants a higher fee for the anchor: raising it")
			err = p.replace(ctx, s, i, rate)
		case errors.Is(err, ErrRefused):
			err = p.refused(ctx, s, i, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// refused deals with an anchor that the node does not take, for another reason than its
// fee.
func (p *Publisher) refused(ctx context.Context, s *survey, i int, cause error) error {
	a := s.pending[i]
	unspent, err := p.opt.Node.Unspent(ctx, a.spends)
	if err != nil {
		return err
	}
	if !unspent {
		return fmt.Errorf("anchor %v: %w: %w", a.txid, errElsewhere, cause)
	}
	// One of the coins that it takes up beside the baton is gone.
	if err := p.replace(ctx, s, i, max(a.rate, p.opt.FeeRate)); err != nil {
		return err
	}
	if s.pending[i].txid == a.txid {
		return cause
	}
	p.opt.Log.Warn().Err(cause).Stringer("txid", a.txid).Msg("the node refuses the anchor: made anew")
	return nil
}

// replace makes an unconfirmed anchor anew, with the same record, on the same baton, and
// drops those after it.
func (p *Publisher) replace(ctx context.Context, s *survey, i int, rate int64) error {
	old := s.pending[i]
	first, err := p.spentBy(ctx, s, i)
	if err != nil {
		return err
	}
	topUps, err := p.topUps(ctx, first.out)
	if err != nil {
		return err
	}
	to, _ := protocol.P2PKHKey(old.script) // survey and publish have checked it
	a, err := p.store(&draft{record: old.Anchor, inputs: append([]input{first}, topUps...), to: to, rate: rate, made: old.made})
	if err != nil {
		return err
	}
	s.pending = append(s.pending[:i:i], a)
	return nil
}

// spentBy returns what an unconfirmed anchor spends with its first input.
func (p *Publisher) spentBy(ctx context.Context, s *survey, i int) (input, error) {
	switch {
	case i > 0:
		return p.batonOf(s.pending[i-1])
	case s.confirmed != nil:
		return p.batonOf(s.confirmed)
	}
	out := s.pending[0].spends // a genesis anchor's
	raw, err := p.opt.Node.Transaction(ctx, out.Hash)
	if err != nil {
		return input{}, fmt.Errorf("what pays for the genesis anchor: %w", err)
	}
	output, err := outputOf(raw, out.Index)
	if err != nil {
		return input{}, err
	}
	if holder, ok := protocol.P2PKHKey(output.Script); ok && p.keys.find(holder) != nil {
		return input{out, output.Value, p.keys.find(holder)}, nil
	}
	return input{}, fmt.Errorf("output %v, which the genesis anchor spends, does not pay the anchor key", out)
}

func (p *Publisher) batonOf(a *signed) (input, error) {
	holder, _ := protocol.P2PKHKey(a.script)
	k := p.keys.find(holder)
	if k == nil {
		return input{}, fmt.Errorf("%w: the key that holds the baton of anchor %v is not here any more", ErrMismatch, a.txid)
	}
	return input{a.baton(), a.value, k}, nil
}

// inputs returns what the next anchor spends: the baton, or what is to pay for the
// genesis anchor, and other coins of the keys. errFunds if there is nothing.
func (p *Publisher) inputs(ctx context.Context, s *survey) ([]input, error) {
	var baton input
	if tail := s.tail(); tail != nil {
		var err error
		if baton, err = p.batonOf(tail); err != nil {
			return nil, err
		}
	}
	topUps, err := p.topUps(ctx, baton.out)
	if err != nil {
		return nil, err
	}
	if s.tail() != nil {
		return append([]input{baton}, topUps...), nil
	}
	if len(topUps) == 0 {
		return nil, fmt.Errorf("%w: it is the first one", errFunds)
	}
	return topUps, nil
}

// topUps returns coins of the keys to be spent beside the baton, the largest first.
// Unconfirmed ones are left for later, as they can be undone by whoever pays; tokens
// are left alone, and so are the batons of other chains, which would be broken.
func (p *Publisher) topUps(ctx context.Context, baton wire.OutPoint) ([]input, error) {
	type found struct {
		Coin
		key *key
	}
	var all []found
	for _, k := range p.keys.all() {
		coins, err := p.opt.Node.Coins(ctx, k.hash)
		if err != nil {
			return nil, err
		}
		for _, c := range coins {
			holder, ok := protocol.P2PKHKey(c.Script)
			if ok && holder == k.hash && c.Confirmed && !c.HasToken && c.OutPoint != baton && c.Value > p.opt.FeeRate*inputSize {
				all = append(all, found{c, k})
			}
		}
	}
	slices.SortFunc(all, func(a, b found) int {
		return cmp.Or(cmp.Compare(b.Value, a.Value), slices.Compare(a.OutPoint.Hash[:], b.OutPoint.Hash[:]),
			cmp.Compare(a.OutPoint.Index, b.OutPoint.Index))
	})
	var inputs []input
	for _, c := range all[:min(len(all), maxTopUps)] {
		a, err := p.anchorOf(ctx, c.Coin)
		if err != nil {
			return nil, err
		}
		if a == nil {
			inputs = append(inputs, input{c.OutPoint, c.Value, c.key})
		}
	}
	return inputs, nil
}

// rotate hands the baton to a new key.
func (p *Publisher) rotate(ctx context.Context) (txid chainhash.Hash, err error) {
	s, err := p.look(ctx)
	if err != nil {
		return txid, err
	}
	switch {
	case s.broken != "":
		return txid, fmt.Errorf("%w: %s", errBroken, s.broken)
	case s.tail() == nil:
		return txid, errors.New("there is no anchor yet, and so no baton to hand on: to use another key, stop the server and move the key file away")
	case p.keys.previous != nil:
		return txid, fmt.Errorf("the last change of the key is not buried yet: wait until the new key's first anchor is %d blocks deep, and payments to the old address are taken up", settled)
	case len(s.pending) >= MaxUnconfirmed:
		return txid, fmt.Errorf("%w: there are %d", errCrowded, len(s.pending))
	}
	if err := p.bring(ctx, s); err != nil {
		return txid, err
	}
	next, err := p.keys.prepare()
	if err != nil {
		return txid, err
	}
	before := len(s.pending)
	head := p.opt.Hashchain.Chain()
	err = p.publish(ctx, s, &head, next.hash)
	if len(s.pending) == before {
		if err == nil {
			err = errors.New("anchors were found that were not known here: try again")
		}
		return txid, err
	}
	// It is on disk, and will be brought to the node in any case.
	if err != nil && isFinal(err) {
		return txid, err
	}
	p.report(s, "")
	if err != nil {
		p.problem(err)
		p.opt.Log.Warn().Err(err).Msg("the anchor that hands the baton on is stored: trying again to bring it to the node")
	}
	p.opt.Log.Info().Stringer("txid", s.tail().txid).Str("address", p.address()).Msg("the anchor key was replaced")
	return s.tail().txid, nil
}
