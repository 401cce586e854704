package anchors

import (
	"bytes"
	"context"
	"fmt"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// Status describes an anchor.
type Status struct {
	protocol.Anchor
	TxID   chainhash.Hash
	Height uint32
	Index  uint32            // of the tx in the block
	Author *protocol.KeyHash // nil: the tx has none
	// Identity is the author's as of the anchor's block; zero if it was in none.
	Identity Identity

	Chain  chainhash.Hash // txid of the genesis anchor
	Number uint32         // in the chain; 0 is the genesis anchor
}

// Chain describes a chain of anchors as of a view.
type Chain struct {
	ID      chainhash.Hash // txid of the genesis anchor
	Domain  string
	Anchors uint32 // how many there are
	Genesis Status
	Last    Status

	Break    protocol.Break // Unbroken: output 0 of Last is the baton
	BrokenBy chainhash.Hash // the tx that broke the chain; zero if Unbroken
	BrokenAt uint32         // its height
}

// Proof shows that a transaction is in a block.
type Proof struct {
	Height uint32
	Header [protocol.HeaderSize]byte // of the block
	Index  uint32                    // of the tx in the block
	Branch []chainhash.Hash          // protocol.CheckMerkleBranch
	Raw    protocol.Tx
}

// Chains answers questions about anchors and their chains, as of one block. Every answer of one
// view is about the same state. It is not safe for concurrent use.
type Chains struct {
	store  *store.Iterators
	ledger ledger
	height uint32
}

// NewChains returns a view as of a height of what iterators read. They are the
// caller's to close, when the view is not asked any more.
func NewChains(it *store.Iterators, height uint32) *Chains {
	return &Chains{it, ledger{it.Txn(), height + 1}, height}
}

// AnchorChain describes a chain of anchors by the txid of its genesis anchor.
// ErrNotFound if there is none as of the view. It reads 5 records.
func (v *Chains) AnchorChain(id chainhash.Hash) (Chain, error) {
	r, err := v.chain(id)
	if err != nil {
		return Chain{}, err
	}
	c := Chain{ID: id, Domain: r.anchor.Domain, Anchors: r.anchors, Break: r.how, BrokenBy: r.by, BrokenAt: r.at}
	if c.Genesis, err = v.Anchor(id); err != nil || r.last == id {
		c.Last = c.Genesis
		return c, err
	}
	c.Last, err = v.Anchor(r.last)
	return c, err
}

// ChainBreak tells how a chain of anchors was broken, and by which transaction; Unbroken if it was not. ErrNotFound
// if there is none as of the view. It reads a record.
func (v *Chains) ChainBreak(id chainhash.Hash) (how protocol.Break, by chainhash.Hash, err error) {
	r, err := v.chain(id)
	return r.how, r.by, err
}

func (v *Chains) chain(id chainhash.Hash) (chainRecord, error) {
	value, err := v.store.Version(store.ChainStem(id), v.height)
	if err == nil && value == nil {
		err = fmt.Errorf("chain of anchors %v as of height %d: %w", id, v.height, store.ErrNotFound)
	}
	if err != nil {
		return chainRecord{}, err
	}
	return decodeChainRecord(value)
}

// AnchorChainsOf lists up to limit chains of anchors of a domain, in order of
// their genesis anchors' positions, after the cursor; a nil cursor starts with the
// first. next is nil at the end. Anyone can begin a chain for any domain. It reads 6 records for each
// chain of the page, whatever else there is.
func (v *Chains) AnchorChainsOf(ctx context.Context, domain string, after *store.Position, limit int) (chains []Chain, next *store.Position, err error) {
	next, err = v.eachOfDomain(ctx, store.PrefixDomainChain, domain, after, limit, func(value []byte) error {
		if len(value) != chainhash.HashSize {
			return fmt.Errorf("%w: the name of a chain of anchors has the wrong length", store.ErrDamaged)
		}
		c, err := v.AnchorChain(chainhash.Hash(value))
		chains = append(chains, c)
		return err
	})
	return chains, next, err
}

// AnchorsOf lists up to limit anchors of a domain, of all its chains, in order of
// position, after the cursor; a nil cursor starts with the first. next is nil at
// the end. It reads 2 records for each anchor of the page.
func (v *Chains) AnchorsOf(ctx context.Context, domain string, after *store.Position, limit int) (anchors []Status, next *store.Position, err error) {
	next, err = v.eachOfDomain(ctx, store.PrefixDomainAnchor, domain, after, limit, func(value []byte) error {
		p, err := decodePlace(value)
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
func (v *Chains) eachOfDomain(ctx context.Context, prefix byte, domain string, after *store.Position, limit int, visit func(value []byte) error) (next *store.Position, err error) {
	if len(domain) > protocol.MaxAnchorDomain {
		return nil, nil
	}
	stem := store.AppendDomainStem(nil, prefix, domain)
	it := store.NewIterator(v.ledger.txn, stem)
	defer it.Close()
	from := stem
	if after != nil {
		from = append(after.Append(store.AppendDomainStem(nil, prefix, domain)), 0)
	}
	var last store.Position
	visited := 0
	for it.Seek(from); it.Valid(); it.Next() {
		d := store.Decoder{Rest: it.Item().Key()[len(stem):]}
		at := store.Position{Height: d.Uint32(), Index: d.Uint32()}
		if err := d.Finish("key of an anchor"); err != nil {
			return nil, err
		}
		if at.Height > v.height {
			return nil, nil
		}
		if visited == limit {
			return &last, nil
		}
		value, err := store.Value(it.Item())
		if err != nil {
			return nil, err
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
// the given number on. Fewer than limit: there are no more as of the view. It reads 2 records for each.
func (v *Chains) Anchors(ctx context.Context, chain chainhash.Hash, from uint32, limit int) (anchors []Status, err error) {
	stem := store.AppendChainAnchorKey(nil, chain, 0)[:store.ChainStemSize]
	it := store.NewIterator(v.ledger.txn, stem)
	defer it.Close()
	for it.Seek(store.AppendChainAnchorKey(nil, chain, from)); it.Valid() && len(anchors) < limit; it.Next() {
		value, err := store.Value(it.Item())
		if err != nil {
			return nil, err
		}
		p, err := decodePlace(value)
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
// confirmed as of the view. It reads 2 records.
func (v *Chains) Anchor(txid chainhash.Hash) (Status, error) {
	p, err := v.placeOf(txid)
	if err != nil {
		return Status{}, err
	}
	a, err := v.anchorAt(p)
	if err == nil && a.Chain == (chainhash.Hash{}) {
		err = fmt.Errorf("anchor %v: the transaction carries none: %w", txid, store.ErrNotFound)
	}
	return a, err
}

// AnchorProof returns what shows that an anchor, or a transaction that broke a
// chain of anchors, is in a block. ErrNotFound if none of that txid was confirmed
// as of the view. It reads 3 records, the transaction in chunks of 64 kB, and at most 32 chunks of merkle nodes.
func (v *Chains) AnchorProof(txid chainhash.Hash) (Proof, error) {
	p, err := v.placeOf(txid)
	if err != nil {
		return Proof{}, err
	}
	block := v.anchorBlock()
	var proof Proof
	err = block.proof(p, &proof)
	return proof, err
}

func (v *Chains) placeOf(txid chainhash.Hash) (place, error) {
	p, ok, err := v.ledger.placeOf(txid)
	if err == nil && !ok {
		err = fmt.Errorf("anchor %v as of height %d: %w", txid, v.height, store.ErrNotFound)
	}
	return p, err
}

func (v *Chains) anchorAt(p place) (Status, error) {
	t, err := v.tx(p)
	if err != nil {
		return Status{}, err
	}
	a := Status{Anchor: t.record, TxID: t.txid, Height: p.height, Index: t.index, Identity: t.identity, Chain: t.chain, Number: t.number}
	if t.hasAuthor {
		a.Author = &t.author
	}
	return a, nil
}

// tx reads the transaction at a place. Those of a page are mostly beside each other.
func (v *Chains) tx(p place) (t storedTx, err error) {
	it, key := v.store.Over(store.PrefixAnchorTxs), txsKey(p)
	if store.Seek(it, key); !it.Valid() || !bytes.Equal(it.Item().Key(), key) {
		return t, fmt.Errorf("%w: block %d lacks transaction %d of its anchors", store.ErrDamaged, p.height, p.number)
	}
	err = store.Visit(it.Item(), func(chunk []byte) (err error) {
		t, err = txInChunk(chunk, p.number%TxsPerChunk)
		return err
	})
	return t, err
}
