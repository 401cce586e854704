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
	// merklePlaceSize is how many bytes say where a node is, merkleNodeSize how many the node has
	// with them.
	merklePlaceSize = 1 + 4
	merkleNodeSize  = merklePlaceSize + chainhash.HashSize
)

// appendMerklePlace appends where a node is. Nodes are in the order of that.
func appendMerklePlace(b []byte, level uint8, index uint32) []byte {
	return binary.BigEndian.AppendUint32(append(b, level), index)
}

func appendMerkleNode(b []byte, n *protocol.MerkleNode) []byte {
	return append(appendMerklePlace(b, n.Level, n.Index), n.Hash[:]...)
}

func decodeMerkleNode(b []byte) (n protocol.MerkleNode) {
	n.Level, n.Index = b[0], binary.BigEndian.Uint32(b[1:])
	copy(n.Hash[:], b[merklePlaceSize:])
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

// place returns where node i is in the tree, as appendMerklePlace writes it.
func (c merkleChunk) place(i int) []byte { return c[i*merkleNodeSize:][:merklePlaceSize] }

// find returns the hash of a node; ok is false if it is not in the chunk.
func (c merkleChunk) find(level uint8, index uint32) (hash chainhash.Hash, ok bool) {
	wanted := appendMerklePlace(make([]byte, 0, merklePlaceSize), level, index)
	i := sort.Search(c.len(), func(i int) bool { return bytes.Compare(c.place(i), wanted) >= 0 })
	if i == c.len() || !bytes.Equal(c.place(i), wanted) {
		return hash, false
	}
	return chainhash.Hash(c[i*merkleNodeSize+merklePlaceSize:]), true
}

// branches reads the merkle branches of a block's transactions, one after the other: what they have in common it
// mostly reads once, whatever the block's size. It holds 32 chunks at most.
type branches struct {
	nodes  *store.Iterator // the caller's, over 'N'
	height uint32
	levels int                             // of the block's merkle tree, below the root
	chunks [protocol.MaxBranch]merkleChunk // by level: where the last node of it was found
}

// appendTo appends the branch of the transaction at index.
func (b *branches) appendTo(branch []chainhash.Hash, index uint32) ([]chainhash.Hash, error) {
	for level := range b.levels {
		beside := index>>level ^ 1
		hash, ok := b.chunks[level].find(uint8(level), beside)
		if !ok && level > 0 { // in the usual block, which has one anchor, one chunk has all
			b.chunks[level] = b.chunks[level-1]
			hash, ok = b.chunks[level].find(uint8(level), beside)
		}
		if !ok {
			var err error
			if b.chunks[level], err = b.read(uint8(level), beside); err != nil {
				return nil, err
			}
			if hash, ok = b.chunks[level].find(uint8(level), beside); !ok {
				return nil, fmt.Errorf("%w: block %d lacks merkle node %d of level %d", store.ErrDamaged, b.height, beside, level)
			}
		}
		branch = append(branch, hash)
	}
	return branch, nil
}

// read reads the chunk that holds a node, an empty one if none of the block's does.
func (b *branches) read(level uint8, index uint32) (merkleChunk, error) {
	wanted := store.AppendMerkleKey(make([]byte, 0, 10), b.height, level, index)
	store.Seek(b.nodes, wanted)
	if !b.nodes.Valid() || !bytes.HasPrefix(b.nodes.Item().Key(), wanted[:5]) { // of another block
		return nil, nil
	}
	value, err := store.Value(b.nodes.Item())
	if err == nil {
		err = merkleChunk(value).check()
	}
	return value, err
}
