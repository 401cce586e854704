package snapshot

import (
	"encoding/binary"
	"errors"
	"iter"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
)

// ErrRefused says that a snapshot is not what it should be: damaged, made up, or of another
// state than was asked for. Nothing of it may be used. Get it again, or another.
var ErrRefused = errors.New("snapshot refused")

// magic begins every snapshot: its id, "KTSNAP", and its version.
const magic = "KTSNAP\x00\x01"

const (
	sumSize = 32 // SHA-256 of all that stands before it

	maxNetwork = 32       // bytes of a network's name
	maxProof   = 1 << 20  // bytes of a proof of the state log
	maxWindow  = 8 << 20  // bytes that what is packed may refer back
	maxScript  = 10 << 10 // bytes of an output's script, with its token prefix; consensus lets longer ones be spent by nobody
)

// What a snapshot tells of a transaction.
const (
	flagActed   = 1 << iota // the key that its scriptSig names is its author
	flagAnchors             // it is for the chains of anchors
	flagSpent               // the outputs that the author's signature covers follow
	flagsKnown  = flagActed | flagAnchors | flagSpent
)

// Head is what a snapshot says of itself. It is only its word.
type Head struct {
	Network string
	Start   uint32              // height of the first block
	Before  chainhash.Hash      // the block before that; zero if there is none
	State   protocol.StateEntry // of the last block; its StateRoot is zero if the maker had none
	Proof   []byte              // that State is in a state log, as a C2SP tlog-proof; nil if there is none
}

// Block is one block of a snapshot.
type Block struct {
	Height    uint32
	Header    protocol.Header
	Txs       []Tx                       // those that matter, in order of index
	Merkle    protocol.PartialMerkleTree // shows that they are in the block
	StateHash [32]byte                   // after the block
}

// Tx is a transaction that carries an action or an anchor, or has broken a chain of anchors.
type Tx struct {
	Index   uint32 // in the block
	Acted   bool   // the key that its scriptSig names is its author
	Anchors bool   // it carries an anchor, or has broken a chain of them
	Raw     protocol.Tx
	Spent   []protocol.Output // those that the author's signature covers; nil: the snapshot has them not
}

// indices are those of the transactions.
func (b *Block) indices() []uint32 {
	indices := make([]uint32, len(b.Txs))
	for i := range b.Txs {
		indices[i] = b.Txs[i].Index
	}
	return indices
}

// each iterates over the transactions, with their index.
func (b *Block) each() iter.Seq2[uint32, protocol.Tx] {
	return func(yield func(uint32, protocol.Tx) bool) {
		for i := range b.Txs {
			if !yield(b.Txs[i].Index, b.Txs[i].Raw) {
				return
			}
		}
	}
}

// serialized returns the header as its hash is made of it.
func serialized(h *protocol.Header) (b [protocol.HeaderSize]byte) {
	binary.LittleEndian.PutUint32(b[:], uint32(h.Version))
	copy(b[4:], h.PrevBlock[:])
	copy(b[36:], h.MerkleRoot[:])
	binary.LittleEndian.PutUint32(b[68:], h.Time)
	binary.LittleEndian.PutUint32(b[72:], h.Bits)
	binary.LittleEndian.PutUint32(b[76:], h.Nonce)
	return b
}
