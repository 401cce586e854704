package indexer_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"pgregory.net/rapid"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/protocol"
)

// verdict is what has to become of a lie.
type verdict int

const (
	refused  verdict = iota // by the name of the node, and of what it is about
	waited                  // the indexer waits, with a reason
	withheld                // nothing shows that the node's chain goes on
)

// chainLie is a lie about the chain and what is in it.
type chainLie struct {
	name    string
	verdict verdict
	// tell makes the node tell it, of a block above a height, and returns what a refusal
	// has to name besides the node.
	tell func(t *rapid.T, p *play, base uint32, n *liar) []any
}

// inBytes is a lie about the bytes of a block.
func inBytes(change func(t *rapid.T, p *play, height uint32, raw []byte) []byte) func(*rapid.T, *play, uint32, *liar) []any {
	return func(t *rapid.T, p *play, base uint32, n *liar) []any {
		height := heights(base+1, p.last()).Draw(t, "height")
		hash := p.blocks[height].BlockHash()
		raw := change(t, p, height, serialized(p.blocks[height]))
		n.onBlock = func(asked chainhash.Hash, truth []byte) ([]byte, error) {
			if asked != hash {
				return truth, nil
			}
			return raw, nil
		}
		return []any{hash, fmt.Sprint("height ", height)}
	}
}

// inBlock is a lie about the transactions of a block.
func inBlock(change func(t *rapid.T, p *play, txs []*wire.MsgTx) []*wire.MsgTx) func(*rapid.T, *play, uint32, *liar) []any {
	return inBytes(func(t *rapid.T, p *play, height uint32, _ []byte) []byte {
		b := *p.blocks[height]
		b.Transactions = change(t, p, slices.Clone(b.Transactions))
		return serialized(&b)
	})
}

// drawIndex draws one of the transactions but the first ones.
func drawIndex(t *rapid.T, txs []*wire.MsgTx, first int) int {
	return rapid.IntRange(first, len(txs)-1).Draw(t, "index")
}

func heights(from, to uint32) *rapid.Generator[uint32] { return rapid.Uint32Range(from, to) }

// blockLies are about what is in a block.
func blockLies() []chainLie {
	return []chainLie{
		{"a transaction left out", refused, inBlock(func(t *rapid.T, _ *play, txs []*wire.MsgTx) []*wire.MsgTx {
			i := drawIndex(t, txs, 0)
			return slices.Delete(txs, i, i+1)
		})},
		{"all but the coinbase left out", refused, inBlock(func(_ *rapid.T, _ *play, txs []*wire.MsgTx) []*wire.MsgTx { return txs[:1] })},
		{"a transaction added", refused, inBlock(func(t *rapid.T, p *play, txs []*wire.MsgTx) []*wire.MsgTx {
			added := rapid.SampledFrom(p.acts).Draw(t, "act").tx.Copy()
			added.LockTime++
			return slices.Insert(txs, drawIndex(t, txs, 0), added)
		})},
		{"an act of another block added", refused, inBlock(func(t *rapid.T, p *play, txs []*wire.MsgTx) []*wire.MsgTx {
			return append(txs, rapid.SampledFrom(p.acts).Draw(t, "act").tx)
		})},
		{"transactions in another order", refused, inBlock(func(t *rapid.T, _ *play, txs []*wire.MsgTx) []*wire.MsgTx {
			i := drawIndex(t, txs, 1)
			txs[i-1], txs[i] = txs[i], txs[i-1]
			return txs
		})},
		// For some numbers that has the same merkle root (CVE-2012-2459).
		{"the last transactions once more", refused, inBlock(func(_ *rapid.T, _ *play, txs []*wire.MsgTx) []*wire.MsgTx {
			return append(txs, txs[len(txs)-len(txs)&-len(txs):]...)
		})},
		{"a byte that is another", refused, inBytes(func(t *rapid.T, _ *play, _ uint32, raw []byte) []byte {
			raw[rapid.IntRange(0, len(raw)-1).Draw(t, "offset")] ^= rapid.ByteMin(1).Draw(t, "bits")
			return raw
		})},
		{"a block cut short", refused, inBytes(func(t *rapid.T, _ *play, _ uint32, raw []byte) []byte {
			return raw[:rapid.IntRange(0, len(raw)-1).Draw(t, "bytes")]
		})},
		{"more than a block", refused, inBytes(func(_ *rapid.T, _ *play, _ uint32, raw []byte) []byte { return append(raw, 0) })},
		{"another block in its place", refused, inBytes(func(t *rapid.T, p *play, height uint32, _ []byte) []byte {
			other := heights(0, p.last()).Filter(func(h uint32) bool { return h != height }).Draw(t, "other")
			return serialized(p.blocks[other])
		})},
		{"no such block", waited, func(t *rapid.T, p *play, base uint32, n *liar) []any {
			hash := p.blocks[heights(base+1, p.last()).Draw(t, "height")].BlockHash()
			n.onBlock = func(asked chainhash.Hash, truth []byte) ([]byte, error) {
				if asked == hash {
					return nil, node.ErrNotFound
				}
				return truth, nil
			}
			return nil
		}},
	}
}

