package anchors

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// TxsPerChunk is how many transactions of a block share a value.
const TxsPerChunk = 16

// storedTx is an anchor, or a transaction that broke chains of anchors, one
// of those under 'A'.
type storedTx struct {
	index    uint32 // in the block
	txid     chainhash.Hash
	isAnchor bool // else the rest is zero

	record    protocol.Anchor
	hasAuthor bool
	author    protocol.KeyHash
	identity  Identity       // of the author, as of the block; zero if it is in none
	chain     chainhash.Hash // txid of the genesis anchor
	number    uint32         // in the chain
}

// Bits of a storedTx's first byte.
const (
	flagAnchor       = 1 << 0
	flagAnchorAuthor = 1 << 1
	flagIdentity     = 1 << 2
)

// appendTo appends the transaction to a chunk: its length, and itself.
func (t *storedTx) appendTo(chunk []byte) []byte {
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
		if t.identity != (Identity{}) {
			b[0] |= flagIdentity
			b = append(append(b, t.identity.ID[:]...), t.identity.Root[:]...)
		}
		b = append(b, t.chain[:]...)
		b = binary.BigEndian.AppendUint32(b, t.number)
	}
	return append(binary.AppendUvarint(chunk, uint64(len(b))), b...)
}

func decodeTx(b []byte) (storedTx, error) {
	d := store.Decoder{Rest: b}
	flags := d.Byte()
	t := storedTx{index: d.Uint32(), txid: d.Hash()}
	if t.isAnchor = flags&flagAnchor != 0; t.isAnchor {
		t.record = readAnchor(&d)
		if t.hasAuthor = flags&flagAnchorAuthor != 0; t.hasAuthor {
			t.author = d.Key()
		}
		if flags&flagIdentity != 0 {
			t.identity = Identity{d.Hash(), d.Key()}
		}
		t.chain, t.number = d.Hash(), d.Uint32()
	}
	return t, d.Finish("stored anchor")
}

func appendAnchor(b []byte, a *protocol.Anchor) []byte {
	b = append(append(b, byte(len(a.Domain))), a.Domain...)
	b = binary.BigEndian.AppendUint64(b, a.Position)
	return append(append(b, a.Head[:]...), a.Root[:]...)
}

func readAnchor(d *store.Decoder) (a protocol.Anchor) {
	a.Domain = string(d.Take(int(d.Byte())))
	a.Position, a.Head, a.Root = d.Uint64(), d.Hash(), d.Hash()
	return a
}

// readTxs reads those of the block at height, in the order in which they
// were applied.
func readTxs(txn *store.Txn, height uint32) (txs []storedTx, err error) {
	err = store.EachChunk(txn, store.PrefixAnchorTxs, height, func(_ uint32, chunk []byte) error {
		some, err := decodeTxs(chunk)
		txs = append(txs, some...)
		return err
	})
	return txs, err
}

func decodeTxs(chunk []byte) (txs []storedTx, err error) {
	d := store.Decoder{Rest: chunk}
	for len(d.Rest) > 0 {
		t, err := decodeTx(d.Take(d.Length()))
		if err != nil {
			return nil, err
		}
		txs = append(txs, t)
	}
	return txs, d.Finish("chunk of anchors")
}

// place is where a transaction is found under 'A' and 'P'.
type place struct {
	height uint32
	number uint32 // in the order in which the block's were applied
}

func (p place) appendTo(b []byte) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, p.height), p.number)
}

func decodePlace(b []byte) (place, error) {
	d := store.Decoder{Rest: b}
	p := place{d.Uint32(), d.Uint32()}
	return p, d.Finish("place of an anchor")
}

// txsKey is the key of the chunk that holds the transaction at a place.
func txsKey(p place) []byte {
	return store.ChunkKey(store.PrefixAnchorTxs, p.height, p.number/TxsPerChunk)
}

// readTx reads the transaction at a place.
func readTx(txn *store.Txn, p place) (storedTx, error) {
	chunk, err := store.Read(txn, txsKey(p))
	if err != nil {
		return storedTx{}, err
	}
	return txInChunk(chunk, p.number%TxsPerChunk)
}

func txInChunk(chunk []byte, n uint32) (storedTx, error) {
	d := store.Decoder{Rest: chunk}
	for range n {
		d.Take(d.Length())
	}
	return decodeTx(d.Take(d.Length()))
}

// storedBreak is a chain that a transaction broke, one of those under 'B'.
type storedBreak struct {
	tx    uint32 // place.number of the transaction
	chain chainhash.Hash
	how   protocol.Break
}

func (o *storedBreak) appendTo(b []byte) []byte {
	b = append(binary.BigEndian.AppendUint32(b, o.tx), o.chain[:]...)
	return append(b, byte(o.how))
}

// storedBreakSize is how many bytes a storedBreak has.
const storedBreakSize = 4 + chainhash.HashSize + 1

func decodeBreak(b []byte) (storedBreak, error) {
	d := store.Decoder{Rest: b}
	o := storedBreak{d.Uint32(), d.Hash(), protocol.Break(d.Byte())}
	return o, d.Finish("break of a chain of anchors")
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
	d := store.Decoder{Rest: b}
	r.anchors, r.last, r.anchor = d.Uint32(), d.Hash(), readAnchor(&d)
	if r.how = protocol.Break(d.Byte()); r.how != protocol.Unbroken {
		r.by, r.at = d.Hash(), d.Uint32()
	}
	if err := d.Finish("chain of anchors"); err != nil {
		return r, err
	}
	if r.anchors == 0 {
		return r, fmt.Errorf("%w: a chain of no anchors", store.ErrDamaged)
	}
	return r, nil
}

// readRawTx appends the serialized transaction at a place to nothing, whose memory it uses. It moves the
// iterator, which is over 'P'.
func readRawTx(it *store.Iterator, p place, raw protocol.Tx) (protocol.Tx, error) {
	for n := uint32(0); len(raw) == int(n)*store.ChunkSize; n++ { // a shorter chunk is the last
		key := store.AppendRawTxKey(make([]byte, 0, 13), p.height, p.number, n)
		if store.Seek(it, key); !it.Valid() || !bytes.Equal(it.Item().Key(), key) {
			break
		}
		if err := store.Visit(it.Item(), func(chunk []byte) error {
			raw = append(raw, chunk...)
			return nil
		}); err != nil {
			return nil, err
		}
	}
	if len(raw) == 0 {
		return nil, fmt.Errorf("%w: block %d lacks transaction %d of its anchors", store.ErrDamaged, p.height, p.number)
	}
	return raw, nil
}

// header is what is stored of a block that has anchors, the value under 'H'.
type header struct {
	header [protocol.HeaderSize]byte
	levels int // of its merkle tree, below the root
}

func (h *header) encode() []byte {
	return append(append(make([]byte, 0, len(h.header)+1), h.header[:]...), byte(h.levels))
}

// readHeader reads that of the block at height.
func readHeader(txn *store.Txn, height uint32) (h header, err error) {
	value, err := store.Read(txn, store.HeightKey(store.PrefixHeader, height))
	if err != nil {
		return h, err
	}
	d := store.Decoder{Rest: value}
	copy(h.header[:], d.Take(len(h.header)))
	if h.levels = int(d.Byte()); h.levels > protocol.MaxBranch {
		return h, fmt.Errorf("%w: the merkle tree of block %d has %d levels, there are at most %d", store.ErrDamaged, height, h.levels, protocol.MaxBranch)
	}
	return h, d.Finish("header of a block that has anchors")
}
