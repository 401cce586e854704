package protocol

import (
	"errors"
	"fmt"
	"math/bits"

	"github.com/gcash/bchd/chaincfg/chainhash"
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
	for i, tx := range b.Txs() {
		if !tree.add(tx.TxID()) {
			return fmt.Errorf("%w: block %v repeats transactions before transaction %d (CVE-2012-2459)", ErrMerkleRoot, b.Hash, i+1)
		}
	}
	if root := tree.root(); root != b.Header.MerkleRoot {
		return fmt.Errorf("%w: block %v: expected %v, got %v", ErrMerkleRoot, b.Hash, b.Header.MerkleRoot, root)
	}
	return nil
}

// merkleTree computes a merkle root leaf by leaf. Like a binary counter it
// holds, for each bit set in count, the root of a full subtree with so many
// leaves: full[i] that of 1<<i.
type merkleTree struct {
	full  [64]chainhash.Hash
	count uint64
}

// add appends a leaf. It returns false if that pairs two equal hashes.
func (t *merkleTree) add(h chainhash.Hash) bool {
	level := 0
	for ; t.count>>level&1 == 1; level++ {
		if t.full[level] == h {
			return false
		}
		h = hashPair(&t.full[level], &h)
	}
	t.full[level] = h
	t.count++
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
