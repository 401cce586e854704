package protocol

import (
	"fmt"
	"slices"

	"github.com/gcash/bchd/chaincfg/chainhash"
)

// GrowMerkleTree computes that part of a block's merkle tree which shows that some of its
// transactions are in it, and the merkle root to which it leads. The transactions are given as
// leaves, in order of index, each once; the tree has so many levels below its root. The nodes
// that cannot be computed come from beside, which is asked for them in order
// (MerkleNode.Compare), and may fail. The error is its own, or wraps ErrMerkleRoot: then there
// is no such tree. Whether the root is the block's, and a leaf the txid of a transaction of
// MinTxSize bytes at least, is for the caller to check.
//
// It takes meanwhile some 40 bytes of memory for each transaction, beside the tree.
func GrowMerkleTree(leaves []MerkleNode, levels int, beside func() (chainhash.Hash, error)) (tree PartialMerkleTree, root chainhash.Hash, err error) {
	if len(leaves) == 0 {
		return nil, root, fmt.Errorf("%w: a partial tree for no transactions", ErrMerkleRoot)
	}
	if last := leaves[len(leaves)-1].Index; levels < 0 || levels > MaxBranch || uint64(last)>>levels != 0 {
		return nil, root, noSuchIndex(levels, last)
	}
	path := slices.Clone(leaves)
	for level := range levels {
		parents := path[:0]
		for i := 0; i < len(path); {
			n := path[i]
			i++
			var pair [2]MerkleNode
			pair[n.Index&1] = n
			other := MerkleNode{Level: uint8(level), Index: n.Index ^ 1}
			both := n.Index&1 == 0 && i < len(path) && path[i].Index == other.Index
			if both {
				other = path[i]
				i++
			} else if other.Hash, err = beside(); err != nil {
				return nil, root, err
			}
			pair[other.Index&1] = other
			if pair[0].Hash == pair[1].Hash && (both || n.Index&1 == 1) {
				return nil, root, errCopy
			}
			if both {
				tree = append(tree, pair[0], pair[1])
			} else {
				tree = append(tree, other)
			}
			parents = append(parents, MerkleNode{Level: uint8(level) + 1, Index: n.Index >> 1, Hash: hashPair(&pair[0].Hash, &pair[1].Hash)})
		}
		path = parents
	}
	return tree, path[0].Hash, nil
}

// Beside returns the hashes of a tree that cannot be computed from the transactions at indices, which
// are in order, each once, and all those of the tree: what GrowMerkleTree asks for, in its order.
// ErrMerkleRoot if the tree lacks one.
func (t PartialMerkleTree) Beside(indices ...uint32) (hashes []chainhash.Hash, err error) {
	path, rest := slices.Clone(indices), t
	for level := range t.Levels() {
		parents := path[:0]
		for i := 0; i < len(path); i++ {
			index := path[i]
			parents = append(parents, index>>1)
			if i+1 < len(path) && path[i+1] == index^1 {
				i++
				continue
			}
			n, found := slices.BinarySearchFunc(rest, MerkleNode{Level: uint8(level), Index: index ^ 1}, MerkleNode.Compare)
			if !found {
				return nil, missingNode(level, index^1)
			}
			hashes, rest = append(hashes, rest[n].Hash), rest[n+1:]
		}
		path = parents
	}
	return hashes, nil
}
