package graph

import (
	"bytes"
	"context"
	"fmt"

	"github.com/dgraph-io/badger/v4"
	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
)

// AnchorProofs returns what AnchorProof does for the anchors of a chain, in its order,
// from the one with the given number on: at most limit, and no more once their
// transactions have size bytes. None: there are no more as of the view.
func (v *View) AnchorProofs(ctx context.Context, chain chainhash.Hash, from uint32, limit, size int) (proofs []AnchorProof, err error) {
	stem := chainAnchorKey(chain, 0)[:chainStemSize]
	it := newIterator(v.snapshot.txn, stem)
	defer it.Close()
	block := anchorBlock{view: v, proofs: v.iterator(prefixProof)}
	for it.Seek(chainAnchorKey(chain, from)); it.Valid() && len(proofs) < limit && size > 0; it.Next() {
		var p anchorPlace
		if err := it.Item().Value(func(value []byte) (err error) {
			p, err = decodeAnchorPlace(value)
			return err
		}); err != nil {
			return nil, fmt.Errorf("reading the database: %w", err)
		}
		if p.height > v.height {
			break
		}
		proof, err := block.proof(p)
		if err != nil {
			return nil, err
		}
		proofs = append(proofs, proof)
		size -= len(proof.Raw)
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return proofs, nil
}

// anchorBlock reads proofs from one block after the other: what several of a block have
// in common it reads once.
type anchorBlock struct {
	view   *View
	at     anchorPlace // of the first transaction of the chunk; height is the header's, too
	chunk  []byte      // nil before the first
	header [protocol.HeaderSize]byte
	proofs *badger.Iterator // the caller's; where the last proof was read
}

func (b *anchorBlock) proof(p anchorPlace) (AnchorProof, error) {
	first := anchorPlace{p.height, p.number - p.number%anchorsPerChunk}
	if b.chunk == nil || first != b.at {
		if err := b.read(first); err != nil {
			return AnchorProof{}, err
		}
	}
	t, err := anchorTxInChunk(b.chunk, p.number-first.number)
	if err != nil {
		return AnchorProof{}, err
	}
	proof := AnchorProof{Height: p.height, Header: b.header, Index: t.index}
	stored, err := b.stored(p)
	if err == nil {
		proof.Branch, proof.Raw, err = decodeProof(stored)
	}
	return proof, err
}

// stored returns a proof as it is stored. Those of a chain mostly lie one behind the other.
func (b *anchorBlock) stored(p anchorPlace) (value []byte, err error) {
	for n := uint32(0); len(value) == int(n)*chunkSize; n++ { // a shorter chunk is the last
		key := proofKey(p.height, p.number, n)
		if b.proofs.Valid() && bytes.Compare(b.proofs.Item().Key(), key) < 0 {
			b.proofs.Next()
		}
		if !b.proofs.Valid() || !bytes.Equal(b.proofs.Item().Key(), key) {
			b.proofs.Seek(key)
		}
		if !b.proofs.Valid() || !bytes.Equal(b.proofs.Item().Key(), key) {
			break
		}
		if err := b.proofs.Item().Value(func(chunk []byte) error {
			value = append(value, chunk...)
			return nil
		}); err != nil {
			return nil, fmt.Errorf("reading the database: %w", err)
		}
	}
	return value, nil
}

func (b *anchorBlock) read(first anchorPlace) (err error) {
	if b.chunk == nil || first.height != b.at.height {
		if b.header, err = readHeader(b.view.snapshot.txn, first.height); err != nil {
			return err
		}
	}
	b.at = first
	b.chunk, err = read(b.view.snapshot.txn, chunkKey(prefixAnchorTxs, first.height, first.number/anchorsPerChunk))
	return err
}
