package protocol

import (
	"errors"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"
)

// merkleLevels returns all levels of the tree over the leaves, but for its root. One of
// odd length has the copy of its last node behind it.
func merkleLevels(leaves []chainhash.Hash) (levels [][]chainhash.Hash) {
	for level := leaves; len(level) > 1; {
		if len(level)%2 == 1 {
			level = append(slices.Clip(level), level[len(level)-1])
		}
		levels = append(levels, level)
		var next []chainhash.Hash
		for pair := range slices.Chunk(level, 2) {
			next = append(next, plainMerkleRoot(pair))
		}
		level = next
	}
	return levels
}

// merkleBlock is a block with its transactions and all of its tree.
type merkleBlock struct {
	*Block
	txs    map[uint32]Tx
	levels [][]chainhash.Hash
}

func newMerkleBlock(t *testing.T, count int) merkleBlock {
	t.Helper()
	var txs [][]byte
	for i := range count {
		txs = append(txs, rawTx(nil, make([]byte, 60+i%7), []byte{byte(i), byte(i >> 8)}))
	}
	block, err := ReadBlock(rawBlock(t, txs...))
	if err != nil {
		t.Fatal(err)
	}
	b := merkleBlock{block, maps.Collect(block.Txs()), nil}
	var ids []chainhash.Hash
	for index := range uint32(count) {
		ids = append(ids, b.txs[index].TxID())
	}
	b.levels = merkleLevels(ids)
	return b
}

// at iterates over the transactions at indices.
func (b merkleBlock) at(indices []uint32) iter.Seq2[uint32, Tx] {
	return func(yield func(uint32, Tx) bool) {
		for _, index := range indices {
			if !yield(index, b.txs[index]) {
				return
			}
		}
	}
}

// TestPartialMerkleTree makes the trees of some of a block's transactions, and compares
// them with what each of their branches needs.
func TestPartialMerkleTree(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, count := range []int{1, 2, 3, 4, 5, 7, 8, 11, 255, 256, 257, 600} {
		b := newMerkleBlock(t, count)
		var all []uint32
		for index := range uint32(count) {
			all = append(all, index)
		}
		whole := b.PartialMerkleTree(all...)
		subsets := [][]uint32{nil, all, {0}, {uint32(count) - 1}, {uint32(count) - 1, 0, 0}}
		for range 10 {
			n := 1 + r.IntN(min(count, 20))
			subsets = append(subsets, all[count-n:])
			var some []uint32
			for _, n := range r.Perm(count)[:n] {
				some = append(some, uint32(n))
			}
			subsets = append(subsets, some)
		}
		for _, indices := range subsets {
			tree := b.PartialMerkleTree(indices...)
			want := make(map[MerkleNode]bool)
			for _, index := range indices {
				var branch []chainhash.Hash
				for level := range b.levels {
					beside := index>>level ^ 1
					branch = append(branch, b.levels[level][beside])
					want[MerkleNode{uint8(level), beside, b.levels[level][beside]}] = true
				}
				if got, err := tree.Branch(index); err != nil || !slices.Equal(got, branch) {
					t.Fatalf("%d of %d transactions: branch of %d is %v, %v", len(indices), count, index, got, err)
				}
			}
			nodes := slices.SortedFunc(maps.Keys(want), MerkleNode.Compare)
			if !slices.Equal(tree, nodes) || cap(tree) != len(tree) {
				t.Fatalf("%d of %d transactions: the tree has %d nodes, room for %d; expected %d", len(indices), count, len(tree), cap(tree), len(nodes))
			}
			if part, err := whole.Part(indices...); err != nil || !slices.Equal(part, tree) {
				t.Fatalf("%d of %d transactions: the part of the whole tree has %d nodes, expected %d: %v", len(indices), count, len(part), len(tree), err)
			}
			slices.Sort(indices)
			if err := tree.Check(b.at(slices.Compact(indices)), b.Header.MerkleRoot); err != nil {
				t.Fatalf("%d of %d transactions: %v", len(indices), count, err)
			}
		}
	}
}

