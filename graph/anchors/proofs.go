package anchors

import (
	"context"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/store"
)

// AnchorProofs returns what Proof does for the anchors of a chain, in its order,
// from the one with the given number on: at most limit, and no more once their
// transactions have size bytes. None: there are no more as of the view.
func (v *Chains) AnchorProofs(ctx context.Context, chain chainhash.Hash, from uint32, limit, size int) (proofs []Proof, err error) {
	stem := store.AppendChainAnchorKey(nil, chain, 0)[:store.ChainStemSize]
	it := store.NewIterator(v.ledger.txn, stem)
	defer it.Close()
	block := v.anchorBlock()
	for it.Seek(store.AppendChainAnchorKey(nil, chain, from)); it.Valid() && len(proofs) < limit && size > 0; it.Next() {
		var p place
		if err := store.Visit(it.Item(), func(value []byte) (err error) {
			p, err = decodePlace(value)
			return err
		}); err != nil {
			return nil, err
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
	view   *Chains
	at     place  // of the first transaction of the chunk; height is the header's, too
	chunk  []byte // nil before the first
	header header
	txs    *store.Iterator // the caller's, over 'P'; where the last transaction was read
	nodes  *store.Iterator // the caller's, over 'N'; where the last branch was read
}

func (v *Chains) anchorBlock() anchorBlock {
	return anchorBlock{view: v, txs: v.store.Over(store.PrefixRawTx), nodes: v.store.Over(store.PrefixMerkle)}
}

func (b *anchorBlock) proof(p place) (Proof, error) {
	first := place{p.height, p.number - p.number%TxsPerChunk}
	if b.chunk == nil || first != b.at {
		if err := b.read(first); err != nil {
			return Proof{}, err
		}
	}
	t, err := txInChunk(b.chunk, p.number-first.number)
	if err != nil {
		return Proof{}, err
	}
	proof := Proof{Height: p.height, Header: b.header.header, Index: t.index}
	if proof.Raw, err = readRawTx(b.txs, p); err != nil {
		return Proof{}, err
	}
	proof.Branch, err = readBranch(b.nodes, p.height, t.index, b.header.levels)
	return proof, err
}

func (b *anchorBlock) read(first place) (err error) {
	if b.chunk == nil || first.height != b.at.height {
		if b.header, err = readHeader(b.view.ledger.txn, first.height); err != nil {
			return err
		}
	}
	b.at = first
	b.chunk, err = store.Read(b.view.ledger.txn, txsKey(first))
	return err
}
