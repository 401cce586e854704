package vectors

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/anchors"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/indexer"
	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/protocol"
)

// play runs a case: each block goes from a node through the indexer into a graph, and is taken back
// where the case says so.
func play(t *testing.T, c *Case) (run []seen) {
	t.Helper()
	g := open(t, c)
	n := newFileNode()
	for i := 0; i < len(c.Steps); {
		if c.Steps[i].Disconnect {
			if err := g.Disconnect(); err != nil {
				t.Fatalf("step %d: %v", i, err)
			}
			n.takeBack()
			run = append(run, tipOf(t, g))
			i++
			continue
		}
		first := i
		for ; i < len(c.Steps) && !c.Steps[i].Disconnect; i++ {
			n.add(t, c.Steps[i].Connect)
		}
		index(t, n, g)
		tip, _ := g.Tip()
		for height := tip.Height + 1 - uint32(i-first); height <= tip.Height; height++ {
			run = append(run, blockOf(t, g, height))
		}
	}
	return run
}

// follow shows the case's chain to an indexer as a node does: with a new branch as soon as it is
// the longer one. The indexer finds out by itself what to take back.
func follow(t *testing.T, c *Case) {
	t.Helper()
	g := open(t, c)
	n := newFileNode()
	for i, step := range c.Steps {
		if step.Disconnect {
			n.takeBack()
			continue
		}
		n.add(t, step.Connect)
		if i+1 < len(c.Steps) && !c.Steps[i+1].Disconnect {
			continue // more of this branch is to come
		}
		if tip, ok := g.Tip(); ok && step.Height <= tip.Height {
			continue
		}
		index(t, n, g)
		if got := tipOf(t, g); got.block != step.Block || got.stateHash.String() != step.StateHash.String() || got.stateRoot.String() != step.StateRoot.String() {
			t.Errorf("after step %d an indexer that follows has block %v, state hash %v and root %v, not %v, %v and %v", i, got.block, got.stateHash, got.stateRoot, step.Block, step.StateHash, step.StateRoot)
		}
	}
}

// playFresh indexes what a case leaves of its chain, from a node with an index of transactions, and
// returns what is so then.
func playFresh(t *testing.T, c *Case) seen {
	t.Helper()
	n := newFileNode()
	n.proven = true
	for _, step := range c.Steps {
		if step.Disconnect {
			n.takeBack()
		} else {
			n.add(t, step.Connect)
		}
	}
	g := open(t, c)
	index(t, n, g)
	return tipOf(t, g)
}

