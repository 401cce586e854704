package protocol

import (
	"errors"
	"fmt"
	"math/bits"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol/internal/sha256d"
)

// ErrMerkleRoot says that a block's transactions are not those that its header
// commits to. The header may be a good one: ask another node for the block.
var ErrMerkleRoot = errors.New("merkle root does not match")

// CheckMerkleRoot computes the txids of all transactions and checks that the
// header commits to just them. The error wraps ErrMerkleRoot.
//
// A block whose tree pairs two equal hashes is refused although its root
// matches (CVE-2012-2459). A level of odd length is hashed as if its last entry
// stood there twice, so repeating the block's last transactions gives a
// different list under the same root, and the same block hash.
//
// It runs in constant memory and allocates nothing.
func (b *Block) CheckMerkleRoot() error {
	var tree merkleTree
	var batch merkleBatch
	for i, tx := range b.Txs() {
		batch.txs[batch.count] = tx
		if batch.count++; batch.count < merkleBatchSize && int(i) < b.TxCount-1 {
			continue
		}
		if !batch.addTo(&tree) {
			return fmt.Errorf("%w: block %v repeats transactions before transaction %d (CVE-2012-2459)", ErrMerkleRoot, b.Hash, i+1)
		}
	}
	if root := tree.root(); root != b.Header.MerkleRoot {
		return fmt.Errorf("%w: block %v: expected %v, got %v", ErrMerkleRoot, b.Hash, b.Header.MerkleRoot, root)
	}
	return nil
}

// merkleBatchSize is how many transactions are hashed together, a power of two: so
// many that it pays off, and few enough to fit into the processor's first cache.
const merkleBatchSize = 256

// merkleBatch is a run of transactions that begins at a multiple of its size.
type merkleBatch struct {
	txs    [merkleBatchSize][]byte
	count  int
	hashes [merkleBatchSize]chainhash.Hash
}

// addTo adds the batch to the tree, as the largest subtrees that are full, and
// empties it. It returns false if that pairs two equal hashes.
func (b *merkleBatch) addTo(tree *merkleTree) bool {
	sha256d.Messages(b.hashes[:], b.txs[:b.count])
	for at := 0; at < b.count; {
		height := bits.Len(uint(b.count-at)) - 1
		subtree := b.hashes[at : at+1<<height]
		at += len(subtree)
		for ; len(subtree) > 1; subtree = subtree[:len(subtree)/2] {
			for i := 0; i < len(subtree); i += 2 {
				if subtree[i] == subtree[i+1] {
					return false
				}
			}
			sha256d.Pairs(subtree, subtree)
		}
		if !tree.add(subtree[0], height) {
			return false
		}
	}
	b.count = 0
	return true
}

// merkleTree computes a merkle root from one full subtree after the other. Like a
// binary counter it holds, for each bit set in count, the root of a full subtree
// with so many leaves: full[i] that of 1<<i.
type merkleTree struct {
	full  [64]chainhash.Hash
	count uint64
}

// add appends the root of a full subtree with 1<<height leaves, after a multiple of
// so many. It returns false if that pairs two equal hashes.
func (t *merkleTree) add(h chainhash.Hash, height int) bool {
	level := height
	for ; t.count>>level&1 == 1; level++ {
		if t.full[level] == h {
			return false
		}
		h = hashPair(&t.full[level], &h)
	}
	t.full[level] = h
	t.count += 1 << height
	return true
}

// root returns the root of the leaves added, at least one, and is called last.
func (t *merkleTree) root() chainhash.Hash {
	level := bits.TrailingZeros64(t.count)
	h := t.full[level]
	for t.count != 1<<level {
		if t.count>>level&1 == 1 {
			h = hashPair(&h, &h)
			t.count += 1 << level
		} else {
			h = hashPair(&t.full[level], &h)
		}
		level++
	}
	return h
}

func hashPair(left, right *chainhash.Hash) chainhash.Hash {
	var pair [2 * chainhash.HashSize]byte
	copy(pair[:chainhash.HashSize], left[:])
	copy(pair[chainhash.HashSize:], right[:])
	return chainhash.DoubleHashH(pair[:])
}
