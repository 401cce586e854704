package indexer

import (
	"testing"

	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/protocol"
)

// TestRecentForgets remembers no more than it may, and what came last.
func TestRecentForgets(t *testing.T) {
	r := newRecent(3)
	for i := range uint32(10) {
		c := coin{wire.OutPoint{Index: i}, protocol.Output{Value: int64(i)}}
		r.add([]coin{c, c})
		for j := range i + 1 {
			output, ok := r.find(wire.OutPoint{Index: j})
			if ok != (j+3 > i) || ok && output.Value != int64(j) {
				t.Errorf("after %d: output %d is %+v, %v", i, j, output, ok)
			}
		}
	}
	if len(r.outputs) != 3 || len(r.order) != 3 {
		t.Errorf("%d outputs are remembered in an order of %d", len(r.outputs), len(r.order))
	}
}
