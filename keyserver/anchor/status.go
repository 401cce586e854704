package anchor

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"

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

// countEvery is how often the funds are counted when nothing happens.
const countEvery = time.Minute

// count counts the funds, if that is due or now is set, and says so when they are low.
func (p *Publisher) count(ctx context.Context, s *survey, now bool) error {
	if at := p.opt.Now(); now || at.Sub(p.funds.counted) >= countEvery || at.Before(p.funds.counted) {
		p.funds = funds{counted: at}
		for _, k := range p.keys.all() {
			coins, err := p.opt.Node.Coins(ctx, k.hash)
			if err != nil {
				return err
			}
			for _, c := range coins {
				if !c.HasToken && !isBaton(s, c) {
					p.funds.coins += c.Value
				}
			}
		}
	}
	if left := p.left(s); now && left < fewAnchors {
		p.opt.Log.Warn().Int64("anchors_left", left).Int64("satoshi", p.balance(s)).Str("address", p.address()).
			Msg("the funds for anchors run low: pay to the address")
	}
	return nil
}

// isBaton reports whether a coin is the baton, or that of an anchor before the newest:
// the node may not have heard of the next one yet.
func isBaton(s *survey, c Coin) bool {
	if s.confirmed != nil && c.OutPoint == s.confirmed.baton() {
		return true
	}
	for _, a := range s.pending {
		if c.OutPoint == a.baton() {
			return true
		}
	}
	return false
}

func (p *Publisher) balance(s *survey) int64 {
	balance := p.funds.coins
	if tail := s.tail(); tail != nil && s.broken == "" {
		balance += tail.value
	}
	return balance
}

// cost is what an anchor costs at the fee rate that is configured.
func (p *Publisher) cost() int64 { return p.opt.FeeRate * txSize(1, p.opt.Domain) }

func (p *Publisher) left(s *survey) int64 {
	return max(0, p.balance(s)-protocol.DustLimit) / p.cost()
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
func (p *Publisher) remind(s *survey, cause error) {
	if errors.Is(cause, errFunds) && s.tail() == nil && !p.asked {
		p.asked = true
		if p.opt.NeedFunds != nil {
			p.opt.NeedFunds(p.uri())
		}
	}
	if now := p.opt.Now(); p.trouble != cause.Error() || now.Sub(p.reminded) >= remindEvery || now.Before(p.reminded) {
		p.reminded, p.trouble = now, cause.Error()
		p.opt.Log.Error().Err(cause).Str("address", p.address()).Int64("satoshi_per_anchor", p.cost()).Msg("nothing is anchored for now")
	}
}

// report makes what a survey found known.
func (p *Publisher) report(s *survey, problem string) {
	status := &Status{
		Domain: p.opt.Domain, Address: p.address(), URI: p.uri(), Broken: s.broken, Problem: problem,
		Balance: p.balance(s), FeeRate: p.opt.FeeRate, Left: p.left(s), Cost: p.cost(), OldKey: p.keys.previous != nil,
	}
	if p.state.genesis != nil {
		status.Chain = p.state.genesis.String()
	}
	number := uint32(0)
	if s.last != nil {
		status.Last = &Anchor{
			TxID: s.last.TxID.String(), Number: s.last.Number, Position: s.last.Position, Head: fmt.Sprintf("%x", s.last.Head),
			Height: s.last.Height, Confirmations: s.height - s.last.Height + 1,
		}
		number = s.last.Number + 1
	}
	for i, a := range s.pending {
		status.Pending = append(status.Pending, &Anchor{
			TxID: a.txid.String(), Number: number + uint32(i), Position: a.Position, Head: fmt.Sprintf("%x", a.Head),
		})
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
		anchors[i] = Anchor{
			TxID: a.TxID.String(), Number: a.Number, Position: a.Position, Head: fmt.Sprintf("%x", a.Head),
			Height: a.Height, Confirmations: v.Height() - a.Height + 1,
		}
	}
	return anchors, nil
}
