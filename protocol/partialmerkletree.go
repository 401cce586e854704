package protocol

import (
	"cmp"
	"fmt"
	"iter"
	"math/bits"
	"slices"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol/internal/sha256d"
)

// MerkleNode is a node of a block's merkle tree.
type MerkleNode struct {
	Level uint8  // 0 for txids; below MaxBranch
	Index uint32 // in its level
	Hash  chainhash.Hash
}

// Compare orders nodes by level, and by index within a level. It does not look at
// their hashes.
func (n MerkleNode) Compare(other MerkleNode) int {
	return cmp.Or(cmp.Compare(n.Level, other.Level), cmp.Compare(n.Index, other.Index))
}

// PartialMerkleTree is that part of a block's merkle tree which shows that some of its
// transactions are in the block: the nodes of all their branches, each once, in order
// (MerkleNode.Compare). A level of odd length has a copy of its last node behind it.
// For all transactions of a block it has two nodes a transaction, and for one of them
// those of its branch. Nil is the tree of a block that has one transaction alone.
//
// Unlike a BIP 37 tree it has the nodes that can be computed from others as well: so a
// branch is read from it without computing anything.
//
// Questions may be asked concurrently.
type PartialMerkleTree []MerkleNode

// PartialMerkleTree returns the part of the block's tree that shows that the
// transactions at indices, in any order, are in the block. It hashes all transactions,
// in one pass, and takes meanwhile some 32 bytes of memory for each besides the result.
// It panics if there is no such index. Without indices it is nil.
func (b *Block) PartialMerkleTree(indices ...uint32) PartialMerkleTree {
	if len(indices) == 0 {
		return nil
	}
	if last := slices.Max(indices); int64(last) >= int64(b.TxCount) {
		panic(fmt.Sprintf("protocol: block %v has %d transactions, no transaction %d", b.Hash, b.TxCount, last))
	}
	levels := bits.Len(uint(b.TxCount - 1))
	count := 0
	for range branchNodes(indices, levels) {
		count++
	}
	t := make(PartialMerkleTree, 0, count)
	hashes, level := b.txids(), 0
	for at, index := range branchNodes(indices, levels) {
		for ; level < at; level++ {
			sha256d.Pairs(hashes, evened(hashes))
			hashes = hashes[:(len(hashes)+1)/2]
		}
		t = append(t, MerkleNode{uint8(level), index, evened(hashes)[index]})
	}
	return t
}

// txids returns the txids of all transactions, with room for one more.
func (b *Block) txids() []chainhash.Hash {
	txids := make([]chainhash.Hash, 0, b.TxCount+1)
	var batch [merkleBatchSize][]byte
	pending := 0
	for index, tx := range b.Txs() {
		batch[pending] = tx
		if pending++; pending == len(batch) || int(index) == b.TxCount-1 {
			txids = txids[:len(txids)+pending]
			sha256d.Messages(txids[len(txids)-pending:], batch[:pending])
			pending = 0
		}
	}
	return txids
}

// evened returns a level, one of odd length with the copy of its last node behind it,
// for which there is room.
func evened(level []chainhash.Hash) []chainhash.Hash {
	if len(level)%2 == 1 {
		return append(level, level[len(level)-1])
	}
	return level
}

// branchNodes iterates over level and index of the nodes of the branches of the
// transactions at indices, each once and in order, in a tree of so many levels below
// the root.
func branchNodes(indices []uint32, levels int) iter.Seq2[int, uint32] {
	return func(yield func(int, uint32) bool) {
		path := slices.Clone(indices)
		slices.Sort(path)
		for level := range levels {
			path = slices.Compact(path)
			for i, index := range path {
				isLeft := i+1 < len(path) && path[i+1] == index^1 // of two on the path: each is beside the other
				isRight := i > 0 && path[i-1] == index^1
				switch {
				case isLeft && !(yield(level, index) && yield(level, index^1)):
					return
				case !isLeft && !isRight && !yield(level, index^1):
					return
				}
			}
			for i := range path {
				path[i] >>= 1
			}
		}
	}
}

// Levels returns how many levels the block's tree has below its root: how many hashes a
// branch has.
func (t PartialMerkleTree) Levels() int {
	if len(t) == 0 {
		return 0
	}
	return int(t[len(t)-1].Level) + 1
}

// Branch returns the hashes beside the path from the transaction at index up to the
// merkle root, from the bottom, for CheckMerkleBranch. ErrMerkleRoot if the tree lacks
// one of them.
func (t PartialMerkleTree) Branch(index uint32) (branch []chainhash.Hash, err error) {
	if levels := t.Levels(); uint64(index)>>levels != 0 {
		return nil, noSuchIndex(levels, index)
	}
	nodes, err := t.Part(index)
	for i := range nodes {
		branch = append(branch, nodes[i].Hash)
	}
	return branch, err
}

