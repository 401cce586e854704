package anchor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/anchors"
	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/schedule"
	"github.com/keytree-bch/keytree/protocol"
)

// Bounds on what others can make longer.
const (
	// maxChains is how many chains of anchors for the domain are looked at, at the start
	// and for each block until the genesis anchor is confirmed. Anybody can begin one for
	// the fee of one transaction, about 300 satoshi; 10,000 of them take the index well
	// under a second.
	maxChains = 10_000
	// maxUnclaimed is how many chains that may be the keyserver's are told apart.
	maxUnclaimed = 20
	// maxRemembered is how many entries each of the caches has at most.
	maxRemembered = 4096
)

// rules are what the publisher was told.
type rules struct {
	schedule.Schedule
	domain  string
	feeRate int64
	choice  *chainhash.Hash // Options.AnchorChain
	keyFile string          // for messages
	state   string          // the state file, for messages
}

// facts are what was observed at one moment. Everything is decided from them, and
// nobody changes them.
type facts struct {
	rules
	first bool // Check has not ended yet

	now    time.Time
	height uint32         // of the block that the index ends with
	block  chainhash.Hash // its hash
	time   time.Time      // in its header

	head       hashchain.Chain
	named      string // the chain of anchors that the database names; "" for none
	unanchored bool   // Hashchain.Unanchored

	genesis *chainhash.Hash // as the state file says
	stored  []*signed       // in the state file
	keys    holders

	ours      *anchors.Chain                    // that of genesis; nil if the index has none
	last      *signed                           // the last anchor of ours; nil if there is none
	lastTime  time.Time                         // in the header of its block
	confirmed map[chainhash.Hash]anchors.Status // those of stored that are
	pending   []*signed                         // those that follow, in their order, as far as they are stored

	search                     // empty if there was no need to look
	namedChain  *anchors.Chain // that of named; nil if the index has none, or there was no need to look
	choiceChain *anchors.Chain // that of choice, likewise
	commitments []commitment   // of all these, unless they were found to agree before

	offers  map[chainhash.Hash]offer // what became of offers to the node
	asked   chainhash.Hash           // the block as of which the node was asked last
	counted time.Time                // when that was
	node    *nodeFacts               // nil: the node was not asked
}

// search is which chains of anchors for the domain there are.
type search struct {
	own       []ownChain
	unclaimed []unclaimedChain // of nobody whose key is here; not those of another keyserver
	more      bool             // there are more of them than were looked at
}

// ownChain is a chain that one of the keys has made.
type ownChain struct {
	anchors.Chain
	first *signed // its genesis anchor
}

// unclaimedChain is a chain that may be this keyserver's.
type unclaimedChain struct {
	anchors.Chain
	first commitment // of its genesis anchor
}

// commitment is an anchor beside what the hashchain has at its position.
type commitment struct {
	protocol.Anchor
	txid  chainhash.Hash
	where string           // it is, for people
	have  *hashchain.Chain // as of the position; nil if the hashchain ends before it
}

// offer is what a node said of a transaction.
type offer struct {
	block   chainhash.Hash // that the index ended with
	at      time.Time
	refusal error // ErrFee or ErrRefused; nil if it was taken
}

// find returns a stored anchor, nil if it is not there.
func (f *facts) find(txid chainhash.Hash) *signed { return findAnchor(f.stored, txid) }

// tail returns the newest anchor, nil if there is none.
func (f *facts) tail() *signed {
	if n := len(f.pending); n > 0 {
		return f.pending[n-1]
	}
	return f.last
}

// broken tells how the chain ended, "" if it goes on.
func (f *facts) broken() string {
	if f.ours == nil || f.ours.Break == protocol.Unbroken {
		return ""
	}
	return fmt.Sprintf("%v, by transaction %v in block %d", f.ours.Break, f.ours.BrokenBy, f.ours.BrokenAt)
}

// observe looks at hashchain, files and index, and asks the node if that is wanted. It
// changes nothing but the caches, which save work and no more.
func (p *Publisher) observe(ctx context.Context, askNode bool) (*facts, error) {
	if p.state.failed != nil {
		return nil, p.state.failed
	}
	v, err := p.opt.Chain.View()
	if err != nil {
		return nil, err
	}
	defer v.Close()
	f := &facts{
		rules: rules{
			Schedule: p.opt.Schedule, domain: p.opt.Domain, feeRate: p.opt.FeeRate,
			choice: p.opt.AnchorChain, keyFile: p.opt.KeyFile, state: p.opt.StateFile,
		},
		first: !p.checked.Load(),
		now:   p.opt.Now(), height: v.Height(), block: v.Hash(), time: v.Time(),
		head: p.opt.Hashchain.Chain(), named: p.opt.Hashchain.AnchorChain(), unanchored: p.opt.Hashchain.Unanchored(),
		genesis: p.state.genesis, stored: slices.Clone(p.state.anchors), keys: p.keys.holders(),
		confirmed: make(map[chainhash.Hash]anchors.Status),
		offers:    maps.Clone(p.offers), asked: p.asked, counted: p.funds.counted,
	}
	if err := p.observeIndex(ctx, v, f); err != nil || !askNode {
		return f, err
	}
	f.node, err = p.observeNode(ctx, f)
	return f, err
}

