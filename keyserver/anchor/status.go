package anchor

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/anchors"
	"github.com/keytree-bch/keytree/protocol"
)

// Status is how the anchoring stands. Amounts are in satoshi.
type Status struct {
	Domain  string `json:"domain"`
	Address string `json:"address"` // of the key that holds the baton, for payments
	URI     string `json:"uri"`     // the same for wallets

	Chain   string    `json:"chain"` // txid of the genesis anchor, confirmed or not; "" if there is none
	Last    *Anchor   `json:"last"`  // newest confirmed one; nil if there is none
	Pending []*Anchor `json:"pending"`
	Broken  string    `json:"broken"` // how the chain ended; "" if it goes on

	Entries     uint64 `json:"entries"`      // of the hashchain
	NotAnchored uint64 `json:"not_anchored"` // entries after the newest anchor, confirmed or not
	// Heartbeat is the time that a block has to have before the last record is repeated,
	// if no entry comes; nil while there is no anchor, or an unconfirmed one.
	Heartbeat *time.Time `json:"heartbeat"`

	Balance int64 `json:"balance"` // what the next anchor can spend, and unconfirmed payments
	FeeRate int64 `json:"fee_rate"`
	Left    int64 `json:"left"` // how many anchors the balance pays for
	Cost    int64 `json:"cost"` // of one anchor

	OldKey  bool   `json:"old_key"` // whether the key before this one is still kept
	Problem string `json:"problem"` // why nothing is published; "" if all is well
}

// Anchor is one of the chain.
type Anchor struct {
	TxID          string `json:"txid"`
	Number        uint32 `json:"number"` // in the chain, from 0 on
	Position      uint64 `json:"position"`
	Head          string `json:"head"`          // hex
	Height        uint32 `json:"height"`        // of its block; 0 while unconfirmed
	Confirmations uint32 `json:"confirmations"` // 0 while unconfirmed
}

// funds are what the next anchors can be paid with, as it was last counted.
type funds struct {
	coins   int64     // beside the baton, in satoshi
	counted time.Time // when
}

// newAnchor describes a confirmed anchor as of a height.
func newAnchor(a *anchors.Status, height uint32) Anchor {
	return Anchor{
		TxID: a.TxID.String(), Number: a.Number, Position: a.Position, Head: fmt.Sprintf("%x", a.Head),
		Height: a.Height, Confirmations: height - a.Height + 1,
	}
}

// countEvery is how often the funds are counted when nothing happens.
const countEvery = time.Minute

// warnFunds says when the funds are low, with each anchor that was made.
func (p *Publisher) warnFunds(f *facts) {
	if left := p.left(f); p.signed && left < fewAnchors {
		p.opt.Log.Warn().Int64("anchors_left", left).Int64("satoshi", p.balance(f)).Str("address", p.address()).
			Msg("the funds for anchors run low: pay to the address")
	}
	p.signed = false
}

func (p *Publisher) balance(f *facts) int64 {
	balance := p.funds.coins
	if tail := f.tail(); tail != nil && f.broken() == "" {
		balance += tail.value
	}
	return balance
}

// cost is what an anchor costs at the fee rate that is configured.
func (p *Publisher) cost() int64 {
	r := rules{feeRate: p.opt.FeeRate, domain: p.opt.Domain}
	return r.cost()
}

func (p *Publisher) left(f *facts) int64 {
	return max(0, p.balance(f)-protocol.DustLimit) / p.cost()
}

func (p *Publisher) address() string {
	return protocol.FormatAddress(p.keys.current.hash, p.opt.Network)
}

// uri asks a wallet for a payment (BIP 21).
func (p *Publisher) uri() string {
	return p.address() + "?message=" + url.PathEscape("anchors of "+p.opt.Domain)
}

// remind says what keeps the next anchor from being made, the same at most once in
// remindEvery.
func (p *Publisher) remind(f *facts, cause error) {
	if errors.Is(cause, errFunds) && f.tail() == nil && !p.begged {
		p.begged = true
		if p.opt.NeedFunds != nil {
			p.opt.NeedFunds(p.uri())
		}
	}
	if now := p.opt.Now(); p.trouble != cause.Error() || now.Sub(p.reminded) >= remindEvery || now.Before(p.reminded) {
		p.reminded, p.trouble = now, cause.Error()
		p.opt.Log.Error().Err(cause).Str("address", p.address()).Int64("satoshi_per_anchor", p.cost()).Msg("nothing is anchored for now")
	}
}

// report makes known what was observed.
func (p *Publisher) report(f *facts, problem string) {
	status := &Status{
		Domain: p.opt.Domain, Address: p.address(), URI: p.uri(), Broken: f.broken(), Problem: problem,
		Balance: p.balance(f), FeeRate: p.opt.FeeRate, Left: p.left(f), Cost: p.cost(), OldKey: p.keys.previous != nil,
	}
	if p.state.genesis != nil {
		status.Chain = p.state.genesis.String()
	}
	number := uint32(0)
	if f.ours != nil {
		last := newAnchor(&f.ours.Last, f.height)
		status.Last, number = &last, last.Number+1
	}
	for i, a := range f.pending {
		status.Pending = append(status.Pending, &Anchor{
			TxID: a.txid.String(), Number: number + uint32(i), Position: a.Position, Head: fmt.Sprintf("%x", a.Head),
		})
	}
	if at := f.heartbeat(); !at.IsZero() {
		status.Heartbeat = &at
	}
	p.status.Store(status)
}

// problem adds to what is known why it does not go on.
func (p *Publisher) problem(err error) {
	status := *p.status.Load()
	status.Problem = err.Error()
	p.status.Store(&status)
}

// Status returns how the anchoring stood at the last look around, and how many entries
// are not anchored now.
func (p *Publisher) Status() Status {
	status := *p.status.Load()
	status.Entries = p.opt.Hashchain.Chain().Size
	anchored := uint64(0)
	if status.Last != nil {
		anchored = status.Last.Position + 1
	}
	if n := len(status.Pending); n > 0 {
		anchored = status.Pending[n-1].Position + 1
	}
	status.NotAnchored = max(status.Entries, anchored) - anchored
	return status
}

// List returns up to limit anchors of the chain that are confirmed, from a number on.
// Fewer than limit: there are no more.
func (p *Publisher) List(ctx context.Context, from uint32, limit int) ([]Anchor, error) {
	name := p.status.Load().Chain
	if name == "" {
		return nil, nil
	}
	genesis, err := chainhash.NewHashFromStr(name)
	if err != nil {
		return nil, err
	}
	v, err := p.opt.Chain.View()
	if err != nil {
		return nil, err
	}
	defer v.Close()
	found, err := v.Anchors(ctx, *genesis, from, limit)
	if err != nil {
		return nil, err
	}
	anchors := make([]Anchor, len(found))
	for i, a := range found {
		anchors[i] = newAnchor(&a, v.Height())
	}
	return anchors, nil
}
