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
// header commits to just them. The error wraps ErrMerkleRoot. It is what Walk does
// with RootAlways, in a second pass over the block.
//
// A block whose tree pairs two equal hashes is refused although its root
// matches (CVE-2012-2459). A level of odd length is hashed as if its last entry
// stood there twice, so repeating the block's last transactions gives a
// different list under the same root, and the same block hash.
//
// It runs in constant memory and allocates nothing.
func (b *Block) CheckMerkleRoot() error {
	var m merkleHasher
	for _, tx := range b.Txs() {
		m.add(tx)
	}
	return m.check(b)
}

// merkleBatchSize is how many transactions are hashed together, a power of two: so
// many that it pays off, and few enough to be in the processor's cache still.
const merkleBatchSize = 256

// merkleHasher computes a block's merkle root from its transactions.
type merkleHasher struct {
	txs     [merkleBatchSize][]byte // added, but not in the tree yet
	pending int                     // of txs
	hashes  [merkleBatchSize]chainhash.Hash
	tree    merkleTree
	// repeated is the number of transactions in the tree when it had to pair two
	// equal hashes; 0: it did not. No more are added then.
	repeated uint64
	hashed   func(txs [][]byte, txids []chainhash.Hash) // Walk.Hashed
}

// add appends a transaction, which must not change until check.
func (m *merkleHasher) add(tx []byte) {
	m.txs[m.pending] = tx
	if m.pending++; m.pending == merkleBatchSize {
		m.flush()
	}
}

// flush adds the pending transactions to the tree, as the largest subtrees that are
// full.
func (m *merkleHasher) flush() {
	count := m.pending
	m.pending = 0
	if m.repeated > 0 {
		return
	}
	sha256d.Messages(m.hashes[:], m.txs[:count])
	if m.hashed != nil && count > 0 {
		m.hashed(m.txs[:count], m.hashes[:count])
	}
	for at := 0; at < count; {
		height := bits.Len(uint(count-at)) - 1
		subtree := m.hashes[at : at+1<<height]
		at += len(subtree)
		for ; len(subtree) > 1; subtree = subtree[:len(subtree)/2] {
			for i := 0; i < len(subtree); i += 2 {
				if subtree[i] == subtree[i+1] {
					m.repeated = m.tree.count + uint64(count)
					return
				}
			}
			sha256d.Pairs(subtree, subtree)
		}
		if !m.tree.add(subtree[0], height) {
			m.repeated = m.tree.count + uint64(count)
			return
		}
	}
}

// check compares the root of all transactions, which have been added, with that in
// the header of their block.
func (m *merkleHasher) check(b *Block) error {
	m.flush()
	if m.repeated > 0 {
		return fmt.Errorf("%w: block %v repeats transactions, before transaction %d (CVE-2012-2459)", ErrMerkleRoot, b.Hash, m.repeated)
	}
	if root := m.tree.root(); root != b.Header.MerkleRoot {
		return fmt.Errorf("%w: block %v: expected %v, got %v", ErrMerkleRoot, b.Hash, b.Header.MerkleRoot, root)
	}
	return nil
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
