package bitcoind_test

import (
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
)

// TestHeader compares headers with the blocks that they begin.
func TestHeader(t *testing.T) {
	n := regtest.ForTest(t, regtest.Options{Blocks: 3})
	c := dial(t, config(t, n))
	for height := range uint32(4) {
		header, err := c.Header(t.Context(), height)
		check(t, err)
		hash := must[chainhash.Hash](t)(c.BlockHash(t.Context(), height))
		block := must[[]byte](t)(c.Block(t.Context(), hash))
		if string(header[:]) != string(block[:len(header)]) {
			t.Errorf("height %d: header %x, the block begins with %x", height, header, block[:len(header)])
		}
	}
	for _, height := range []uint32{4, 1<<32 - 1} {
		_, err := c.Header(t.Context(), height)
		wantError(t, err, node.ErrNotFound)
	}
}
