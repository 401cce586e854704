package graph

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
)

// TestForest compares the forest with walking parents, through random links and
// cuts, and the forest that build makes of the same parents.
func TestForest(t *testing.T) {
	const keys = 40
	r := rand.New(rand.NewPCG(1, 2))
	f := newForest()
	for n := range keys {
		f.add(numbered(n))
	}
	parent := make([]int32, keys)
	for n := range parent {
		parent[n] = none
	}
	walk := func(n int32) (root, depth int32) {
		for ; parent[n] != none; n = parent[n] {
			depth++
		}
		return n, depth
	}
	for step := range 5000 {
		child, other := int32(r.IntN(keys)), int32(r.IntN(keys))
		if parent[child] != none {
			f.cut(child)
			parent[child] = none
		} else if root, _ := walk(other); root != child {
			f.link(child, other, chainhash.Hash{1})
			parent[child] = other
		}
		sizes := make(map[int32]int32)
		for n := range int32(keys) {
			root, _ := walk(n)
			sizes[root]++
		}
		forests := []*forest{f}
		if step%100 == 0 {
			rebuilt := newForest()
			for n := range keys {
				rebuilt.addDetached(numbered(n))
			}
			copy(rebuilt.parent, parent)
			if !rebuilt.rooted() {
				t.Fatal("a forest without cycles is not rooted")
			}
			rebuilt.build()
			forests = append(forests, rebuilt)
		}
		for i, f := range forests {
			for n := range int32(keys) {
				root, depth := walk(n)
				if f.root(n) != root || f.depth(n) != depth || f.size(n) != sizes[root] || f.parent[n] != parent[n] {
					t.Fatalf("step %d, forest %d, key %d: root %d depth %d size %d, want %d %d %d",
						step, i, n, f.root(n), f.depth(n), f.size(n), root, depth, sizes[root])
				}
			}
		}
	}
	looped := newForest()
	for n := range 3 {
		looped.addDetached(numbered(n))
	}
	copy(looped.parent, []int32{none, 2, 1})
	if looped.rooted() {
		t.Error("a cycle is rooted")
	}
}

func numbered(n int) (k protocol.KeyHash) {
	binary.LittleEndian.PutUint64(k[:], uint64(n))
	return k
}

// BenchmarkForest measures the forest alone, without the store, on shapes that an
// attacker could choose. rejoin cuts the branch below the root that holds most of
// the tree, and links it again.
func BenchmarkForest(b *testing.B) {
	for name, s := range shapes {
		for _, keys := range []int{1_000, 10_000, 100_000, 1_000_000} {
			f := newForest()
			for n := range keys {
				f.addDetached(numbered(n))
				if n > 0 {
					f.parent[n] = int32(s(n))
				}
			}
			f.build()
			r := rand.New(rand.NewPCG(3, 4))
			size := fmt.Sprintf("%s/%d/", name, keys)
			b.Run(size+"resolve", func(b *testing.B) {
				for b.Loop() {
					n := f.find(numbered(r.IntN(keys)))
					if f.root(n) != 0 || f.depth(n) < 0 {
						b.Fatal("wrong root")
					}
				}
			})
			b.Run(size+"deepest", func(b *testing.B) {
				for b.Loop() {
					n := f.find(numbered(keys - 1))
					if f.root(n) != 0 || f.depth(n) < 0 {
						b.Fatal("wrong root")
					}
				}
			})
			b.Run(size+"rejoin", func(b *testing.B) {
				for b.Loop() {
					f.cut(1)
					f.link(1, 0, chainhash.Hash{})
				}
			})
			b.Run(size+"link+cut", func(b *testing.B) {
				for b.Loop() {
					n := int32(1 + r.IntN(keys-1))
					p := f.parent[n]
					f.cut(n)
					f.link(n, p, chainhash.Hash{})
				}
			})
		}
	}
}
