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
	firstTx int    // offset of transaction 0
	found   []span // the transactions that were looked for: carriers, of ReadBlock
}

// span is where one transaction lies in a block.
type span struct {
	index      uint32
	start, end int
}

// Carrier is a transaction of a block that carries an action.
type Carrier struct {
	Index  uint32 // of the transaction in the block
	TxID   chainhash.Hash
	Raw    Tx            // aliases the block
	Action Action        // of its first output that is one; nothing of it aliases the block
	Spends wire.OutPoint // the output that input 0 spends; null in a coinbase
	Unlock []byte        // scriptSig of input 0; aliases the block
}

// ReadBlock checks the form of a serialized block, to its last byte, and finds
// the transactions that carry an action. The error wraps ErrMalformed and says
// what is wrong, where: truncated (which is also what a count or length becomes
// that does not fit into the bytes left), a CompactSize that is not the
// shortest, no transactions, bytes after the last one. Nothing is known about
// the block beyond its form; see CheckMerkleRoot.
//
// It allocates nothing per transaction, other than 24 bytes for one that
// carries an action. Sizes are ints, a block may have any size that fits into
// memory. (bchd's wire is not for bytes from a stranger: as of v0.22.2 it
// panics on a token prefix that announces a long enough commitment, and gets the
// txid wrong where a token prefix is invalid.)
func ReadBlock(raw []byte) (*Block, error) {
	return readBlock(raw, nil)
}

// readBlock is ReadBlock; if keys is not nil, the transactions that are found are
// those that pay one of them.
func readBlock(raw []byte, keys *KeySet) (*Block, error) {
	b := &Block{raw: raw}
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
	for i := range count {
		end, hit, f := scanTx(raw, off, keys)
		if f != wellFormed {
			return nil, f.at(end, len(raw), fmt.Sprintf("block %v, transaction %d of %d", b.Hash, i, count))
		}
		if hit {
			b.found = append(b.found, span{index: uint32(i), start: off, end: end})
		}
		off = end
	}
	if off != len(raw) {
		return nil, fmt.Errorf("%w: block %v ends at byte %d, %d bytes follow", ErrMalformed, b.Hash, off, len(raw)-off)
	}
	b.TxCount = int(count)
	return b, nil
}

// Txs iterates over all transactions, with their index.
func (b *Block) Txs() iter.Seq2[uint32, Tx] {
	return func(yield func(uint32, Tx) bool) {
		off := b.firstTx
		for i := range b.TxCount {
			end, _, _ := scanTx(b.raw, off, nil)
			if !yield(uint32(i), b.raw[off:end:end]) {
				return
			}
			off = end
		}
	}
}

// Carriers iterates over the transactions that carry an action, in the order of
// the block. Each is decoded, and its txid computed, when its turn comes.
func (b *Block) Carriers() iter.Seq[Carrier] {
	return func(yield func(Carrier) bool) {
		for _, s := range b.found {
			if !yield(readCarrier(s.index, b.raw[s.start:s.end:s.end])) {
				return
			}
		}
	}
}

func readCarrier(index uint32, tx Tx) Carrier {
	c := Carrier{Index: index, TxID: tx.TxID(), Raw: tx}
	c.Action, _ = tx.Action()
	c.Spends, c.Unlock = tx.Input0()
	return c
}

// ClaimedAuthor returns the key that the transaction claims to act for (see the
// function of that name). If ok is false it has no author, and the output that
// input 0 spends need not be fetched: a coinbase spends none.
func (c *Carrier) ClaimedAuthor() (key KeyHash, ok bool) {
	if c.Spends == (wire.OutPoint{Index: wire.MaxPrevOutIndex}) {
		return KeyHash{}, false
	}
	return ClaimedAuthor(c.Unlock)
}
