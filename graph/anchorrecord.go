package graph

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/dgraph-io/badger/v4"
	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
)

// anchorsPerChunk is how many transactions of a block share a value.
const anchorsPerChunk = 16

// storedAnchorTx is an anchor, or a transaction that broke chains of anchors, one
// of those under 'A'.
type storedAnchorTx struct {
	index    uint32 // in the block
	txid     chainhash.Hash
	isAnchor bool // else the rest is zero

	record    protocol.Anchor
	hasAuthor bool
	author    protocol.KeyHash
	chain     chainhash.Hash // txid of the genesis anchor
	number    uint32         // in the chain
}

// Bits of a storedAnchorTx's first byte.
const (
	flagAnchor       = 1 << 0
	flagAnchorAuthor = 1 << 1
)

// appendTo appends the transaction to a chunk: its length, and itself.
func (t *storedAnchorTx) appendTo(chunk []byte) []byte {
	var space [256]byte
	b := append(space[:0], 0)
	b = binary.BigEndian.AppendUint32(b, t.index)
	b = append(b, t.txid[:]...)
	if t.isAnchor {
		b[0] |= flagAnchor
		b = appendAnchor(b, &t.record)
		if t.hasAuthor {
			b[0] |= flagAnchorAuthor
			b = append(b, t.author[:]...)
		}
		b = append(b, t.chain[:]...)
		b = binary.BigEndian.AppendUint32(b, t.number)
	}
	return append(binary.AppendUvarint(chunk, uint64(len(b))), b...)
}

func decodeAnchorTx(b []byte) (storedAnchorTx, error) {
	d := decoder{rest: b}
	flags := d.byte()
	t := storedAnchorTx{index: d.uint32(), txid: d.hash()}
	if t.isAnchor = flags&flagAnchor != 0; t.isAnchor {
		t.record = d.anchor()
		if t.hasAuthor = flags&flagAnchorAuthor != 0; t.hasAuthor {
			t.author = d.key()
		}
		t.chain, t.number = d.hash(), d.uint32()
	}
	return t, d.finish("stored anchor")
}

func appendAnchor(b []byte, a *protocol.Anchor) []byte {
	b = append(append(b, byte(len(a.Domain))), a.Domain...)
	b = binary.BigEndian.AppendUint64(b, a.Position)
	return append(append(b, a.Head[:]...), a.Root[:]...)
}

func (d *decoder) anchor() (a protocol.Anchor) {
	a.Domain = string(d.take(int(d.byte())))
	a.Position, a.Head, a.Root = d.uint64(), d.hash(), d.hash()
	return a
}

// readAnchorTxs reads those of the block at height, in the order in which they
// were applied.
func readAnchorTxs(txn *badger.Txn, height uint32) (txs []storedAnchorTx, err error) {
	for n := uint32(0); ; n++ {
		chunk, err := read(txn, chunkKey(prefixAnchorTxs, height, n))
		if err != nil || chunk == nil {
			return txs, err
		}
		some, err := decodeAnchorTxs(chunk)
		if err != nil {
			return nil, err
		}
		txs = append(txs, some...)
	}
}

func decodeAnchorTxs(chunk []byte) (txs []storedAnchorTx, err error) {
	d := decoder{rest: chunk}
	for len(d.rest) > 0 {
		t, err := decodeAnchorTx(d.take(d.length()))
		if err != nil {
			return nil, err
		}
		txs = append(txs, t)
	}
	return txs, d.finish("chunk of anchors")
}

// anchorPlace is where a transaction is found under 'A' and 'P'.
type anchorPlace struct {
	height uint32
	number uint32 // in the order in which the block's were applied
}

func (p anchorPlace) appendTo(b []byte) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, p.height), p.number)
}

func decodeAnchorPlace(b []byte) (anchorPlace, error) {
	d := decoder{rest: b}
	p := anchorPlace{d.uint32(), d.uint32()}
	return p, d.finish("place of an anchor")
}

// anchorTxsKey is the key of the chunk that holds the transaction at a place.
func anchorTxsKey(p anchorPlace) []byte {
	return chunkKey(prefixAnchorTxs, p.height, p.number/anchorsPerChunk)
}

// readAnchorTx reads the transaction at a place.
func readAnchorTx(txn *badger.Txn, p anchorPlace) (storedAnchorTx, error) {
	chunk, err := read(txn, anchorTxsKey(p))
	if err != nil {
		return storedAnchorTx{}, err
	}
	return anchorTxInChunk(chunk, p.number%anchorsPerChunk)
}