func (p *Publisher) observeIndex(ctx context.Context, v View, f *facts) (err error) {
	for _, a := range f.stored {
		status, err := v.Anchor(a.txid)
		if err == nil {
			f.confirmed[a.txid] = status
		} else if !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	if f.genesis != nil {
		if f.ours, err = chainIn(v, *f.genesis); err != nil {
			return err
		}
	}
	if f.ours != nil {
		proof, err := v.AnchorProof(f.ours.Last.TxID)
		if err != nil {
			return err
		}
		header, err := protocol.ParseHeader(proof.Header[:])
		if err != nil {
			return err
		}
		f.lastTime = time.Unix(int64(header.Time), 0)
		if f.last = f.find(f.ours.Last.TxID); f.last == nil {
			if f.last, err = readSigned(proof.Raw, time.Time{}, 0); err != nil {
				return err
			}
		}
		if err := p.compareChain(ctx, v, f, f.ours); err != nil {
			return err
		}
	}
	f.pending = f.followers()
	for _, a := range f.pending {
		if err := p.compare(ctx, f, &a.Anchor, a.txid, "which is not confirmed yet"); err != nil {
			return err
		}
	}
	if f.ours == nil || f.first {
		return p.observeOthers(ctx, v, f)
	}
	return nil
}

// followers returns the stored anchors behind the last that is confirmed.
func (f *facts) followers() (line []*signed) {
	var next *signed
	switch {
	case f.genesis == nil || f.broken() != "":
	case f.ours == nil:
		next = f.find(*f.genesis)
	default:
		next = followerOf(f.stored, f.last.baton())
	}
	for ; next != nil; next = followerOf(f.stored, next.baton()) {
		line = append(line, next)
	}
	return line
}

// observeOthers looks which chains there are besides the one that the state file names:
// at the start, and while that one is not confirmed.
func (p *Publisher) observeOthers(ctx context.Context, v View, f *facts) (err error) {
	if f.named != "" {
		id, err := chainhash.NewHashFromStr(f.named)
		if err != nil {
			return fmt.Errorf("%w: the keyserver's database names the chain of anchors %q: %w", ErrMismatch, f.named, err)
		}
		if f.namedChain, err = chainIn(v, *id); err != nil {
			return err
		}
	}
	if f.choice != nil {
		if f.choiceChain, err = chainIn(v, *f.choice); err != nil {
			return err
		}
	}
	if p.searched != f.block {
		if p.found, err = p.search(ctx, v, f); err != nil {
			return err
		}
		p.searched = f.block
	}
	f.search = p.found
	compared := []*anchors.Chain{f.namedChain, f.choiceChain}
	for i := range f.own {
		compared = append(compared, &f.own[i].Chain)
	}
	for _, c := range compared {
		if c == nil {
			continue
		}
		if err := p.compareChain(ctx, v, f, c); err != nil {
			return err
		}
	}
	return nil
}

// chainIn returns a chain of anchors, nil if the index has none of that name.
func chainIn(v View, id chainhash.Hash) (*anchors.Chain, error) {
	c, err := v.AnchorChain(id)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return &c, err
}

// search goes through the chains of the domain.
func (p *Publisher) search(ctx context.Context, v View, f *facts) (s search, err error) {
	const page = 100
	var after *store.Position
	for looked := 0; ; {
		chains, next, err := v.AnchorChainsOf(ctx, f.domain, after, page)
		if err != nil {
			return s, err
		}
		for _, c := range chains {
			// An author has signed: nobody else can make a chain look like this key's.
			if f.keys.owns(c.Genesis.Author) || f.keys.owns(c.Last.Author) {
				proof, err := v.AnchorProof(c.ID)
				if err != nil {
					return s, err
				}
				first, err := readSigned(proof.Raw, time.Time{}, 0)
				if err != nil {
					return s, err
				}
				s.own = append(s.own, ownChain{c, first})
				continue
			}
			first, err := p.commitment(ctx, f, &c.Genesis.Anchor, c.ID, "")
			if err != nil {
				return s, err
			}
			switch {
			case first.foreign():
			case len(s.unclaimed) == maxUnclaimed:
				s.more = true
			default:
				s.unclaimed = append(s.unclaimed, unclaimedChain{c, first})
			}
		}
		if looked += len(chains); next == nil {
			return s, nil
		}
		if looked >= maxChains {
			s.more = true
			return s, nil
		}
		after = next
	}
}

// compareChain looks at a chain's last anchors. Two, because the very last may be one
// that broke the chain by going back.
func (p *Publisher) compareChain(ctx context.Context, v View, f *facts, c *anchors.Chain) error {
	const last = 2
	anchors, err := v.Anchors(ctx, c.ID, max(c.Anchors, last)-last, last)
	if err != nil {
		return err
	}
	for _, a := range slices.Backward(anchors) {
		where := fmt.Sprintf("number %d of chain %v, confirmed in block %d", a.Number, a.Chain, a.Height)
		if err := p.compare(ctx, f, &a.Anchor, a.TxID, where); err != nil {
			return err
		}
	}
	return nil
}

// compare adds an anchor to the commitments, unless it is known that the hashchain
// agrees with it: of what agrees once nothing can change, since the hashchain only grows.
func (p *Publisher) compare(ctx context.Context, f *facts, a *protocol.Anchor, txid chainhash.Hash, where string) error {
	if p.agreed[txid] {
		return nil
	}
	c, err := p.commitment(ctx, f, a, txid, where)
	if err != nil {
		return err
	}
	if c.agrees() {
		remember(p.agreed, txid, true)
		return nil
	}
	f.commitments = append(f.commitments, c)
	return nil
}

func (p *Publisher) commitment(ctx context.Context, f *facts, a *protocol.Anchor, txid chainhash.Hash, where string) (commitment, error) {
	c := commitment{Anchor: *a, txid: txid, where: where}
	if a.Position >= f.head.Size {
		return c, nil
	}
	have, err := p.opt.Hashchain.ChainAt(ctx, a.Position+1)
	c.have = &have
	return c, err
}

// remember adds to a cache.
func remember[T any](cache map[chainhash.Hash]T, txid chainhash.Hash, value T) {
	if len(cache) == maxRemembered {
		clear(cache)
	}
	cache[txid] = value
}
