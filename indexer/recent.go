package indexer

import (
	"sync"

	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/protocol"
)

// recentKept is how many outputs are remembered: some 15 MB. Whoever pays fees can
// fill that, and drives out what has been remembered before.
const recentKept = 1 << 16

// recent remembers the outputs of the last blocks by which the authors of actions
// and anchors paid themselves: their change, which they will most likely spend on
// what they do next. The node need not be asked for these, and they are proven: each
// is of a transaction that hashes to its txid. So it does no harm if that has left
// the chain.
type recent struct {
	mu      sync.Mutex
	outputs map[wire.OutPoint]protocol.Output // mu
	order   []wire.OutPoint                   // mu; a ring once there are limit of them
	oldest  int                               // mu; where the ring begins
	limit   int
}

func newRecent(limit int) *recent {
	return &recent{outputs: make(map[wire.OutPoint]protocol.Output), limit: limit}
}

// add remembers the outputs that a block makes.
func (r *recent) add(x *extracted) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range x.Claims {
		c := &x.Claims[i]
		for _, to := range c.change {
			out := wire.OutPoint{Hash: c.TxID, Index: to.index}
			if _, ok := r.outputs[out]; ok {
				continue
			}
			r.outputs[out] = to.output
			if len(r.order) < r.limit {
				r.order = append(r.order, out)
				continue
			}
			delete(r.outputs, r.order[r.oldest])
			r.order[r.oldest] = out
			r.oldest = (r.oldest + 1) % r.limit
		}
	}
}

// find returns an output if it is remembered.
func (r *recent) find(out wire.OutPoint) (protocol.Output, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	output, ok := r.outputs[out]
	return output, ok
}
