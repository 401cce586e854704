package anchors

import (
	"bytes"
	"context"
	"fmt"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/store"
)

// EachAnchorProof visits what shows that the anchors of a chain are in their blocks, in the chain's order, from
// the one with the given number on, until visit says that it is enough, or there are no more as of the view. What
// visit is given is good until it returns. It reads what AnchorProof does for the first; what neighbours have
// in common it reads once.
func (v *Chains) EachAnchorProof(ctx context.Context, chain chainhash.Hash, from uint32, visit func(*Proof) (more bool, err error)) error {
	stem := store.AppendChainAnchorKey(nil, chain, 0)[:store.ChainStemSize]
	it := store.NewIterator(v.ledger.txn, stem)
	defer it.Close()
	block := v.anchorBlock()
	var proof Proof
	for it.Seek(store.AppendChainAnchorKey(nil, chain, from)); it.Valid(); it.Next() {
		var p place
		if err := store.Visit(it.Item(), func(value []byte) (err error) {
			p, err = decodePlace(value)
			return err
		}); err != nil {
			return err
		}
		if p.height > v.height {
			break
		}
		if err := block.proof(p, &proof); err != nil {
			return err
		}
		more, err := visit(&proof)
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || !more {
			return err
		}
	}
	return nil
}

// anchorBlock reads proofs from one block after the other: what several of a block have
// in common it reads once.
type anchorBlock struct {
	view    *Chains
	at      place    // of the first transaction of the chunk; height is the header's and the branches', too
	indices []uint32 // in the block, of the chunk's transactions; nil before the first
	header  header
	nodes   branches
	chunks  *store.Iterator // the caller's, over 'A'; where the last chunk was read
	raws    *store.Iterator // the caller's, over 'P'; where the last transaction was read
}

func (v *Chains) anchorBlock() anchorBlock {
	return anchorBlock{
		view: v, nodes: branches{nodes: v.store.Over(store.PrefixMerkle)},
		chunks: v.store.Over(store.PrefixAnchorTxs), raws: v.store.Over(store.PrefixRawTx),
	}
}

// proof reads the proof of the transaction at a place into the memory that one has.
func (b *anchorBlock) proof(p place, into *Proof) error {
	first := place{p.height, p.number - p.number%TxsPerChunk}
	if b.indices == nil || first != b.at {
		if err := b.read(first); err != nil {
			return err
		}
	}
	n := int(p.number - first.number)
	if n >= len(b.indices) {
		return fmt.Errorf("%w: block %d lacks transaction %d of its anchors", store.ErrDamaged, p.height, p.number)
	}
	into.Height, into.Header, into.Index = p.height, b.header.header, b.indices[n]
	var err error
	if into.Raw, err = readRawTx(b.raws, p, into.Raw[:0]); err != nil {
		return err
	}
	into.Branch, err = b.nodes.appendTo(into.Branch[:0], into.Index)
	return err
}

// read reads the chunk that begins with the transaction at a place.
func (b *anchorBlock) read(first place) (err error) {
	if b.indices == nil || first.height != b.at.height {
		if b.header, err = readHeader(b.view.ledger.txn, first.height); err != nil {
			return err
		}
		b.nodes = branches{nodes: b.nodes.nodes, height: first.height, levels: b.header.levels}
	}
	b.at, b.indices = first, b.indices[:0]
	key := txsKey(first)
	if store.Seek(b.chunks, key); !b.chunks.Valid() || !bytes.Equal(b.chunks.Item().Key(), key) {
		return nil // it has no transactions
	}
	return store.Visit(b.chunks.Item(), func(chunk []byte) error {
		d := store.Decoder{Rest: chunk}
		for len(d.Rest) > 0 {
			t := store.Decoder{Rest: d.Take(d.Length())} // a storedTx, of which this is all that is wanted
			t.Byte()
			b.indices = append(b.indices, t.Uint32())
			if t.Short() {
				return t.Finish("stored anchor")
			}
		}
		return d.Finish("chunk of anchors")
	})
}
