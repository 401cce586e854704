package protocol

import (
	"errors"
	"slices"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"pgregory.net/rapid"
)

// TestGrowMerkleTree takes a part of a block's tree apart and makes it again; with one thing
// changed it leads elsewhere, or nowhere.
func TestGrowMerkleTree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		count := rapid.IntRange(1, 40).Draw(t, "transactions")
		level := make([]chainhash.Hash, count, count+1)
		var all PartialMerkleTree
		txids := make([]chainhash.Hash, count)
		for i := range level {
			level[i] = chainhash.HashH([]byte{byte(i)})
		}
		copy(txids, level)
		levels := 0
		for ; len(level) > 1; levels++ {
			level = evened(level)
			next := make([]chainhash.Hash, 0, len(level)/2+1)
			for i := range level {
				all = append(all, MerkleNode{uint8(levels), uint32(i), level[i]})
				if i%2 == 1 {
					next = append(next, hashPair(&level[i-1], &level[i]))
				}
			}
			level = next
		}
		indices := rapid.SliceOfNDistinct(rapid.Uint32Range(0, uint32(count-1)), 1, count, rapid.ID[uint32]).Draw(t, "indices")
		slices.Sort(indices)
		part, err := all.Part(indices...)
		if err != nil {
			t.Fatal(err)
		}
		beside, err := part.Beside(indices...)
		if err != nil {
			t.Fatal(err)
		}
		leaves := make([]MerkleNode, len(indices))
		for i, index := range indices {
			leaves[i] = MerkleNode{Index: index, Hash: txids[index]}
		}
		grow := func(leaves []MerkleNode, levels int, beside []chainhash.Hash) (PartialMerkleTree, chainhash.Hash, error) {
			return GrowMerkleTree(leaves, levels, func() (hash chainhash.Hash, err error) {
				if len(beside) == 0 {
					return hash, errShort
				}
				hash, beside = beside[0], beside[1:]
				return hash, nil
			})
		}
		grown, root, err := grow(leaves, levels, beside)
		if err != nil || root != level[0] || !slices.Equal(grown, part) {
			t.Fatalf("%v leads to %v, %v; expected %v, to %v", grown, root, err, part, level[0])
		}
		if len(beside) > 0 {
			at := rapid.IntRange(0, len(beside)-1).Draw(t, "changed")
			changed := slices.Clone(beside)
			changed[at][0]++
			if _, root, err := grow(leaves, levels, changed); err == nil && root == level[0] {
				t.Error("another hash beside the path leads to the same root")
			}
			if _, _, err := grow(leaves, levels, beside[:len(beside)-1]); !errors.Is(err, errShort) {
				t.Errorf("a hash too few: %v", err)
			}
		}
		if _, root, err := grow(leaves, levels+1, append(slices.Clone(beside), chainhash.Hash{})); err == nil && root == level[0] {
			t.Error("another level leads to the same root")
		}
		moved := slices.Clone(leaves)
		moved[len(moved)-1].Index ^= 1
		if _, root, err := grow(moved, levels, beside); err == nil && root == level[0] && len(moved) == 1 {
			t.Error("another index leads to the same root")
		}
	})
	if _, _, err := GrowMerkleTree(nil, 0, nil); !errors.Is(err, ErrMerkleRoot) {
		t.Errorf("no transaction: %v", err)
	}
}

var errShort = errors.New("no more")
