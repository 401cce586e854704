package indexer

import (
	"bytes"
	"encoding/binary"
	"sync"
	"sync/atomic"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/protocol"
)

// Bounds on what is remembered. Whoever pays fees can fill it, and drive out what
// has been remembered before.
const (
	recentKept = 1 << 16 // outputs: some 15 MB
	maxCoins   = 4096    // of one block
)

// coin is an output that somebody who acts is likely to spend when acting next.
type coin struct {
	out    wire.OutPoint
	output protocol.Output
}

// takeCoins takes the outputs that pay who may have acted in the transaction, if by is
// not nil, or one of actors.
func (x *extracted) takeCoins(carrier *protocol.Carrier, by *protocol.Claim, actors *protocol.KeyFilter) {
	if actors == nil {
		return
	}
	for i, output := range carrier.Raw.Outputs() {
		if len(x.Coins) == maxCoins {
			return
		}
		key, ok := protocol.P2PKHKey(protocol.StripTokenPrefix(output.Script))
		if ok && (by != nil && by.Key == key || actors.MayHave(key)) {
			x.Coins = append(x.Coins, coin{
				wire.OutPoint{Hash: carrier.TxID, Index: i}, protocol.Output{Value: output.Value, Script: bytes.Clone(output.Script)},
			})
		}
	}
}

// recent remembers outputs that will most likely pay for the next actions, so that the
// node need not be asked for them: for long those that pay a key that has acted; and
// while the node reads a whole block to tell what is spent, for some 40 MB of blocks
// all that pay a key: with one of these many act for the first time. They are proven,
// each is of a transaction that hashes to its txid; so it does no harm if that has left
// the chain.
type recent struct {
	actors protocol.KeyFilter

	mu      sync.Mutex
	outputs map[wire.OutPoint]protocol.Output // mu
	order   []wire.OutPoint                   // mu; a ring once there are limit of them
	oldest  int                               // mu; where the ring begins
	limit   int

	payments atomic.Pointer[payments] // nil while the node has an index
}

// payments is a table of payments to keys, in which each has one place, and takes it
// from whatever was there.
type payments struct {
	mu    sync.Mutex
	table [1 << 18]payment // mu; 16 MB
}

// payment is an output without tokens that pays a key.
type payment struct {
	out   wire.OutPoint
	key   protocol.KeyHash
	value int64 // satoshi
}

// place is where a payment has to be. Txids are as good as random.
func (p *payments) place(out *wire.OutPoint) *payment {
	return &p.table[(binary.LittleEndian.Uint32(out.Hash[:])+out.Index)%uint32(len(p.table))]
}

// hashed remembers the payments of transactions. It is protocol.Walk's Hashed.
func (p *payments) hashed(txs [][]byte, txids []chainhash.Hash) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, tx := range txs {
		for n, output := range protocol.Tx(tx).Outputs() {
			if key, ok := protocol.P2PKHKey(output.Script); ok {
				out := wire.OutPoint{Hash: txids[i], Index: n}
				*p.place(&out) = payment{out, key, output.Value}
			}
		}
	}
}

func (p *payments) find(out wire.OutPoint) (protocol.Output, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if found := p.place(&out); found.out == out && out.Hash != (chainhash.Hash{}) { // an empty place
		return protocol.Output{Value: found.value, Script: protocol.P2PKHScript(found.key)}, true
	}
	return protocol.Output{}, false
}

func newRecent(limit int) *recent {
	r := &recent{outputs: make(map[wire.OutPoint]protocol.Output), limit: limit}
	r.asked(false)
	return r
}

// asked notes whether the node could prove what it told. One with an index can, and it
// is cheap to ask.
func (r *recent) asked(proven bool) {
	switch now := r.payments.Load(); {
	case proven && now != nil:
		r.payments.Store(nil)
	case !proven && now == nil:
		r.payments.CompareAndSwap(nil, new(payments))
	}
}

// add remembers coins of a block.
func (r *recent) add(coins []coin) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range coins {
		if _, ok := r.outputs[c.out]; ok {
			continue
		}
		r.outputs[c.out] = c.output
		if len(r.order) < r.limit {
			r.order = append(r.order, c.out)
			continue
		}
		delete(r.outputs, r.order[r.oldest])
		r.order[r.oldest] = c.out
		r.oldest = (r.oldest + 1) % r.limit
	}
}

// find returns an output if it is remembered.
func (r *recent) find(out wire.OutPoint) (protocol.Output, bool) {
	r.mu.Lock()
	output, ok := r.outputs[out]
	r.mu.Unlock()
	if p := r.payments.Load(); !ok && p != nil {
		return p.find(out)
	}
	return output, ok
}