func open(t *testing.T, c *Case) *graph.Graph {
	t.Helper()
	params := graph.Params{Network: c.Network, StartHeight: c.StartHeight}
	g, err := graph.Open(t.TempDir(), params, graph.Options{MemTable: 8 << 20, BlockCache: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

// index runs an indexer until the graph ends with the node's tip.
func index(t *testing.T, n node.Node, g *graph.Graph) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ix := indexer.New(n, g, indexer.Options{})
	done := make(chan error, 1)
	go func() { done <- ix.Run(ctx) }()
	for !ix.Status().Synced {
		select {
		case err := <-done:
			t.Fatalf("the indexer ended: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// blockOf is what connecting the block at a height came to.
func blockOf(t *testing.T, g *graph.Graph, height uint32) seen {
	t.Helper()
	events, err := g.Events(height, 0, mostEffects)
	if err != nil {
		t.Fatal(err)
	}
	var before [32]byte
	if height > g.Params().StartHeight {
		previous, err := g.Events(height-1, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		before = previous.StateHash
	}
	effects := encode(events)
	digest := sha256.Sum256(slices.Concat(effects...))
	if h := sha256.Sum256(slices.Concat(before[:], events.Hash[:], digest[:])); h != events.StateHash {
		t.Errorf("height %d: by the effects that the graph tells the state hash is %x, and it says %x", height, h, events.StateHash)
	}
	return seen{height: height, block: Hash(events.Hash), effects: effects, stateHash: events.StateHash[:], stateRoot: events.StateRoot[:]}
}

// mostEffects is more than a block of the corpus has.
const mostEffects = 10_000

// tipOf is what is so after a block was taken back.
func tipOf(t *testing.T, g *graph.Graph) seen {
	t.Helper()
	tip, _ := g.Tip()
	return seen{height: tip.Height, block: Hash(tip.Hash), stateHash: tip.StateHash[:], stateRoot: tip.StateRoot[:]}
}

// encode is the canonical encoding of a block's effects (protocol/SPEC.md §9), which the graph keeps
// to itself.
func encode(events graph.BlockEvents) (effects []Hex) {
	for _, e := range events.Effects {
		b := append(Hex{byte(e.Type)}, e.Tx[:]...)
		kind := byte(e.Kind)
		switch e.Type {
		case links.RequestOpened:
			b = append(append(b, e.Child[:]...), e.Parent[:]...)
		case links.LinkFormed, links.LinkCut:
			b = append(append(append(append(b, e.Ref[:]...), e.Child[:]...), e.Parent[:]...), e.ID[:]...)
		case links.ActionRefused:
			b = append(append(b, kind, byte(e.Reason)), e.Author[:]...)
		case links.ActionWaiting:
			b = append(append(append(b, kind), e.Author[:]...), e.Reference[:]...)
		case links.IdentityNamed:
			b = append(append(b[:1], e.ID[:]...), e.Root[:]...)
		case links.IdentityMerged:
			b = append(append(b[:1], e.ID[:]...), e.Into[:]...)
		}
		effects = append(effects, b)
	}
	for _, e := range events.Anchors {
		b := append(append(Hex{byte(e.Type)}, e.Tx[:]...), e.Chain[:]...)
		switch e.Type {
		case anchors.AnchorAdded:
			var author protocol.KeyHash
			if e.Author != nil {
				author = *e.Author
			}
			b = binary.LittleEndian.AppendUint64(b, e.Anchor.Position)
			b = append(append(append(b, e.Anchor.Head[:]...), e.Anchor.Root[:]...), author[:]...)
			b = append(append(b, byte(len(e.Anchor.Domain))), e.Anchor.Domain...)
		case anchors.ChainBroken:
			b = append(b, byte(e.Break))
		}
		effects = append(effects, b)
	}
	return effects
}

// fileNode serves the blocks of a case as a node would that has nothing else.
type fileNode struct {
	proven bool // it has an index of transactions; else what they spend is its word

	mu     sync.Mutex
	chain  []chainhash.Hash               // mu; by height
	blocks map[chainhash.Hash][]byte      // mu
	txs    map[chainhash.Hash]protocol.Tx // mu; of the chain's blocks and those taken back
}

func newFileNode() *fileNode {
	return &fileNode{blocks: make(map[chainhash.Hash][]byte), txs: make(map[chainhash.Hash]protocol.Tx)}
}

func (n *fileNode) add(t *testing.T, raw []byte) {
	t.Helper()
	block, err := protocol.ReadBlock(raw)
	if err != nil {
		t.Fatal(err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.chain = append(n.chain, block.Hash)
	n.blocks[block.Hash] = raw
	for _, tx := range block.Txs() {
		n.txs[chainhash.DoubleHashH(tx)] = tx
	}
}

func (n *fileNode) takeBack() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.chain = n.chain[:len(n.chain)-1]
}

// Tip implements node.Node.
func (n *fileNode) Tip(context.Context) (node.Tip, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	last := len(n.chain) - 1
	return node.Tip{Height: uint32(last), Headers: uint32(last), Hash: n.chain[last], Peers: node.Untold}, nil
}

// BlockHash implements node.Node.
func (n *fileNode) BlockHash(_ context.Context, height uint32) (chainhash.Hash, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if int(height) >= len(n.chain) {
		return chainhash.Hash{}, node.ErrNotFound
	}
	return n.chain[height], nil
}

// Headers implements node.Node.
func (n *fileNode) Headers(_ context.Context, after chainhash.Hash, height, want uint32) ([]protocol.Header, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if int(height)+1 >= len(n.chain) || n.chain[height] != after {
		return nil, node.ErrNotFound
	}
	var headers []protocol.Header
	for _, hash := range n.chain[height+1 : min(len(n.chain), int(height)+1+int(want))] {
		header, err := protocol.ParseHeader(n.blocks[hash][:protocol.HeaderSize])
		if err != nil {
			return nil, err
		}
		headers = append(headers, header)
	}
	return headers, nil
}

// Block implements node.Node.
func (n *fileNode) Block(_ context.Context, hash chainhash.Hash) ([]byte, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	raw, ok := n.blocks[hash]
	if !ok {
		return nil, node.ErrNotFound
	}
	return raw, nil
}

// Spent implements node.Node. Outputs that are only the node's word have the indexer check
// signatures.
func (n *fileNode) Spent(_ context.Context, _ chainhash.Hash, by []node.Spender) ([]node.Spent, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	spent := make([]node.Spent, len(by))
	for i, spender := range by {
		inputs := spender.Inputs
		if spent[i].Proven = n.proven; n.proven {
			inputs = inputs[:1]
		}
		for _, out := range inputs {
			output, err := protocol.SpentOutput(n.txs[out.Hash], out)
			if err != nil {
				return nil, fmt.Errorf("%w: output %v: %w", node.ErrNotFound, out, err)
			}
			spent[i].Outputs = append(spent[i].Outputs, output)
		}
	}
	return spent, nil
}

// Previous implements node.Node.
func (n *fileNode) Previous(_ context.Context, _, _ chainhash.Hash, out wire.OutPoint) (protocol.Tx, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	tx, ok := n.txs[out.Hash]
	if !ok {
		return nil, fmt.Errorf("%w: transaction %v", node.ErrNotFound, out.Hash)
	}
	return tx, nil
}

// Changes implements node.Node.
func (n *fileNode) Changes() <-chan struct{} { return nil }
