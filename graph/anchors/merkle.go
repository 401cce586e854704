package anchors

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sort"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// The nodes of a block's merkle tree that its anchors need are stored in order, each
// once. The key of a chunk is that of its last node, so that the one which holds a node
// is the first at or after the node's own key.

const (
	// merkleNodesPerChunk is how many nodes of a block share a value: more than the
	// branch of one transaction has.
	merkleNodesPerChunk = 96
	// merkleNodeSize is how many bytes a stored node has.
	merkleNodeSize = 1 + 4 + chainhash.HashSize
)

func appendMerkleNode(b []byte, n *protocol.MerkleNode) []byte {
	b = binary.BigEndian.AppendUint32(append(b, n.Level), n.Index)
	return append(b, n.Hash[:]...)
}

func decodeMerkleNode(b []byte) (n protocol.MerkleNode) {
	n.Level, n.Index = b[0], binary.BigEndian.Uint32(b[1:])
	copy(n.Hash[:], b[5:])
	return n
}

// setMerkleTree stores the nodes of the block at height.
func setMerkleTree(w *store.Writes, height uint32, tree protocol.PartialMerkleTree) {
	for len(tree) > 0 {
		chunk := tree[:min(len(tree), merkleNodesPerChunk)]
		tree = tree[len(chunk):]
		last := chunk[len(chunk)-1]
		w.Set(
			w.Make(func(b []byte) []byte { return store.AppendMerkleKey(b, height, last.Level, last.Index) }),
			w.Make(func(b []byte) []byte {
				for i := range chunk {
					b = appendMerkleNode(b, &chunk[i])
				}
				return b
			}))
	}
}

// merkleChunk is a value under 'N'.
type merkleChunk []byte

// check says whether it holds nodes, and they are whole.
func (c merkleChunk) check() error {
	if len(c) == 0 || len(c)%merkleNodeSize != 0 {
		return fmt.Errorf("%w: a chunk of merkle nodes has %d bytes, expected a multiple of %d", store.ErrDamaged, len(c), merkleNodeSize)
	}
	return nil
}

func (c merkleChunk) len() int { return len(c) / merkleNodeSize }

func (c merkleChunk) at(i int) protocol.MerkleNode { return decodeMerkleNode(c[i*merkleNodeSize:]) }

// find returns the hash of a node; ok is false if it is not in the chunk.
func (c merkleChunk) find(level uint8, index uint32) (hash chainhash.Hash, ok bool) {
	wanted := protocol.MerkleNode{Level: level, Index: index}
	i := sort.Search(c.len(), func(i int) bool { return c.at(i).Compare(wanted) >= 0 })
	if i == c.len() {
		return hash, false
	}
	n := c.at(i)
	return n.Hash, n.Compare(wanted) == 0
}

// readBranch reads the merkle branch of the transaction at index of the block at height,
// whose tree has so many levels. It moves the iterator, which is over 'N': in the usual
// block, which has one anchor, to one chunk.
func readBranch(it *store.Iterator, height, index uint32, levels int) ([]chainhash.Hash, error) {
	branch := make([]chainhash.Hash, 0, levels)
	for len(branch) < levels {
		level := len(branch)
		beside := index>>level ^ 1
		wanted := store.AppendMerkleKey(make([]byte, 0, 10), height, uint8(level), beside)
		if store.Seek(it, wanted); it.Valid() && bytes.HasPrefix(it.Item().Key(), wanted[:5]) { // of the same block
			err := store.Visit(it.Item(), func(value []byte) (err error) {
				branch, err = merkleChunk(value).goOn(branch, index, levels)
				return err
			})
			if err != nil {
				return nil, err
			}
		}
		if len(branch) == level {
			return nil, fmt.Errorf("%w: block %d lacks merkle node %d of level %d", store.ErrDamaged, height, beside, level)
		}
	}
	return branch, nil
}

// goOn appends to the beginning of the branch of the transaction at index what the chunk
// holds of the rest.
func (c merkleChunk) goOn(branch []chainhash.Hash, index uint32, levels int) ([]chainhash.Hash, error) {
	for len(branch) < levels {
		hash, ok := c.find(uint8(len(branch)), index>>len(branch)^1)
		if !ok {
			break
		}
		branch = append(branch, hash)
	}
	return branch, c.check()
}