// inHeaders is a lie about one of the headers, drawn from those above base that are so
// many below the last at least. Change gets the header's place among those that are
// sent, and returns what is sent in their place.
func inHeaders(below uint32, change func(t *rapid.T, p *play, height uint32) (lie func(headers []protocol.Header, i int) []protocol.Header, names []any)) func(*rapid.T, *play, uint32, *liar) []any {
	return func(t *rapid.T, p *play, base uint32, n *liar) []any {
		height := heights(base+1, p.last()-below).Draw(t, "height")
		lie, names := change(t, p, height)
		n.onHeaders = func(after uint32, headers []protocol.Header) ([]protocol.Header, error) {
			if i := int(height) - int(after) - 1; i >= 0 && i+int(below) < len(headers) {
				return lie(headers, i), nil
			}
			return headers, nil
		}
		return names
	}
}

// inPlace is a header in place of another.
func inPlace(change func(h *wire.BlockHeader)) func(*rapid.T, *play, uint32, *liar) []any {
	return inHeaders(0, func(_ *rapid.T, p *play, height uint32) (func([]protocol.Header, int) []protocol.Header, []any) {
		header := p.blocks[height].Header
		change(&header)
		return func(headers []protocol.Header, i int) []protocol.Header {
			headers[i] = parsed(&header)
			return headers
		}, []any{header.BlockHash()}
	})
}

func parsed(h *wire.BlockHeader) protocol.Header {
	header, err := protocol.ParseHeader(serialized(wire.NewMsgBlock(h)))
	if err != nil {
		panic(err) // it has 80 bytes
	}
	return header
}

// headerLies are about the headers of the chain.
func headerLies() []chainLie {
	return []chainLie{
		{"a header that follows another block", refused, inPlace(func(h *wire.BlockHeader) {
			h.PrevBlock[0]++
			regtest.Solve(h)
		})},
		{"a header without work", refused, inPlace(func(h *wire.BlockHeader) {
			for hash := h.BlockHash(); hash[31] < 0x80; hash = h.BlockHash() {
				h.Nonce++
			}
		})},
		{"a header of easier work", refused, inPlace(func(h *wire.BlockHeader) {
			h.Bits = 0x2100ffff
			regtest.Solve(h)
		})},
		{"a header left out", refused, inHeaders(1, func(_ *rapid.T, p *play, height uint32) (func([]protocol.Header, int) []protocol.Header, []any) {
			return func(headers []protocol.Header, i int) []protocol.Header { return slices.Delete(headers, i, i+1) },
				[]any{p.blocks[height+1].BlockHash()}
		})},
		{"headers in another order", refused, inHeaders(1, func(_ *rapid.T, p *play, height uint32) (func([]protocol.Header, int) []protocol.Header, []any) {
			return func(headers []protocol.Header, i int) []protocol.Header {
				headers[i], headers[i+1] = headers[i+1], headers[i]
				return headers
			}, []any{p.blocks[height+1].BlockHash()}
		})},
		{"the last headers left out", waited, func(t *rapid.T, p *play, base uint32, n *liar) []any {
			last := heights(base, p.last()-1).Draw(t, "last")
			n.onHeaders = func(after uint32, headers []protocol.Header) ([]protocol.Header, error) {
				return headers[:min(len(headers), max(0, int(last)-int(after)))], nil
			}
			return nil
		}},
		{"headers of another branch", waited, func(t *rapid.T, p *play, base uint32, n *liar) []any {
			from := heights(base, p.last()-1).Draw(t, "from")
			branch := p.branch(from, p.last())
			n.onHeaders = func(after uint32, headers []protocol.Header) ([]protocol.Header, error) {
				for i := range headers {
					if at := after + 1 + uint32(i); at > from {
						headers[i] = parsed(&branch[at-from-1].Header)
					}
				}
				return headers, nil
			}
			return nil
		}},
	}
}