// Part returns the part of the tree that shows that the transactions at indices, in any
// order, are in the block. ErrMerkleRoot if the tree lacks a node for that.
func (t PartialMerkleTree) Part(indices ...uint32) (part PartialMerkleTree, err error) {
	rest := t
	for level, index := range branchNodes(indices, t.Levels()) {
		n, found := slices.BinarySearchFunc(rest, MerkleNode{Level: uint8(level), Index: index}, MerkleNode.Compare)
		if !found {
			return nil, missingNode(level, index)
		}
		part, rest = append(part, rest[n]), rest[n+1:]
	}
	return part, nil
}

func noSuchIndex(levels int, index uint32) error {
	return fmt.Errorf("%w: a branch of %d hashes does not lead to index %d", ErrMerkleRoot, levels, index)
}

func missingNode(level int, index uint32) error {
	return fmt.Errorf("%w: the partial tree lacks node %d of level %d", ErrMerkleRoot, index, level)
}

// Check checks that the tree is just that part of the tree with a merkle root which
// shows that these transactions are in the block, at these indices. They come in order
// of index, each once. The error wraps ErrMerkleRoot, or ErrMalformed if one is no
// transaction: then nothing is shown.
//
// It hashes each node once, and takes meanwhile some 40 bytes of memory for each
// transaction.
func (t PartialMerkleTree) Check(txs iter.Seq2[uint32, Tx], root chainhash.Hash) error {
	var path []MerkleNode // of one level, those on the way from a transaction to the root
	for index, raw := range txs {
		tx, err := parseLeaf(raw)
		if err != nil {
			return fmt.Errorf("transaction %d: %w", index, err)
		}
		if last := len(path) - 1; last >= 0 && path[last].Index >= index {
			return fmt.Errorf("%w: transaction %d comes after transaction %d", ErrMerkleRoot, index, path[last].Index)
		}
		path = append(path, MerkleNode{Index: index, Hash: tx.TxID()})
	}
	rest, levels := t, t.Levels()
	if len(path) == 0 && len(t) > 0 {
		return fmt.Errorf("%w: a partial tree of %d nodes for no transactions", ErrMerkleRoot, len(t))
	}
	if len(path) == 0 {
		return nil
	}
	if last := path[len(path)-1].Index; levels > MaxBranch || uint64(last)>>levels != 0 {
		return noSuchIndex(levels, last)
	}
	for level := range levels {
		var err error
		if path, rest, err = climb(path, rest, level); err != nil {
			return err
		}
	}
	if len(rest) > 0 {
		return fmt.Errorf("%w: the partial tree is not in order, or has %d nodes too many", ErrMerkleRoot, len(rest))
	}
	if path[0].Hash != root {
		return fmt.Errorf("%w: the partial tree leads to %v, expected %v", ErrMerkleRoot, path[0].Hash, root)
	}
	return nil
}

// climb computes from the nodes of a path in a level those in the next one, in their
// place. It takes the nodes beside them from the beginning of rest.
func climb(path []MerkleNode, rest PartialMerkleTree, level int) ([]MerkleNode, PartialMerkleTree, error) {
	take := func(index uint32) (hash chainhash.Hash, err error) {
		if len(rest) == 0 || int(rest[0].Level) != level || rest[0].Index != index {
			return hash, missingNode(level, index)
		}
		hash, rest = rest[0].Hash, rest[1:]
		return hash, nil
	}
	parents := path[:0]
	for len(path) > 0 {
		var pair [2]chainhash.Hash
		known := path[:1]
		if len(path) > 1 && path[1].Index == path[0].Index^1 {
			known = path[:2]
		}
		path = path[len(known):]
		index := known[0].Index
		for _, n := range known {
			pair[n.Index&1] = n.Hash
		}
		if len(known) == 1 {
			beside, err := take(index ^ 1)
			if err != nil {
				return nil, nil, err
			}
			pair[index&1^1] = beside
		} else {
			// Both are in the tree as well, each for the branch of the other.
			for _, n := range known {
				hash, err := take(n.Index)
				if err != nil {
					return nil, nil, err
				}
				if hash != n.Hash {
					return nil, nil, fmt.Errorf("%w: node %d of level %d of the partial tree is %v, the transactions make it %v", ErrMerkleRoot, n.Index, level, hash, n.Hash)
				}
			}
		}
		if pair[0] == pair[1] && known[len(known)-1].Index&1 == 1 {
			return nil, nil, errCopy
		}
		parents = append(parents, MerkleNode{Index: index >> 1, Hash: hashPair(&pair[0], &pair[1])})
	}
	return parents, rest, nil
}
