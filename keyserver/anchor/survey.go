package anchor

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/protocol"
)

// survey is which anchors there are.
type survey struct {
	height uint32         // of the block that the index ended with
	block  chainhash.Hash // its hash

	last      *graph.AnchorStatus // the newest confirmed anchor; nil if there is none
	confirmed *signed             // its transaction
	pending   []*signed           // those after it, in their order, as far as they are stored
	broken    string              // how the chain ended; "" if it goes on
}

// tail returns the newest anchor, nil if there is none.
func (s *survey) tail() *signed {
	if len(s.pending) > 0 {
		return s.pending[len(s.pending)-1]
	}
	return s.confirmed
}

// survey puts together what index and state file say, and fails unless the hashchain
// agrees with all of it.
func (p *Publisher) survey(ctx context.Context, v View) (*survey, error) {
	s := &survey{height: v.Height(), block: v.Hash()}
	if err := p.claim(ctx, v); err != nil {
		return nil, err
	}
	if p.state.genesis == nil {
		return s, nil
	}
	c, err := v.AnchorChain(*p.state.genesis)
	switch {
	case errors.Is(err, graph.ErrNotFound):
		s.pending = append(s.pending, p.state.find(*p.state.genesis)) // claim has looked for it
	case err != nil:
		return nil, err
	default:
		if err := p.compareChain(ctx, v, &c); err != nil {
			return nil, err
		}
		if err := p.opt.Hashchain.SetAnchorChain(ctx, c.ID.String()); err != nil {
			return nil, err
		}
		s.last = &c.Last
		if s.confirmed, err = p.stored(v, c.Last.TxID); err != nil {
			return nil, err
		}
		if c.Break != protocol.Unbroken {
			s.broken = fmt.Sprintf("%v, by transaction %v in block %d", c.Break, c.BrokenBy, c.BrokenAt)
			return s, nil
		}
	}
	for a := p.state.follower(s.tail().baton()); a != nil; a = p.state.follower(a.baton()) {
		s.pending = append(s.pending, a)
	}
	for _, a := range s.pending {
		if err := p.compare(ctx, &a.Anchor, a.txid, "which is not confirmed yet"); err != nil {
			return nil, err
		}
	}
	if err := p.settleKeys(s); err != nil {
		return nil, err
	}
	return s, p.tidy(ctx, v, s)
}

// stored returns the transaction of a confirmed anchor, and sees to it that it is in the
// state file, should a reorganisation take it out of the chain.
func (p *Publisher) stored(v View, txid chainhash.Hash) (*signed, error) {
	if a := p.state.find(txid); a != nil {
		return a, nil
	}
	proof, err := v.AnchorProof(txid)
	if err != nil {
		return nil, err
	}
	a, err := readSigned(proof.Raw, fromUnix(0), 0)
	if err != nil {
		return nil, err
	}
	if other := p.state.follower(a.spends); other != nil {
		a.made = other.made // the same record, in a version that was replaced
	}
	p.state.put(a)
	return a, p.state.save()
}

// claim looks for chains by this key: at the start, and then, as long as no genesis
// anchor is confirmed, once for each block. It settles which chain is this publisher's,
// should the state file have been lost, or another version of the genesis anchor than
// the stored one been confirmed. It fails if any of them does not agree with the
// hashchain.
func (p *Publisher) claim(ctx context.Context, v View) error {
	if p.claimed == v.Hash() {
		return nil
	}
	if p.claimed != (chainhash.Hash{}) && p.state.genesis != nil {
		if _, err := v.AnchorChain(*p.state.genesis); !errors.Is(err, graph.ErrNotFound) {
			return err
		}
	}
	named, err := p.compareNamed(ctx, v)
	if err != nil {
		return err
	}
	var own []graph.AnchorChain
	for after := (*graph.ActionCursor)(nil); ; {
		chains, next, err := v.AnchorChainsOf(ctx, p.opt.Domain, after, 100)
		if err != nil {
			return err
		}
		for _, c := range chains {
			// An author has signed: nobody else can make a chain look like this key's.
			if p.keys.owns(c.Genesis.Author) || p.keys.owns(c.Last.Author) {
				own = append(own, c)
			}
		}
		if after = next; next == nil {
			break
		}
	}
	for i := range own {
		if err := p.compareChain(ctx, v, &own[i]); err != nil {
			return err
		}
	}
	if err := p.choose(v, own); err != nil {
		return err
	}
	if name := p.opt.Hashchain.AnchorChain(); p.state.genesis == nil && name != "" {
		if named == nil {
			return fmt.Errorf("%w: the keyserver's database names the chain of anchors %s, which is not on this chain: is the node on another one, or does the index start too late?",
				ErrMismatch, name)
		}
		if named.Break == protocol.Unbroken {
			p.opt.Log.Warn().Str("anchor_chain", name).Str("key_file", p.keys.path).
				Msg("the hashchain agrees with its chain of anchors, but this key cannot go on with it: restore the key that can. A payment begins another chain, which auditors must be told of")
		}
	}
	p.claimed = v.Hash()
	return nil
}

