package indexer_test

import (
	"context"
	"fmt"
	"maps"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/indexer"
	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/protocol"
)

// take puts the other node's block at a height at the end of the chain.
func (f *fakeNode) take(from *fakeNode, height uint32) {
	from.mu.Lock()
	hash, spent := from.chain[height], maps.Clone(from.spent)
	raw := from.blocks[hash].raw
	from.mu.Unlock()
	f.mu.Lock()
	f.spent = spent
	f.mu.Unlock()
	f.add(height, hash, raw)
}

// setChain makes the node's best chain another one, of blocks that it has.
func (f *fakeNode) setChain(chain []chainhash.Hash) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.chain = chain
}

// balanced are two nodes at one address. Questions go to the one and to the other in
// turn, so many to each, until they are steady: then all go to the first.
type balanced struct {
	nodes   [2]*fakeNode
	each    int64
	steady  atomic.Bool
	asked   atomic.Int64 // questions
	changes chan struct{}
}

func (b *balanced) next() *fakeNode {
	n := b.asked.Add(1)
	if b.steady.Load() {
		return b.nodes[0]
	}
	return b.nodes[n/b.each%2]
}

func (b *balanced) Tip(ctx context.Context) (node.Tip, error) { return b.next().Tip(ctx) }

func (b *balanced) BlockHash(ctx context.Context, height uint32) (chainhash.Hash, error) {
	return b.next().BlockHash(ctx, height)
}

func (b *balanced) Headers(ctx context.Context, after chainhash.Hash, height, want uint32) ([]protocol.Header, error) {
	return b.next().Headers(ctx, after, height, want)
}

func (b *balanced) Block(ctx context.Context, hash chainhash.Hash) ([]byte, error) {
	return b.next().Block(ctx, hash)
}

func (b *balanced) Spent(ctx context.Context, block chainhash.Hash, by []node.Spender) ([]node.Spent, error) {
	return b.next().Spent(ctx, block, by)
}

func (b *balanced) Previous(ctx context.Context, block, spender chainhash.Hash, out wire.OutPoint) (protocol.Tx, error) {
	return b.next().Previous(ctx, block, spender, out)
}

func (b *balanced) Changes() <-chan struct{} { return b.changes }

// hint ends a pause of the indexer.
func (b *balanced) hint() {
	select {
	case b.changes <- struct{}{}:
	default:
	}
}

// wantNothingTakenBack checks that the graph has never lost a block.
func wantNothingTakenBack(t *testing.T, g *graph.Graph) {
	t.Helper()
	if stale := must(g.Disconnects(0, math.MaxUint32))(t); len(stale) > 0 {
		t.Errorf("%d blocks were taken back, the last of them at height %d", len(stale), stale[0].Height)
	}
}

// syncedAt reports whether the graph has come to a height, and is synced there.
func syncedAt(ix *indexer.Indexer, g *graph.Graph, height uint32) bool {
	tip, _ := g.Tip()
	return tip.Height == height && ix.Status().Synced
}

// TestBalanced has two nodes answer in turn, one of them three blocks behind, while the
// chain grows: to an indexer that begins, and to one that had indexed all.
func TestBalanced(t *testing.T) {
	const behind = 3
	for _, each := range []int64{1, 2, 5} {
		for _, indexed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d questions each, indexed before: %v", each, indexed), func(t *testing.T) {
				b := &balanced{nodes: [2]*fakeNode{chainWithActions(t, 30), newFakeNode()}, each: each, changes: make(chan struct{}, 1)}
				front, back := b.nodes[0], b.nodes[1]
				for height := uint32(1); height <= 30-behind; height++ {
					back.take(front, height)
				}
				g := newGraph(t)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				ix := indexer.New(b, g, indexer.Options{Poll: time.Millisecond})
				b.steady.Store(indexed)
				done := make(chan error, 1)
				go func() { done <- ix.Run(ctx) }()
				if indexed {
					waitFor(t, "the first blocks", func() bool { return ix.Status().Synced })
					b.steady.Store(false)
				}
				for height := uint32(31); height <= 36; height++ {
					front.extend(front.action(t, "child", "parent", height))
					back.take(front, height-behind)
					until := b.asked.Load() + 50
					waitFor(t, "questions", func() bool {
						b.hint()
						return b.asked.Load() >= until || len(done) > 0
					})
				}
				b.steady.Store(true)
				waitFor(t, "one node alone", func() bool {
					b.hint()
					return syncedAt(ix, g, 36) || len(done) > 0
				})
				cancel()
				if err := <-done; err != nil {
					t.Fatal(err)
				}
				wantNothingTakenBack(t, g)
				wantTip(t, g, must(catchUp(t.Context(), front, newGraph(t), indexer.Options{Log: zerolog.Nop()}))(t))
			})
		}
	}
}

// TestRestartedShorter has a node lose blocks and come by them again, at once or one
// after the other, while the indexer runs or before it starts.
func TestRestartedShorter(t *testing.T) {
	const last = 30
	for _, lost := range []int{1, 3, last} {
		for _, atOnce := range []bool{false, true} {
			for _, running := range []bool{false, true} {
				t.Run(fmt.Sprintf("%d lost, back at once: %v, running: %v", lost, atOnce, running), func(t *testing.T) {
					f := chainWithActions(t, last)
					whole := f.chain
					g := newGraph(t)
					before := must(catchUp(t.Context(), f, g, indexer.Options{Log: zerolog.Nop()}))(t)
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					ix := indexer.New(f, g, indexer.Options{Poll: time.Millisecond})
					done := make(chan error, 1)
					start := func() { done <- ix.Run(ctx) }
					if running {
						go start()
						waitFor(t, "the node", func() bool { return ix.Status().Synced })
					}
					short := whole[: len(whole)-lost : len(whole)-lost]
					f.setChain(short)
					if !running {
						go start()
					}
					for ; len(short) < len(whole); short = whole[: len(short)+1 : len(short)+1] {
						f.setChain(short)
						reason := fmt.Sprintf("it is at height %d, on the chain that is indexed up to %d", len(short)-1, last)
						waitFor(t, reason, func() bool { s := ix.Status(); return !s.Synced && s.Checked && strings.Contains(s.Reason, reason) })
						wantTip(t, g, before)
						if atOnce {
							break
						}
					}
					f.setChain(whole)
					waitFor(t, "the whole chain", func() bool { return ix.Status().Synced })
					f.extend(f.action(t, "child", "parent", last+1))
					waitFor(t, "one more block", func() bool { return syncedAt(ix, g, last+1) })
					cancel()
					if err := <-done; err != nil {
						t.Fatal(err)
					}
					wantNothingTakenBack(t, g)
					wantTip(t, g, must(catchUp(t.Context(), f, newGraph(t), indexer.Options{Log: zerolog.Nop()}))(t))
				})
			}
		}
	}
}
