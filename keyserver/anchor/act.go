package anchor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
)

// maxActs is how many things one step does at most. It takes fewer: to hand over
// MaxUnconfirmed anchors, to raise the fee of each, and some that come once.
const maxActs = 1000

// pursue observes, decides and acts until there is nothing left to do, and returns what
// was observed last.
func (p *Publisher) pursue(ctx context.Context, decide func(*facts) (decision, error)) (*facts, error) {
	ask := false
	for range maxActs {
		f, err := p.observe(ctx, ask)
		if err != nil {
			return nil, err
		}
		if f.node != nil {
			p.asked, p.funds = f.block, funds{f.spare(), f.now}
		}
		d, err := decide(f)
		if d == nil || err != nil {
			return f, err
		}
		if _, ask = d.(askNode); ask {
			continue
		}
		if err := p.act(ctx, f, d); err != nil {
			return f, err
		}
	}
	return nil, fmt.Errorf("anchoring does not come to rest after %d steps", maxActs)
}

// act carries a decision out. What is to be broadcast is on disk before: hand follows
// upon sign or keep.
func (p *Publisher) act(ctx context.Context, f *facts, d decision) error {
	switch d := d.(type) {
	case keep:
		for _, a := range d.anchors {
			if d.why != "" {
				p.opt.Log.Info().Stringer("txid", a.txid).Uint64("position", a.Position).Msg(d.why)
			}
			p.state.put(a)
		}
		if d.genesis != nil {
			p.state.genesis = d.genesis
		}
		return p.state.save()
	case prune:
		p.state.anchors = d.kept
		return p.state.save()
	case name:
		return p.opt.Hashchain.SetAnchorChain(ctx, d.chain)
	case prepare:
		return p.keys.prepare()
	case promote:
		return p.keys.promote()
	case retire:
		p.opt.Log.Info().Msg("the anchor key was replaced for good: the old one is removed")
		return p.keys.forget()
	case hand:
		return p.hand(ctx, f, d.anchor)
	case sign:
		return p.sign(&d)
	}
	panic(fmt.Sprintf("decision %T is not carried out", d)) // there are no others
}

// hand hands an anchor to the node, and remembers what that says.
func (p *Publisher) hand(ctx context.Context, f *facts, a *signed) error {
	err := p.opt.Node.Submit(ctx, a.raw)
	if err != nil && !errors.Is(err, ErrFee) && !errors.Is(err, ErrRefused) {
		return err
	}
	if _, again := p.offers[a.txid]; !again && err == nil {
		p.opt.Log.Info().Stringer("txid", a.txid).Uint64("position", a.Position).Msg("the node has the anchor")
	}
	p.offers[a.txid] = offer{f.block, f.now, err}
	return nil
}

// sign signs an anchor and puts it on disk. It may be broadcast then.
func (p *Publisher) sign(d *sign) error {
	raw, err := d.sign(p.keys)
	if err != nil {
		return err
	}
	a, err := readSigned(raw, d.made, d.rate)
	if err != nil {
		return err
	}
	if d.instead != nil {
		if a.txid == d.instead.txid {
			return d.cause // nothing can be made better
		}
		p.opt.Log.Warn().Err(d.cause).Stringer("txid", d.instead.txid).Int64("fee_rate", d.rate).Msg("the node refuses the anchor: made anew")
	}
	if genesis := p.state.genesis; genesis == nil || p.state.find(*genesis) != nil && p.state.find(*genesis).spends == a.spends {
		p.state.genesis = &a.txid // or what replaces it
	}
	p.state.put(a)
	if err := p.state.save(); err != nil {
		return err
	}
	p.funds.counted, p.signed = time.Time{}, true
	p.opt.Log.Info().Stringer("txid", a.txid).Uint64("position", a.Position).Hex("head", a.Head[:]).
		Int64("fee_rate", d.rate).Int64("baton", a.value).Bool("genesis", *p.state.genesis == a.txid).Msg("anchor signed")
	return nil
}

// forgetOffers forgets what the node refused, which is offered anew, and what needs not
// be offered any more.
func (p *Publisher) forgetOffers() {
	kept := make(map[chainhash.Hash]offer, len(p.offers))
	for _, a := range p.state.anchors {
		if o, ok := p.offers[a.txid]; ok && o.refusal == nil {
			kept[a.txid] = o
		}
	}
	p.offers = kept
}

// check is one attempt of Check.
func (p *Publisher) check(ctx context.Context) error {
	f, err := p.pursue(ctx, (*facts).check)
	if err != nil {
		return err
	}
	if c := f.stranded(); c != nil {
		p.opt.Log.Warn().Stringer("anchor_chain", c.ID).Str("key_file", p.opt.KeyFile).
			Msg("the hashchain agrees with its chain of anchors, but this key cannot go on with it: restore the key that can. A payment begins another chain, which auditors must be told of")
	}
	p.checked.Store(true)
	p.report(f, "")
	return nil
}

// step brings to the node what is not confirmed, and makes the next anchor if it is time
// for one.
func (p *Publisher) step(ctx context.Context) error {
	p.forgetOffers()
	f, err := p.pursue(ctx, (*facts).publish)
	if isTrouble(err) {
		p.report(f, err.Error())
		p.remind(f, err)
		return nil
	}
	if f != nil {
		p.report(f, "")
	}
	if err != nil {
		p.problem(err)
		return err
	}
	p.warnFunds(f)
	return nil
}

// rotate hands the baton to a new key.
func (p *Publisher) rotate(ctx context.Context) (txid chainhash.Hash, err error) {
	p.forgetOffers()
	old := p.keys.current.hash
	f, err := p.pursue(ctx, func(f *facts) (decision, error) {
		if *f.keys.current == old {
			return f.handOn()
		}
		return f.publish() // the anchor that hands it on is on disk
	})
	if p.keys.current.hash == old || err != nil && isFinal(err) {
		return txid, err
	}
	if f != nil {
		p.report(f, "")
	}
	if err != nil {
		p.problem(err)
		p.opt.Log.Warn().Err(err).Msg("the anchor that hands the baton on is stored: trying again to bring it to the node")
	}
	for _, a := range p.state.anchors {
		if a.paysTo(p.keys.current.hash) {
			txid = a.txid
			break
		}
	}
	p.opt.Log.Info().Stringer("txid", txid).Str("address", p.address()).Msg("the anchor key was replaced")
	return txid, nil
}