// compareNamed compares the hashchain with the chain of anchors that its database
// names, nil if that is not there: state and key file may be lost, or not have come
// with a backup.
func (p *Publisher) compareNamed(ctx context.Context, v View) (*graph.AnchorChain, error) {
	name := p.opt.Hashchain.AnchorChain()
	if name == "" {
		return nil, nil
	}
	id, err := chainhash.NewHashFromStr(name)
	if err != nil {
		return nil, fmt.Errorf("%w: the keyserver's database names the chain of anchors %q: %w", ErrMismatch, name, err)
	}
	c, err := v.AnchorChain(*id)
	if errors.Is(err, graph.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &c, p.compareChain(ctx, v, &c)
}

// choose settles which of the chains by this key goes on.
func (p *Publisher) choose(v View, own []graph.AnchorChain) error {
	genesis := p.state.genesis
	if genesis != nil {
		_, err := v.AnchorChain(*genesis)
		if err == nil {
			return nil
		}
		if !errors.Is(err, graph.ErrNotFound) {
			return err
		}
	}
	if len(own) == 0 {
		if genesis != nil && p.state.find(*genesis) == nil {
			return fmt.Errorf("%w: %s names the chain of anchors %v, which is not on this chain: is the node on another one, or does the index start too late?",
				ErrMismatch, p.state.path, genesis)
		}
		return nil
	}
	open := slices.DeleteFunc(slices.Clone(own), func(c graph.AnchorChain) bool { return c.Break != protocol.Unbroken })
	chosen := own[len(own)-1]
	switch {
	case len(open) > 1:
		return fmt.Errorf("%w: the key has made %d chains of anchors for %s that go on, %v and %v among them: restore %s, which says which one is meant",
			ErrMismatch, len(open), p.opt.Domain, open[0].ID, open[1].ID, p.state.path)
	case len(open) == 1:
		chosen = open[0]
	}
	if genesis != nil {
		proof, err := v.AnchorProof(chosen.ID)
		if err != nil {
			return err
		}
		first := p.state.find(*genesis)
		if out, _ := proof.Raw.Input0(); first == nil || first.spends != out {
			return fmt.Errorf("%w: %s names the chain of anchors %v, which is not on the chain, where this key has made %v: "+
				"to begin another one would be a second history", ErrMismatch, p.state.path, genesis, chosen.ID)
		}
	}
	p.opt.Log.Info().Stringer("anchor_chain", chosen.ID).Uint32("anchors", chosen.Anchors).Msg("found the chain of anchors by its author")
	p.state.genesis = &chosen.ID
	_, err := p.stored(v, chosen.ID)
	return errors.Join(err, p.state.save())
}

// compareChain compares the hashchain with a chain's last anchors. Two, because the
// very last may be one that broke the chain by going back.
func (p *Publisher) compareChain(ctx context.Context, v View, c *graph.AnchorChain) error {
	const last = 2
	anchors, err := v.Anchors(ctx, c.ID, max(c.Anchors, last)-last, last)
	if err != nil {
		return err
	}
	for _, a := range slices.Backward(anchors) {
		where := fmt.Sprintf("number %d of chain %v, confirmed in block %d", a.Number, a.Chain, a.Height)
		if err := p.compare(ctx, &a.Anchor, a.TxID, where); err != nil {
			return err
		}
	}
	return nil
}

// compare checks that the hashchain has what an anchor commits to.
func (p *Publisher) compare(ctx context.Context, a *protocol.Anchor, txid chainhash.Hash, where string) error {
	if p.compared[txid] {
		return nil
	}
	have := p.opt.Hashchain.Chain()
	if a.Position >= have.Size {
		return fmt.Errorf("%w: anchor %v, %s, commits to position %d with head %x, but the hashchain ends at position %d with head %s: "+
			"the keyserver's database is older than what was anchored, and to serve it would be a second history; restore the newest backup",
			ErrAhead, txid, where, a.Position, a.Head, have.Size-1, have.Head)
	}
	then, err := p.opt.Hashchain.ChainAt(ctx, a.Position+1)
	if err != nil {
		return err
	}
	if root := then.Root(); then.Head != a.Head || root != a.Root {
		return fmt.Errorf("%w: anchor %v, %s, commits to position %d with head %x and root %x, where the hashchain has head %s and root %s: "+
			"this is not the database that was anchored, and to serve it would be a second history",
			ErrContradicts, txid, where, a.Position, a.Head, a.Root, then.Head, root)
	}
	if len(p.compared) == maxCompared {
		clear(p.compared)
	}
	p.compared[txid] = true
	return nil
}

// settleKeys puts the next key in place once the baton has gone to it.
func (p *Publisher) settleKeys(s *survey) error {
	holder, ok := protocol.P2PKHKey(s.tail().script)
	k := p.keys.find(holder)
	switch {
	case !ok || k == nil:
		return fmt.Errorf("%w: output 0 of anchor %v, the baton, does not pay the key in %s: give the key file that belongs to the chain of anchors %v",
			ErrMismatch, s.tail().txid, p.keys.path, p.state.genesis)
	case k == p.keys.next:
		return p.keys.promote()
	}
	return nil
}

// tidy removes, once for each block, what needs no more looking after.
func (p *Publisher) tidy(ctx context.Context, v View, s *survey) error {
	if p.tidied == s.block {
		return nil
	}
	if p.keys.previous != nil {
		if err := p.retire(ctx, v, s); err != nil {
			return err
		}
	}
	if err := p.prune(v, s); err != nil {
		return err
	}
	p.tidied = s.block
	return nil
}

// retire removes the previous key when an anchor by the present one is settled, and no
// payment waits at the old address that is worth as much as an anchor costs.
func (p *Publisher) retire(ctx context.Context, v View, s *survey) error {
	isSettled := false
	for _, a := range p.state.anchors {
		status, err := v.Anchor(a.txid)
		if errors.Is(err, graph.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		isSettled = isSettled || status.Author != nil && *status.Author == p.keys.current.hash && status.Height+settled-1 <= s.height
	}
	if !isSettled {
		return nil
	}
	coins, err := p.opt.Node.Coins(ctx, p.keys.previous.hash)
	if err != nil {
		return err
	}
	for _, c := range coins {
		if c.HasToken || c.Value < p.cost() {
			continue
		}
		baton, err := p.anchorOf(ctx, c)
		if err != nil {
			return err
		}
		if baton == nil {
			return nil // the next anchor takes it up
		}
	}
	p.opt.Log.Info().Msg("the anchor key was replaced for good: the old one is removed")
	return p.keys.forget()
}

// prune forgets the anchors that are buried, and those that cannot be confirmed any more.
func (p *Publisher) prune(v View, s *survey) error {
	var kept []*signed
	for _, a := range p.state.anchors {
		if a != s.confirmed && !slices.Contains(s.pending, a) {
			status, err := v.Anchor(a.txid)
			if errors.Is(err, graph.ErrNotFound) || err == nil && status.Height+buried <= s.height {
				continue
			}
			if err != nil {
				return err
			}
		}
		kept = append(kept, a)
	}
	if len(kept) == len(p.state.anchors) {
		return nil
	}
	p.state.anchors = kept
	return p.state.save()
}