// branch makes up empty blocks behind the one at a height, up to another height.
func (p *play) branch(from, to uint32) (blocks []*wire.MsgBlock) {
	prev := p.blocks[from].BlockHash()
	for height := from + 1; height <= to; height++ {
		b := fakeBlock(prev, height)
		b.Header.Timestamp = b.Header.Timestamp.Add(time.Second)
		regtest.Solve(&b.Header)
		blocks = append(blocks, b)
		prev = b.BlockHash()
	}
	return blocks
}

// inTip is a lie about the node's tip.
func inTip(change func(t *rapid.T, p *play) func(*node.Tip)) func(*rapid.T, *play, uint32, *liar) []any {
	return func(t *rapid.T, p *play, _ uint32, n *liar) []any {
		lie := change(t, p)
		n.onTip = func(tip node.Tip) (node.Tip, error) {
			lie(&tip)
			return tip, nil
		}
		return nil
	}
}

// olderTip is one of the blocks from base on, but not the last.
func olderTip(t *rapid.T, p *play, base uint32, n *liar) []any {
	height := heights(base, p.last()-1).Draw(t, "height")
	n.onTip = func(tip node.Tip) (node.Tip, error) {
		tip.Height, tip.Hash = height, p.blocks[height].BlockHash()
		return tip, nil
	}
	return nil
}

// tipLies are about the node's tip, and about what is at a height.
func tipLies() []chainLie {
	return []chainLie{
		{"a tip that the headers do not lead to", waited, inTip(func(*rapid.T, *play) func(*node.Tip) {
			return func(tip *node.Tip) { tip.Hash[0]++ }
		})},
		{"a tip above the last block", waited, inTip(func(t *rapid.T, _ *play) func(*node.Tip) {
			more := rapid.Uint32Range(1, 1<<20).Draw(t, "more")
			return func(tip *node.Tip) { tip.Height += more }
		})},
		{"a tip at a lower height", waited, inTip(func(*rapid.T, *play) func(*node.Tip) {
			return func(tip *node.Tip) { tip.Height-- }
		})},
		{"another genesis block", refused, func(_ *rapid.T, p *play, _ uint32, n *liar) []any {
			other := chainhash.HashH([]byte("another coin"))
			n.onHash = func(height uint32, hash chainhash.Hash) (chainhash.Hash, error) {
				if height == 0 {
					return other, nil
				}
				return hash, nil
			}
			return []any{other, p.blocks[0].BlockHash()}
		}},
	}
}

// spentQuestionLies answer questions about what is spent for another number of
// transactions. The first block above base takes such a question.
func spentQuestionLies() []chainLie {
	lie := func(change func([]node.Spent) ([]node.Spent, error)) func(*rapid.T, *play, uint32, *liar) []any {
		return func(_ *rapid.T, p *play, base uint32, n *liar) []any {
			n.onSpent = func(_ []node.Spender, spent []node.Spent) ([]node.Spent, error) { return change(spent) }
			return []any{p.blocks[base+1].BlockHash(), fmt.Sprint("height ", base+1)}
		}
	}
	return []chainLie{
		{"nothing about what is spent", refused, lie(func([]node.Spent) ([]node.Spent, error) { return nil, nil })},
		{"a spender too few", refused, lie(func(spent []node.Spent) ([]node.Spent, error) { return spent[min(1, len(spent)):], nil })},
		{"a spender too many", refused, lie(func(spent []node.Spent) ([]node.Spent, error) { return append(spent, node.Spent{}), nil })},
		{"what an adapter refuses", refused, lie(func([]node.Spent) ([]node.Spent, error) {
			return nil, fmt.Errorf("node at %s: what is spent: %w: nonsense", nodeName, node.ErrInvalid)
		})},
		{"no word about what is spent", waited, lie(func([]node.Spent) ([]node.Spent, error) { return nil, node.ErrNotFound })},
	}
}