// TestPartialMerkleTreeRefuses checks that no other tree passes, nor other transactions.
func TestPartialMerkleTreeRefuses(t *testing.T) {
	b := newMerkleBlock(t, 300)
	indices := []uint32{0, 1, 5, 90, 91, 255, 299}
	sound := b.PartialMerkleTree(indices...)
	root := b.Header.MerkleRoot
	refuse := func(what string, tree PartialMerkleTree, txs iter.Seq2[uint32, Tx]) {
		t.Helper()
		if err := tree.Check(txs, root); !errors.Is(err, ErrMerkleRoot) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for n := range sound {
		for what, change := range map[string]func(PartialMerkleTree) PartialMerkleTree{
			"another hash":  func(tree PartialMerkleTree) PartialMerkleTree { tree[n].Hash[3]++; return tree },
			"another index": func(tree PartialMerkleTree) PartialMerkleTree { tree[n].Index ^= 2; return tree },
			"another level": func(tree PartialMerkleTree) PartialMerkleTree { tree[n].Level++; return tree },
			"highest level": func(tree PartialMerkleTree) PartialMerkleTree { tree[n].Level = 255; return tree },
			"left out":      func(tree PartialMerkleTree) PartialMerkleTree { return slices.Delete(tree, n, n+1) },
			"twice":         func(tree PartialMerkleTree) PartialMerkleTree { return slices.Insert(tree, n, tree[n]) },
		} {
			refuse(what, change(slices.Clone(sound)), b.at(indices))
		}
	}
	refuse("no nodes", nil, b.at(indices))
	refuse("no transactions", sound, b.at(nil))
	refuse("another order", sound, b.at([]uint32{1, 0, 5, 90, 91, 255, 299}))
	refuse("a transaction twice", sound, b.at([]uint32{0, 1, 5, 5, 90, 91, 255, 299}))
	for n, index := range indices {
		refuse("fewer transactions", sound, b.at(slices.Delete(slices.Clone(indices), n, n+1)))
		other := slices.Clone(b.txs[index])
		other[0]++ // of the version
		changed := maps.Clone(b.txs)
		changed[index] = other
		refuse("another transaction", sound, merkleBlock{b.Block, changed, nil}.at(indices))
		changed[index] = b.txs[index][:64]
		if err := sound.Check(merkleBlock{b.Block, changed, nil}.at(indices), root); !errors.Is(err, ErrMalformed) {
			t.Errorf("64 bytes that can be two hashes: %v", err)
		}
		if _, err := sound.Branch(index ^ 2); !errors.Is(err, ErrMerkleRoot) {
			t.Errorf("the branch of a transaction that the tree is not for: %v", err)
		}
	}
	for _, index := range []uint32{512, 1 << 31} {
		if _, err := sound.Branch(index); !errors.Is(err, ErrMerkleRoot) {
			t.Errorf("the branch of transaction %d: %v", index, err)
		}
	}
	// The last of an odd level is no transaction where its copy is (CVE-2012-2459).
	odd := newMerkleBlock(t, 3)
	odd.txs[3] = odd.txs[2]
	root = odd.Header.MerkleRoot
	last, left := odd.levels[0][2], odd.levels[1][0]
	refuse("a copy", PartialMerkleTree{{0, 2, last}, {1, 0, left}}, odd.at([]uint32{3}))
	refuse("a transaction and its copy", PartialMerkleTree{{0, 2, last}, {0, 3, last}, {1, 0, left}}, odd.at([]uint32{2, 3}))
}

// TestPartialMerkleTreeLevels checks that a tree has no more levels than a branch may have
// hashes.
func TestPartialMerkleTreeLevels(t *testing.T) {
	b := newMerkleBlock(t, 1)
	root := b.txs[0].TxID()
	var tree PartialMerkleTree
	for level := range uint8(MaxBranch + 1) {
		beside := chainhash.Hash{level}
		tree = append(tree, MerkleNode{level, 1, beside})
		root = hashPair(&root, &beside)
		if err := tree.Check(b.at([]uint32{0}), root); (err == nil) != (level < MaxBranch) {
			t.Errorf("%d levels: %v", level+1, err)
		}
	}
}

// TestPartialMerkleTreeOfNothing asks for a transaction that is not there.
func TestPartialMerkleTreeOfNothing(t *testing.T) {
	b := newMerkleBlock(t, 3)
	defer func() {
		if recover() == nil {
			t.Error("there is a tree for a transaction that is not there")
		}
	}()
	b.PartialMerkleTree(1, 3)
}
