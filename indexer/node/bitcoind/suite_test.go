package bitcoind_test

import (
	"context"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/indexer/node/bitcoind"
	"github.com/keytree-bch/keytree/indexer/node/nodetest"
)

// runSuite runs the part of nodetest that leaves the node as it is.
func runSuite(t *testing.T, cfg bitcoind.Config, chain *nodetest.Chain, index bool, pruned uint32) {
	t.Helper()
	cfg.From = pruned
	nodetest.Run(t, nodetest.Node{
		Chain: chain, Index: index, Pruned: pruned,
		Dial: func(t *testing.T) nodetest.Client { return must[*bitcoind.Client](t)(bitcoind.Dial(t.Context(), cfg)) },
	})
}

// runLiveSuite runs the part of nodetest that changes the node.
func runLiveSuite(t *testing.T, cfg bitcoind.Config, chain *nodetest.Chain, control nodetest.Control) {
	t.Helper()
	nodetest.RunLive(t, nodetest.Live{
		Chain: chain, Control: control, Address: cfg.Address, Hints: cfg.ZMQ != "",
		Dial: func(ctx context.Context, address string, retryFor time.Duration) (nodetest.Client, error) {
			cfg := cfg
			cfg.Address, cfg.RetryFor = address, retryFor
			return bitcoind.Dial(ctx, cfg)
		},
	})
}

// TestSuiteBCHD runs the suite on a real bchd.
func TestSuiteBCHD(t *testing.T) {
	chain, _ := nodetest.NewChain()
	chain = chain.To(nodetest.TokensFrom - 1)
	n := regtest.ForTest(t, regtest.Options{NoAddrIndex: true})
	chain.SubmitTo(t, n)
	runSuite(t, config(t, n), chain, true, 0)
	nodetest.RunCoins(t, chain, dial(t, config(t, n)))
	runLiveSuite(t, config(t, n), chain, n)
}

// TestSuiteBCHN runs the suite on the imitation of BCHN.
func TestSuiteBCHN(t *testing.T) {
	chain, _ := nodetest.NewChain()
	for name, test := range map[string]struct {
		undo          undo
		txIndex, rest bool
		pruned        uint32
	}{
		"undo data of transactions":             {undo: inTx, rest: true},
		"undo data of transactions, in prevout": {undo: inPrevout},
		"undo data of blocks":                   {undo: inBlock, rest: true},
		"transaction index":                     {undo: inTx, txIndex: true, rest: true},
		"pruned":                                {undo: inBlock, pruned: nodetest.TokensFrom},
	} {
		t.Run(name, func(t *testing.T) {
			if testing.Short() && test.undo != inBlock {
				t.Skip("what runs beside something else is the same with all undo data")
			}
			n := newBCHN(t)
			n.undo, n.txIndex, n.rest, n.pruned = test.undo, test.txIndex, test.rest, test.pruned
			n.take(chain)
			runSuite(t, n.config(), chain, test.txIndex, test.pruned)
			cfg := n.config()
			cfg.From = test.pruned
			nodetest.RunCoins(t, chain, dial(t, cfg))
		})
	}
}

// TestLiveSuiteBCHN runs the suite's other part on it.
func TestLiveSuiteBCHN(t *testing.T) {
	chain, _ := nodetest.NewChain()
	for name, test := range map[string]struct {
		undo undo
		rest bool
	}{
		"REST, undo data":               {undo: inTx, rest: true},
		"JSON-RPC, undo data of blocks": {undo: inBlock},
	} {
		t.Run(name, func(t *testing.T) {
			n := newBCHN(t)
			n.undo, n.rest = test.undo, test.rest
			n.take(chain)
			cfg := n.config()
			p := publish(t, "127.0.0.1:0")
			cfg.ZMQ = p.address()
			runLiveSuite(t, cfg, chain, &imitated{branches{best: chain}, n, p})
		})
	}
}

// branches are the chains of a node that is made to change them.
type branches struct {
	best *nodetest.Chain
	lost *nodetest.Chain // what was best before invalidate
}

// reorg replaces the last depth blocks by new ones, and returns their hashes.
func (b *branches) reorg(depth uint32, blocks ...[]*wire.MsgTx) (mined []chainhash.Hash) {
	b.best = b.best.To(b.best.Height() - depth)
	for _, txs := range blocks {
		mined = append(mined, b.best.Mine(regtest.NewKey(), txs...).BlockHash())
	}
	return mined
}

// invalidate ends the chain before a block.
func (b *branches) invalidate(hash chainhash.Hash) {
	height := b.best.Height()
	for b.best.Hash(height) != hash {
		height--
	}
	b.best, b.lost = b.best.To(height-1), b.best
}

// reconsider takes invalidate back for the next block.
func (b *branches) reconsider() { b.best = b.lost.To(b.best.Height() + 1) }

// imitated is how the suite changes the imitation.
type imitated struct {
	branches
	node *bchn
	zmq  *publisher
}

func (i *imitated) changed() error {
	i.node.take(i.best)
	i.zmq.announce(i.best.Hash(i.best.Height()))
	return nil
}

// Mine implements nodetest.Control.
func (i *imitated) Mine(ctx context.Context, count uint32) ([]chainhash.Hash, error) {
	return i.Reorg(ctx, 0, make([][]*wire.MsgTx, count)...)
}

// Reorg implements nodetest.Control.
func (i *imitated) Reorg(_ context.Context, depth uint32, blocks ...[]*wire.MsgTx) ([]chainhash.Hash, error) {
	return i.reorg(depth, blocks...), i.changed()
}

// Invalidate implements nodetest.Control.
func (i *imitated) Invalidate(_ context.Context, hash chainhash.Hash) error {
	i.invalidate(hash)
	return i.changed()
}

// Reconsider implements nodetest.Control.
func (i *imitated) Reconsider(context.Context, chainhash.Hash) error {
	i.reconsider()
	return i.changed()
}

// Halt implements nodetest.Control.
func (i *imitated) Halt() error {
	i.node.server.CloseClientConnections()
	i.node.server.Close()
	return nil
}

// Resume implements nodetest.Control.
func (i *imitated) Resume(context.Context) error {
	i.node.serve(i.node.server.Listener.Addr().String())
	return nil
}