// catchUpLies are told to an indexer that has yet to index the last blocks.
func catchUpLies() []chainLie {
	return slices.Concat(blockLies(), headerLies(), tipLies(), spentQuestionLies(), []chainLie{
		{"an older tip", withheld, olderTip},
		{"another block at a height that is indexed", waited, otherHash},
	})
}

// otherHash is the hash of no block, at a height up to base.
func otherHash(t *rapid.T, p *play, base uint32, n *liar) []any {
	at := heights(1, base).Draw(t, "height")
	n.onHash = func(height uint32, hash chainhash.Hash) (chainhash.Hash, error) {
		if height == at {
			hash[0]++
		}
		return hash, nil
	}
	return nil
}

// followLies are told to an indexer that has indexed all blocks.
func followLies() []chainLie {
	// instead has the node replace its blocks from a height on.
	instead := func(with func(t *rapid.T, p *play) (from uint32, blocks []*wire.MsgBlock)) func(*rapid.T, *play, uint32, *liar) []any {
		return func(t *rapid.T, p *play, _ uint32, n *liar) []any {
			from, blocks := with(t, p)
			other := *p
			other.blocks = append(slices.Clone(p.blocks[:from]), blocks...)
			n.Node = other.wordNode()
			return []any{other.blocks[0].BlockHash()}
		}
	}
	return append(tipLies(), []chainLie{
		{"an older tip", waited, func(t *rapid.T, p *play, _ uint32, n *liar) []any { return olderTip(t, p, 0, n) }},
		{"another block at a height", waited, func(t *rapid.T, p *play, base uint32, n *liar) []any { return otherHash(t, p, base, n) }},
		{"a shorter chain", waited, instead(func(t *rapid.T, p *play) (uint32, []*wire.MsgBlock) {
			return heights(1, p.last()).Draw(t, "blocks"), nil
		})},
		{"a branch with no more work", waited, instead(func(t *rapid.T, p *play) (uint32, []*wire.MsgBlock) {
			from := heights(1, p.last()).Draw(t, "from")
			return from, p.branch(from-1, heights(from, p.last()).Draw(t, "to"))
		})},
		{"another coin's chain", refused, instead(func(t *rapid.T, p *play) (uint32, []*wire.MsgBlock) {
			genesis := fakeBlock(chainhash.Hash{}, 0)
			other := play{blocks: []*wire.MsgBlock{genesis}}
			return 0, append(other.blocks, other.branch(0, heights(1, 2*p.last()).Draw(t, "to"))...)
		})},
	}...)
}

// scenery is a graph that ends at a height of a play.
type scenery struct {
	*play
	tips  map[uint32]graph.Tip
	base  uint32
	graph *graph.Graph
}

// newScenery writes a play the last blocks of which have several acts each, the last one
// of all kinds. The graph ends before these, or with the last one if it is whole.
func newScenery(t *rapid.T, dir string, whole bool) *scenery {
	const blocks = 4 // besides that of all kinds
	w := newWriter(t, honest())
	for i := range blocks {
		w.txs = append(w.txs, nil)
		for range 2 + w.upTo("more acts", 2) {
			w.act(scene{})
		}
		if i == 0 {
			w.act(scene{unlocks: signs, paid: true}) // by a coin that is asked for
		}
	}
	w.actAll(false)
	s := &scenery{play: w.play(), graph: openIn(t, dir, 0)}
	s.tips = s.model(t, s.graph, s.last())
	s.base = s.last()
	if !whole {
		s.base -= blocks + 1
	}
	s.restore(t)
	return s
}

