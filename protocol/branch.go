package protocol

import (
	"fmt"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol/internal/sha256d"
)

// MaxBranch is how many hashes the merkle branch of a transaction has at most: an
// index has 32 bits.
const MaxBranch = 32

// MinTxSize is the size in bytes below which no transaction may be (65 bytes since
// May 2023, 100 before). Bytes of 64 could as well be two hashes of a merkle tree.
const MinTxSize = 65

// MerkleBranches returns for each index what it takes to see that the transaction
// there is in the block: the hashes beside the path from its txid up to the merkle
// root, from the bottom. It hashes all transactions, and takes some 60 bytes of
// memory for each. It panics if there is no such index.
func (b *Block) MerkleBranches(indices ...uint32) [][]chainhash.Hash {
	txs := make([][]byte, 0, b.TxCount)
	for _, tx := range b.Txs() {
		txs = append(txs, tx)
	}
	for _, index := range indices {
		if int(index) >= len(txs) {
			panic(fmt.Sprintf("protocol: block %v has %d transactions, no transaction %d", b.Hash, len(txs), index))
		}
	}
	level := make([]chainhash.Hash, len(txs), len(txs)+1)
	sha256d.Messages(level, txs)
	branches := make([][]chainhash.Hash, len(indices))
	for height := 0; len(level) > 1; height++ {
		if len(level)%2 == 1 {
			level = append(level, level[len(level)-1])
		}
		for i, index := range indices {
			branches[i] = append(branches[i], level[index>>height^1])
		}
		sha256d.Pairs(level, level)
		level = level[:len(level)/2]
	}
	return branches
}

// errCopy says that a transaction is said to be where its block has a copy. The right
// one of two equal hashes is a copy (CVE-2012-2459).
var errCopy = fmt.Errorf("%w: the branch leads to a copy of a transaction, not to one", ErrMerkleRoot)

// CheckMerkleBranch checks that the transaction with the serialization raw is the
// one at index of a block whose merkle root is given. The error wraps
// ErrMerkleRoot, or ErrMalformed if raw is no transaction: then nothing is shown.
func CheckMerkleBranch(raw []byte, index uint32, branch []chainhash.Hash, root chainhash.Hash) error {
	tx, err := parseLeaf(raw)
	if err != nil {
		return err
	}
	if len(branch) > MaxBranch || uint64(index)>>len(branch) != 0 {
		return noSuchIndex(len(branch), index)
	}
	h := tx.TxID()
	for i, beside := range branch {
		if index>>i&1 == 0 {
			h = hashPair(&h, &beside)
			continue
		}
		if beside == h {
			return errCopy
		}
		h = hashPair(&beside, &h)
	}
	if h != root {
		return fmt.Errorf("%w: the branch of transaction %v leads to %v, expected %v", ErrMerkleRoot, tx.TxID(), h, root)
	}
	return nil
}

// parseLeaf checks that raw is a transaction, and not two nodes of a merkle tree.
func parseLeaf(raw []byte) (Tx, error) {
	if len(raw) < MinTxSize {
		return nil, fmt.Errorf("%w: a transaction has at least %d bytes, got %d", ErrMalformed, MinTxSize, len(raw))
	}
	return ParseTx(raw)
}
