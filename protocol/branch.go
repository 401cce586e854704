package protocol

import (
	"fmt"

	"github.com/gcash/bchd/chaincfg/chainhash"
)

// MaxBranch is how many hashes the merkle branch of a transaction has at most: an
// index has 32 bits.
const MaxBranch = 32

// MinTxSize is the size in bytes below which no transaction may be (65 bytes since
// May 2023, 100 before). Bytes of 64 could as well be two hashes of a merkle tree.
const MinTxSize = 65

// MaxTxSize is the most bytes that a transaction has by consensus.
const MaxTxSize = 1_000_000

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
