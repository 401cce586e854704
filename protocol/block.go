package protocol

import (
	"fmt"
	"iter"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
)

// Block is a serialized block whose form has been checked. It aliases the bytes
// that it was read from, which must not change meanwhile.
type Block struct {
	Header  Header
	Hash    chainhash.Hash // of the header
	TxCount int

	raw     []byte
	firstTx int       // offset of transaction 0
	found   []span    // the transactions that were looked for: carriers, unless keys were
	batons  *BatonSet // that were looked for
}

// span is where one transaction lies in a block.
type span struct {
	index      uint32
	start, end int
}

// Carrier is a transaction that carries an action or an anchor, or spends a baton; or none of
// these, if a walk looked for Payees, or nobody looked (Tx.Carrier).
type Carrier struct {
	Index  uint32 // of the transaction in the block
	TxID   chainhash.Hash
	Raw    Tx      // aliases what it was read from
	Action Action  // of its first output that is one; Kind is 0 if there is none. Nothing of it aliases Raw
	Anchor *Anchor // of its first output that is one; nil if there is none. Nothing of it aliases Raw
	// SpendsBaton says that an input spends one of the batons that were looked out for.
	SpendsBaton bool
	Spends      wire.OutPoint // the output that input 0 spends; null in a coinbase
	Unlock      []byte        // scriptSig of input 0; aliases Raw
}

// RootCheck says of which blocks a Walk compares the transactions with the merkle
// root in the header, as CheckMerkleRoot does. That takes a double SHA-256 of each
// transaction, and ten times as long as the walk.
type RootCheck uint8

const (
	RootNever   RootCheck = iota
	RootIfFound           // of those in which there is a carrier
	RootAlways
)

// Walk is a way of reading blocks. The zero value is that of ReadBlock. It is not
// changed by reading, which may be done concurrently.
type Walk struct {
	Root   RootCheck
	Batons *BatonSet // a transaction that spends one of them is a carrier too
	// Hashed, if not nil, is given transactions with their txids, some hundred at a time
	// in the order of the block, where all of it is hashed. It may keep neither.
	Hashed func(txs [][]byte, txids []chainhash.Hash)
	// Payees are keys: a transaction that pays one of them, without tokens, is found as
	// well, though it may carry nothing. Nil for none.
	Payees *KeyFilter

	keys *KeySet // if not nil, transactions that pay one of them are looked for, in place of carriers
}

// ReadBlock checks the form of a serialized block, to its last byte, and finds the
// transactions that carry an action or an anchor. The error wraps ErrMalformed and
// says what is wrong, where: truncated (which is also what a count or length
// becomes that does not fit into the bytes left), a CompactSize that is not the
// shortest, no transactions, bytes after the last one. Nothing is known about the
// block beyond its form; see CheckMerkleRoot.
//
// It allocates nothing per transaction, other than 24 bytes for one that is found.
// Sizes are ints, a block may have any size that fits into memory. (bchd's wire is
// not for bytes from a stranger: as of v0.22.2 it panics on a token prefix that
// announces a long enough commitment, and gets the txid wrong where a token prefix
// is invalid.)
func ReadBlock(raw []byte) (*Block, error) {
	return new(Walk).Read(raw)
}

// Read is ReadBlock, finds also the transactions that spend one of w.Batons, and
// checks the merkle root of the blocks that w.Root names. The error of that check
// wraps ErrMerkleRoot. Transactions are hashed while they are in the processor's
// cache, so that a large block has to come from memory only once.
func (w *Walk) Read(raw []byte) (*Block, error) {
	b := &Block{raw: raw, batons: w.Batons}
	header, err := ParseHeader(raw)
	if err != nil {
		return nil, err
	}
	b.Header, b.Hash = header, header.Hash

	count, off, f := compactSize(raw, HeaderSize)
	if f != wellFormed {
		return nil, f.at(off, len(raw), fmt.Sprintf("block %v, transaction count", b.Hash))
	}
	if count == 0 {
		return nil, fmt.Errorf("%w: block %v has no transactions", ErrMalformed, b.Hash)
	}
	b.firstTx = off
	merkle := merkleHasher{hashed: w.Hashed}
	hashing, keys, batons, payees := w.Root == RootAlways, w.keys, w.Batons, w.Payees
	for i := range count {
		start := off
		var hit bool
		if off, hit, f = scanTx(raw, start, keys, batons, payees); f != wellFormed {
			return nil, f.at(off, len(raw), fmt.Sprintf("block %v, transaction %d of %d", b.Hash, i, count))
		}
		if hashing {
			merkle.add(raw[start:off])
		}
		if !hit {
			continue
		}
		b.found = append(b.found, span{index: uint32(i), start: start, end: off})
		if !hashing && w.Root == RootIfFound {
			hashing = true
			b.TxCount = int(i) + 1
			for _, tx := range b.Txs() { // up to here
				merkle.add(tx)
			}
		}
	}
	b.TxCount = int(count)
	if off != len(raw) {
		return nil, fmt.Errorf("%w: block %v ends at byte %d, %d bytes follow", ErrMalformed, b.Hash, off, len(raw)-off)
	}
	if hashing {
		if err := merkle.check(b); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// Txs iterates over all transactions, with their index.
func (b *Block) Txs() iter.Seq2[uint32, Tx] {
	return func(yield func(uint32, Tx) bool) {
		off := b.firstTx
		for i := range b.TxCount {
			end, _, _ := scanTx(b.raw, off, nil, nil, nil)
			if !yield(uint32(i), b.raw[off:end:end]) {
				return
			}
			off = end
		}
	}
}

// HasCoinbase reports whether the first transaction is a coinbase: whether it has one
// input, which spends nothing. Unless it is, a merkle root that matches does not show
// that these are the block's transactions: two hashes of the tree can have the form of
// a transaction, so that a level of it passes for them, and a miner finds such hashes
// with little work. But they cannot have the form of a coinbase.
func (b *Block) HasCoinbase() bool {
	for _, tx := range b.Txs() {
		inputs, _, _ := compactSize(tx, versionSize)
		spends, _ := tx.Input0()
		return inputs == 1 && spends == wire.OutPoint{Index: wire.MaxPrevOutIndex}
	}
	return false
}

// Carriers iterates over the transactions that were found, in the order of the
// block. Each is decoded, and its txid computed, when its turn comes.
func (b *Block) Carriers() iter.Seq[Carrier] {
	return func(yield func(Carrier) bool) {
		for _, s := range b.found {
			c := Tx(b.raw[s.start:s.end:s.end]).Carrier(b.batons)
			c.Index = s.index
			if !yield(c) {
				return
			}
		}
	}
}
