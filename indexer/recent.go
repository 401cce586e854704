package indexer

import (
	"bytes"
	"sync"

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

// recent remembers which keys have acted, and the outputs of the last blocks that pay
// one of them: with these they will most likely pay for what they do next. The node
// need not be asked for such outputs, and they are proven: each is of a transaction
// that hashes to its txid. So it does no harm if that has left the chain.
type recent struct {
	actors protocol.KeyFilter

	mu      sync.Mutex
	outputs map[wire.OutPoint]protocol.Output // mu
	order   []wire.OutPoint                   // mu; a ring once there are limit of them
	oldest  int                               // mu; where the ring begins
	limit   int
}

func newRecent(limit int) *recent {
	return &recent{outputs: make(map[wire.OutPoint]protocol.Output), limit: limit}
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
	defer r.mu.Unlock()
	output, ok := r.outputs[out]
	return output, ok
}