func anchorTxInChunk(chunk []byte, n uint32) (storedAnchorTx, error) {
	d := decoder{rest: chunk}
	for range n {
		d.take(d.length())
	}
	return decodeAnchorTx(d.take(d.length()))
}

// storedBreak is a chain that a transaction broke, one of those under 'B'.
type storedBreak struct {
	tx    uint32 // anchorPlace.number of the transaction
	chain chainhash.Hash
	how   protocol.Break
}

func (o *storedBreak) appendTo(b []byte) []byte {
	b = append(binary.BigEndian.AppendUint32(b, o.tx), o.chain[:]...)
	return append(b, byte(o.how))
}

// storedBreakSize is how many bytes a storedBreak has.
const storedBreakSize = 4 + chainhash.HashSize + 1

// breaksBy reads the breaks by the transaction of a number, from a reader of a block's that has
// come to them.
func (r *chunkReader) breaksBy(tx uint32) (breaks []storedBreak, err error) {
	for {
		left, err := r.fill(storedBreakSize)
		if err != nil || !left {
			return breaks, err
		}
		next := decoder{rest: r.rest}
		if next.uint32() != tx {
			return breaks, nil
		}
		breaks = append(breaks, storedBreak{tx: r.uint32(), chain: r.hash(), how: protocol.Break(r.byte())})
		if r.short {
			return nil, r.finish("list of broken chains")
		}
	}
}

// chainRecord is one version of a chain of anchors, the value under 'c'.
type chainRecord struct {
	anchors uint32          // how many there are
	last    chainhash.Hash  // the last of them
	anchor  protocol.Anchor // its record
	how     protocol.Break  // the chain was broken; else the next two are zero
	by      chainhash.Hash  // tx that broke it
	at      uint32          // height of by
}

func (r *chainRecord) appendTo(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, r.anchors)
	b = append(b, r.last[:]...)
	b = append(appendAnchor(b, &r.anchor), byte(r.how))
	if r.how != protocol.Unbroken {
		b = append(b, r.by[:]...)
		b = binary.BigEndian.AppendUint32(b, r.at)
	}
	return b
}

func decodeChainRecord(b []byte) (r chainRecord, err error) {
	d := decoder{rest: b}
	r.anchors, r.last, r.anchor = d.uint32(), d.hash(), d.anchor()
	if r.how = protocol.Break(d.byte()); r.how != protocol.Unbroken {
		r.by, r.at = d.hash(), d.uint32()
	}
	if err := d.finish("chain of anchors"); err != nil {
		return r, err
	}
	if r.anchors == 0 {
		return r, fmt.Errorf("%w: a chain of no anchors", ErrDamaged)
	}
	return r, nil
}

// readRawTx reads the serialized transaction at a place. It moves the iterator, which is
// over 'P'.
func readRawTx(it *badger.Iterator, p anchorPlace) (raw protocol.Tx, err error) {
	for n := uint32(0); len(raw) == int(n)*chunkSize; n++ { // a shorter chunk is the last
		key := appendRawTxKey(make([]byte, 0, 13), p, n)
		if seek(it, key); !it.Valid() || !bytes.Equal(it.Item().Key(), key) {
			break
		}
		if err := it.Item().Value(func(chunk []byte) error {
			raw = append(raw, chunk...)
			return nil
		}); err != nil {
			return nil, fmt.Errorf("reading the database: %w", err)
		}
	}
	if raw == nil {
		return nil, fmt.Errorf("%w: block %d lacks transaction %d of its anchors", ErrDamaged, p.height, p.number)
	}
	return raw, nil
}

// anchorHeader is what is stored of a block that has anchors, the value under 'H'.
type anchorHeader struct {
	header [protocol.HeaderSize]byte
	levels int // of its merkle tree, below the root
}

func (h *anchorHeader) encode() []byte {
	return append(append(make([]byte, 0, len(h.header)+1), h.header[:]...), byte(h.levels))
}

// readAnchorHeader reads that of the block at height.
func readAnchorHeader(txn *badger.Txn, height uint32) (h anchorHeader, err error) {
	value, err := read(txn, heightKey(prefixHeader, height))
	if err != nil {
		return h, err
	}
	d := decoder{rest: value}
	copy(h.header[:], d.take(len(h.header)))
	if h.levels = int(d.byte()); h.levels > protocol.MaxBranch {
		return h, fmt.Errorf("%w: the merkle tree of block %d has %d levels, there are at most %d", ErrDamaged, height, h.levels, protocol.MaxBranch)
	}
	return h, d.finish("header of a block that has anchors")
}
