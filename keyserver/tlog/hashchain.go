package tlog

import (
	"context"
	"iter"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/protocol/tlog"
)

// Source is the keyserver whose hashchain the log is. Its methods may be called concurrently.
type Source interface {
	// Ready returns why no history may be shown, or nil.
	Ready() error
	// Chain returns the chain's state on disk.
	Chain() hashchain.Chain
	// ChainAt returns the chain's state after its first size entries.
	ChainAt(ctx context.Context, size uint64) (hashchain.Chain, error)
	// Entries returns the entries at first…last.
	Entries(ctx context.Context, first, last uint64) (from uint64, entries iter.Seq2[hashchain.Entry, error], err error)
	// TreeHashes returns count hashes of a level of the Merkle tree, from index first on.
	TreeHashes(ctx context.Context, level uint, first, count uint64) ([]hashchain.Hash, error)
	// ConsistencyProof proves that the tree of size1 entries is the beginning of that of size2.
	ConsistencyProof(ctx context.Context, size1, size2 uint64) ([]hashchain.Hash, error)
}

// hashchainTree is the Tree of a keyserver. It is made of the hashchain's own records: nothing is stored
// twice.
type hashchainTree struct{ source Source }

func (t hashchainTree) Ready() error { return t.source.Ready() }

func (t hashchainTree) Size() uint64 { return t.source.Chain().Size }

func (t hashchainTree) RootAt(ctx context.Context, size uint64) (tlog.Hash, error) {
	if c := t.source.Chain(); c.Size == size {
		return tlog.Hash(c.Root()), nil
	}
	c, err := t.source.ChainAt(ctx, size)
	return tlog.Hash(c.Root()), err
}

func (t hashchainTree) TileHashes(ctx context.Context, level uint, first, count uint64) ([]tlog.Hash, error) {
	hashes, err := t.source.TreeHashes(ctx, level, first, count)
	return hashesOf(hashes), err
}

func (t hashchainTree) Bundle(ctx context.Context, first, count uint64) ([]byte, error) {
	_, entries, err := t.source.Entries(ctx, first, first+count-1)
	if err != nil {
		return nil, err
	}
	var bundle []byte
	for entry, err := range entries {
		if err != nil {
			return nil, err
		}
		bundle = tlog.AppendEntry(bundle, entry[:])
	}
	return bundle, nil
}

func (t hashchainTree) Consistency(ctx context.Context, size1, size2 uint64) ([]tlog.Hash, error) {
	proof, err := t.source.ConsistencyProof(ctx, size1, size2)
	return hashesOf(proof), err
}

func hashesOf(hashes []hashchain.Hash) []tlog.Hash {
	all := make([]tlog.Hash, len(hashes))
	for i := range hashes {
		all[i] = tlog.Hash(hashes[i])
	}
	return all
}
