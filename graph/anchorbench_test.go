package graph

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"runtime"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/graph/anchors"
	"github.com/keytree-bch/keytree/graph/state"
	"github.com/keytree-bch/keytree/graph/store"
)

// anchorsPerBlock is how many anchors a block of 32 MB has at most: one of a short domain
// takes some 185 bytes.
const anchorsPerBlock = 170_000

// blockOfAnchors makes a block of so many anchors after another. Each begins a chain, or goes
// on with that of the transaction of the same place in the block before.
func blockOfAnchors(t testing.TB, height uint32, prev chainhash.Hash, count int, before []anchors.Tx) Block {
	t.Helper()
	block := Block{Height: height, PrevHash: prev}
	txs := make([]*wire.MsgTx, count)
	for i := range txs {
		a, serial := anchor("a.org", uint64(height), byte(i)), int(height)*count+i
		if before == nil {
			txs[i] = anchorTxOf(t, a, serial)
			continue
		}
		txs[i] = anchorTxOf(t, a, serial, wire.OutPoint{Hash: before[i].Raw.TxID()})
	}
	anchorBlock(t, &block, 0, txs...)
	return block
}

// heap returns how many bytes are in use.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// heapStore notes the most that is in use while something is written.
type heapStore struct {
	store.Committer
	b    *testing.B
	most int64
}

func (s *heapStore) Commit(entries []store.Entry) error {
	s.b.StopTimer()
	s.most = max(s.most, heap())
	s.b.StartTimer()
	return s.Committer.Commit(entries)
}

// BenchmarkFullBlockOfAnchors connects a full block of anchors that begin chains, and one
// of anchors that go on with them. It reports in bytes of heap per anchor what the step
// holds besides what it Writes, what it Writes, what is held at most while that is written
// (Badger's tables in memory included), and what stays.
func BenchmarkFullBlockOfAnchors(b *testing.B) {
	for _, goesOn := range []bool{false, true} {
		b.Run(fmt.Sprintf("goes on=%v", goesOn), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				dir := b.TempDir()
				g, err := Open(dir, testParams, Options{})
				if err != nil {
					b.Fatal(err)
				}
				block := blockOfAnchors(b, 0, chainhash.Hash{}, anchorsPerBlock, nil)
				if goesOn {
					if err := g.Connect(block); err != nil {
						b.Fatal(err)
					}
					block = blockOfAnchors(b, 1, block.Hash, anchorsPerBlock, block.Anchors.Txs)
					// What Badger holds of the block before is forgotten.
					if err := g.Close(); err != nil {
						b.Fatal(err)
					}
					if g, err = Open(dir, testParams, Options{}); err != nil {
						b.Fatal(err)
					}
				}
				perAnchor := func(bytes int64) float64 { return float64(bytes) / anchorsPerBlock }

				start := heap()
				base, err := g.hold()
				if err != nil {
					b.Fatal(err)
				}
				c, err := g.connecting(base, []Block{block}, nil)
				if err != nil {
					b.Fatal(err)
				}
				whole := heap()
				c.Writes = store.Writes{}
				step := heap()
				runtime.KeepAlive(c)
				c = nil
				base.release()

				hook := &heapStore{Committer: g.store, b: b}
				g.store = hook
				b.StartTimer()
				if err := g.Connect(block); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				after := heap()
				b.ReportMetric(perAnchor(step-start), "step-B/anchor")
				b.ReportMetric(perAnchor(whole-step), "writes-B/anchor")
				b.ReportMetric(perAnchor(hook.most-start), "peak-B/anchor")
				b.ReportMetric(perAnchor(after-start), "after-B/anchor")
				runtime.KeepAlive(block)
				if err := g.Close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

// BenchmarkAnchorProofs reads the proofs of a chain of anchors that fill a block with
// others, and of one that has an anchor in each of many blocks.
func BenchmarkAnchorProofs(b *testing.B) {
	const count = 10_000
	for _, perBlock := range []int{1, count} {
		b.Run(fmt.Sprint(perBlock), func(b *testing.B) {
			g, err := Open(b.TempDir(), testParams, Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer g.Close()
			var genesis, prev chainhash.Hash
			var last *wire.MsgTx
			for height := range uint32(count / perBlock) {
				var txs []*wire.MsgTx
				for i := range perBlock {
					var spends []wire.OutPoint
					if last != nil {
						spends = append(spends, batonOf(last))
					}
					serial := int(height)*perBlock + i
					next := anchorTxOf(b, anchor("a.org", uint64(serial), 1), serial, spends...)
					if last == nil {
						genesis = next.TxHash()
					}
					last = next
					if perBlock == 1 { // what no chain knows of
						for n := range 20 {
							hash := sha256.Sum256(binary.BigEndian.AppendUint32(nil, height*20+uint32(n)))
							txs = append(txs, anchorTxOf(b, nil, n, wire.OutPoint{Hash: hash, Index: 1}))
						}
					}
					txs = append(txs, next)
				}
				block := Block{Height: height, PrevHash: prev}
				anchorBlock(b, &block, 0, txs...)
				prev = block.Hash
				if err := g.Connect(block); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			for b.Loop() {
				v, err := g.At(nil)
				if err != nil {
					b.Fatal(err)
				}
				proofs := 0
				err = v.EachAnchorProof(b.Context(), genesis, 0, func(*anchors.Proof) (bool, error) { proofs++; return true, nil })
				if err != nil || proofs != count {
					b.Fatal(proofs, err)
				}
				v.Close()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/count, "ns/proof")
		})
	}
}

// BenchmarkBlockOfAnchorsAgain applies a block of anchors once more, as opening does with those since the checkpoint.
func BenchmarkBlockOfAnchorsAgain(b *testing.B) {
	const count = 20_000
	g, err := Open(b.TempDir(), testParams, Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer g.Close()
	if err := g.Connect(blockOfAnchors(b, 0, chainhash.Hash{}, count, nil)); err != nil {
		b.Fatal(err)
	}
	txn := store.NewTxn(g.db.NewTransaction(false))
	defer txn.Discard()
	for b.Loop() {
		if _, n, err := state.New(true).Again(txn, 0, store.Block{}); err != nil || n != count {
			b.Fatal(n, err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/count, "ns/anchor")
}