// restore brings the graph back to its height.
func (s *scenery) restore(t *rapid.T) {
	t.Helper()
	for {
		switch tip, _ := s.graph.Tip(); {
		case tip.Height > s.base:
			need(0, s.graph.Disconnect())(t)
		case tip.Height < s.base:
			need(0, s.graph.Connect(s.block(t, tip.Height+1)))(t)
		default:
			return
		}
	}
}

// wantTold checks that the graph ends with a block of the play, and that no block has
// been taken back.
func (s *scenery) wantTold(t *rapid.T, e end) {
	t.Helper()
	wantTips(t, e, s.tips)
	if e.tip.Height < s.base {
		t.Fatalf("blocks from %d on were taken back; log:\n%s", e.tip.Height+1, e.log)
	}
}

// want checks what became of a lie.
func (s *scenery) want(t *rapid.T, e end, v verdict, names ...any) {
	t.Helper()
	s.wantTold(t, e)
	ok := false
	switch v {
	case refused:
		ok = errors.Is(e.err, node.ErrInvalid) && !slices.ContainsFunc(append(names, nodeName), func(name any) bool {
			return !strings.Contains(e.err.Error(), fmt.Sprint(name))
		})
	case waited:
		ok = e.waits() && e.status.Reason != ""
	case withheld:
		ok = e.err == nil && e.status.Synced && e.tip.Height < s.last()
	}
	if !ok {
		t.Fatalf("%v, %+v, tip %+v, expected verdict %d, and that an error names %s and %v; log:\n%s", e.err, e.status, e.tip, v, nodeName, names, e.log)
	}
}

// TestPropertyChainLies has a node lie in every way about its chain and its blocks: to
// an indexer that catches up, and to one that has indexed all.
func TestPropertyChainLies(t *testing.T) {
	checks(t, 2, 100)
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		for _, told := range []struct {
			whole bool
			lies  []chainLie
		}{{false, catchUpLies()}, {true, followLies()}} {
			s := newScenery(t, dir, told.whole)
			for _, lie := range told.lies {
				t.Logf("%s, all indexed: %v", lie.name, told.whole)
				n := &liar{Node: s.wordNode()}
				names := lie.tell(t, s.play, s.base, n)
				s.want(t, run(t, n, s.graph), lie.verdict, names...)
				s.restore(t)
			}
		}
	})
}

// TestPropertyManyLies has a node tell several lies at once: whatever comes of it, the
// graph says nothing but what is on the chain.
func TestPropertyManyLies(t *testing.T) {
	checks(t, 3, 1000)
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		s := newScenery(t, dir, rapid.Bool().Draw(t, "all indexed"))
		for range 5 {
			var n node.Node = s.wordNode()
			for range rapid.IntRange(2, 4).Draw(t, "lies") {
				n = s.anyLie(t, n)
			}
			e := run(t, n, s.graph)
			s.wantTold(t, e)
			switch {
			case e.err != nil:
				if !errors.Is(e.err, node.ErrInvalid) || !strings.Contains(e.err.Error(), nodeName) {
					t.Fatalf("%v, expected that it is the fault of %s", e.err, nodeName)
				}
			case !e.status.Synced && e.status.Reason == "":
				t.Fatalf("it waits without a reason; log:\n%s", e.log)
			}
			s.restore(t)
		}
	})
}

// anyLie has a node tell one more lie.
func (s *scenery) anyLie(t *rapid.T, n node.Node) node.Node {
	lies := catchUpLies()
	if s.base == s.last() {
		lies = followLies()
	} else if rapid.Bool().Draw(t, "about what is spent") {
		lie := rapid.SampledFrom(spentLies()).Draw(t, "lie")
		t.Log(lie.name)
		return lie.tell(t, s.in(s.last())).told(n, theTruth)
	}
	lie := rapid.SampledFrom(lies).Draw(t, "lie")
	t.Log(lie.name)
	l := &liar{Node: n}
	lie.tell(t, s.play, s.base, l)
	return l
}
