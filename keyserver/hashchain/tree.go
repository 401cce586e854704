package hashchain

import (
	"errors"
	"fmt"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
)

// Nodes is where the Merkle tree's perfect subtrees are kept.
type Nodes interface {
	// Node returns the root of a perfect subtree; at level 0, the hash of a leaf.
	Node(NodeID) (Hash, error)
}

// ErrProof says that a proof does not prove what it should. The server that it
// came from has erred or cheats: keep what it said.
var ErrProof = errors.New("proof does not hold")

// ChainAt returns the chain's state as it was after its first size entries, of
// which head was the last.
func ChainAt(size uint64, head Hash, nodes Nodes) (Chain, error) {
	edge, err := fetch(compact.RangeNodes(0, size, nil), nodes)
	if err != nil {
		return Chain{}, err
	}
	c := Chain{Size: size, Head: head}
	for _, h := range edge {
		c.Edge = append(c.Edge, Hash(h))
	}
	return c, nil
}

// InclusionProof proves that the entry at a position is in the tree of the first
// size entries (RFC 6962 §2.1.1). position < size, or it fails.
func InclusionProof(position, size uint64, nodes Nodes) ([]Hash, error) {
	needed, err := proof.Inclusion(position, size)
	if err != nil {
		return nil, err
	}
	return build(needed, nodes)
}

// ConsistencyProof proves that the tree of the first size1 entries is the
// beginning of that of the first size2 (RFC 6962 §2.1.2). size1 <= size2, or it
// fails.
func ConsistencyProof(size1, size2 uint64, nodes Nodes) ([]Hash, error) {
	needed, err := proof.Consistency(size1, size2)
	if err != nil {
		return nil, err
	}
	return build(needed, nodes)
}

func build(needed proof.Nodes, nodes Nodes) ([]Hash, error) {
	hashes, err := fetch(needed.IDs, nodes)
	if err != nil {
		return nil, err
	}
	if hashes, err = needed.Rehash(hashes, hasher.HashChildren); err != nil {
		return nil, err
	}
	built := make([]Hash, len(hashes))
	for i, h := range hashes {
		built[i] = Hash(h)
	}
	return built, nil
}

func fetch(ids []NodeID, nodes Nodes) ([][]byte, error) {
	hashes := make([][]byte, len(ids))
	for i, id := range ids {
		h, err := nodes.Node(id)
		if err != nil {
			return nil, fmt.Errorf("node %d of level %d: %w", id.Index, id.Level, err)
		}
		hashes[i] = h[:]
	}
	return hashes, nil
}

// VerifyInclusion checks that an entry is at a position of the tree of size
// entries with the given root. ErrProof if the proof does not show it.
func VerifyInclusion(e *Entry, position, size uint64, inclusion []Hash, root Hash) error {
	leaf := LeafHash(e)
	if err := proof.VerifyInclusion(hasher, position, size, leaf[:], raw(inclusion), root[:]); err != nil {
		return fmt.Errorf("%w: position %d of %d entries: %w", ErrProof, position, size, err)
	}
	return nil
}

// VerifyConsistency checks that the tree of size1 entries with root1 is the
// beginning of that of size2 entries with root2. ErrProof if the proof does not
// show it.
func VerifyConsistency(size1, size2 uint64, consistency []Hash, root1, root2 Hash) error {
	if size1 == 0 && root1 != (&Chain{}).Root() {
		return fmt.Errorf("%w: expected the root of an empty tree, got %s", ErrProof, root1)
	}
	if err := proof.VerifyConsistency(hasher, size1, size2, raw(consistency), root1[:], root2[:]); err != nil {
		return fmt.Errorf("%w: from %d to %d entries: %w", ErrProof, size1, size2, err)
	}
	return nil
}

func raw(hashes []Hash) [][]byte {
	s := make([][]byte, len(hashes))
	for i := range hashes {
		s[i] = hashes[i][:]
	}
	return s
}
