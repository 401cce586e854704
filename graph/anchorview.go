package graph

import (
	"context"
	"fmt"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
)

// AnchorStatus describes an anchor.
type AnchorStatus struct {
	protocol.Anchor
	TxID   chainhash.Hash
	Height uint32
	Index  uint32            // of the tx in the block
	Author *protocol.KeyHash // nil: the tx has none

	Chain  chainhash.Hash // txid of the genesis anchor
	Number uint32         // in the chain; 0 is the genesis anchor
}

// AnchorChain describes a chain of anchors as of a view.
type AnchorChain struct {
	ID      chainhash.Hash // txid of the genesis anchor
	Domain  string
	Anchors uint32 // how many there are
	Genesis AnchorStatus
	Last    AnchorStatus

	Break    protocol.Break // Unbroken: output 0 of Last is the baton
	BrokenBy chainhash.Hash // the tx that broke the chain; zero if Unbroken
	BrokenAt uint32         // its height
}

// AnchorProof shows that a transaction is in a block.
type AnchorProof struct {
	Height uint32
	Header [protocol.HeaderSize]byte // of the block
	Index  uint32                    // of the tx in the block
	Branch []chainhash.Hash          // protocol.CheckMerkleBranch
	Raw    protocol.Tx
}

// AnchorChain describes a chain of anchors by the txid of its genesis anchor.
// ErrNotFound if there is none as of the view.
func (v *View) AnchorChain(id chainhash.Hash) (AnchorChain, error) {
	value, err := v.version(chainStem(id))
	if err == nil && value == nil {
		err = fmt.Errorf("chain of anchors %v as of height %d: %w", id, v.height, ErrNotFound)
	}
	if err != nil {
		return AnchorChain{}, err
	}
	r, err := decodeChainRecord(value)
	if err != nil {
		return AnchorChain{}, err
	}
	c := AnchorChain{ID: id, Domain: r.anchor.Domain, Anchors: r.anchors, Break: r.how, BrokenBy: r.by, BrokenAt: r.at}
	if c.Genesis, err = v.Anchor(id); err == nil {
		c.Last, err = v.Anchor(r.last)
	}
	return c, err
}

// AnchorChainsOf lists up to limit chains of anchors of a domain, in order of
// their genesis anchors' positions, after the cursor; a nil cursor starts with the
// first. next is nil at the end. Anyone can begin a chain for any domain.
func (v *View) AnchorChainsOf(ctx context.Context, domain string, after *ActionCursor, limit int) (chains []AnchorChain, next *ActionCursor, err error) {
	next, err = v.eachOfDomain(ctx, prefixDomainChain, domain, after, limit, func(value []byte) error {
		if len(value) != chainhash.HashSize {
			return fmt.Errorf("%w: the name of a chain of anchors has the wrong length", ErrDamaged)
		}
		c, err := v.AnchorChain(chainhash.Hash(value))
		chains = append(chains, c)
		return err
	})
	return chains, next, err
}

// AnchorsOf lists up to limit anchors of a domain, of all its chains, in order of
// position, after the cursor; a nil cursor starts with the first. next is nil at
// the end.
func (v *View) AnchorsOf(ctx context.Context, domain string, after *ActionCursor, limit int) (anchors []AnchorStatus, next *ActionCursor, err error) {
	next, err = v.eachOfDomain(ctx, prefixDomainAnchor, domain, after, limit, func(value []byte) error {
		p, err := decodeAnchorPlace(value)
		if err != nil {
			return err
		}
		a, err := v.anchorAt(p)
		anchors = append(anchors, a)
		return err
	})
	return anchors, next, err
}

// eachOfDomain visits up to limit records of a domain that are in order of
// position, and returns where to go on, nil at the end.
func (v *View) eachOfDomain(ctx context.Context, prefix byte, domain string, after *ActionCursor, limit int, visit func(value []byte) error) (next *ActionCursor, err error) {
	if len(domain) > protocol.MaxAnchorDomain {
		return nil, nil
	}
	stem := appendDomainStem(nil, prefix, domain)
	it := newIterator(v.snapshot.txn, stem)
	defer it.Close()
	from := stem
	if after != nil {
		from = append(position{after.Height, after.Index}.append(appendDomainStem(nil, prefix, domain)), 0)
	}
	var last ActionCursor
	visited := 0
	for it.Seek(from); it.Valid(); it.Next() {
		d := decoder{rest: it.Item().Key()[len(stem):]}
		at := ActionCursor{d.uint32(), d.uint32()}
		if err := d.finish("key of an anchor"); err != nil {
			return nil, err
		}
		if at.Height > v.height {
			return nil, nil
		}
		if visited == limit {
			return &last, nil
		}
		value, err := it.Item().ValueCopy(nil)
		if err != nil {
			return nil, fmt.Errorf("reading the database: %w", err)
		}
		if err := visit(value); err != nil {
			return nil, err
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		visited++
		last = at
	}
	return nil, nil
}

// Anchors lists up to limit anchors of a chain, in its order, from the one with
// the given number on. Fewer than limit: there are no more as of the view.
func (v *View) Anchors(ctx context.Context, chain chainhash.Hash, from uint32, limit int) (anchors []AnchorStatus, err error) {
	stem := appendChainAnchorKey(nil, chain, 0)[:chainStemSize]
	it := newIterator(v.snapshot.txn, stem)
	defer it.Close()
	for it.Seek(appendChainAnchorKey(nil, chain, from)); it.Valid() && len(anchors) < limit; it.Next() {
		value, err := it.Item().ValueCopy(nil)
		if err != nil {
			return nil, fmt.Errorf("reading the database: %w", err)
		}
		p, err := decodeAnchorPlace(value)
		if err != nil {
			return nil, err
		}
		if p.height > v.height {
			break
		}
		a, err := v.anchorAt(p)
		if err != nil {
			return nil, err
		}
		anchors = append(anchors, a)
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return anchors, nil
}

// Anchor describes an anchor by its txid. ErrNotFound if none of that txid was
// confirmed as of the view.
func (v *View) Anchor(txid chainhash.Hash) (AnchorStatus, error) {
	p, err := v.placeOf(txid)
	if err != nil {
		return AnchorStatus{}, err
	}
	a, err := v.anchorAt(p)
	if err == nil && a.Chain == (chainhash.Hash{}) {
		err = fmt.Errorf("anchor %v: the transaction carries none: %w", txid, ErrNotFound)
	}
	return a, err
}

// AnchorProof returns what shows that an anchor, or a transaction that broke a
// chain of anchors, is in a block. ErrNotFound if none of that txid was confirmed
// as of the view.
func (v *View) AnchorProof(txid chainhash.Hash) (AnchorProof, error) {
	p, err := v.placeOf(txid)
	if err != nil {
		return AnchorProof{}, err
	}
	block := v.anchorBlock()
	return block.proof(p)
}

func (v *View) placeOf(txid chainhash.Hash) (anchorPlace, error) {
	p, ok, err := v.ledger.placeOf(txid)
	if err == nil && (!ok || p.height > v.height) {
		err = fmt.Errorf("anchor %v as of height %d: %w", txid, v.height, ErrNotFound)
	}
	return p, err
}

func (v *View) anchorAt(p anchorPlace) (AnchorStatus, error) {
	t, err := readAnchorTx(v.snapshot.txn, p)
	if err != nil {
		return AnchorStatus{}, err
	}
	a := AnchorStatus{Anchor: t.record, TxID: t.txid, Height: p.height, Index: t.index, Chain: t.chain, Number: t.number}
	if t.hasAuthor {
		a.Author = &t.author
	}
	return a, nil
}
