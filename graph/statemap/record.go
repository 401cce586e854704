package statemap

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
)

// Key is a map key: where a record is found.
type Key [32]byte

// Hash is the hash of a leaf, or of what is below a node.
type Hash [32]byte

// Empty is the hash of a map without records.
func Empty() Hash { return sha256.Sum256(nil) }

// The first byte of a record says what it is of.
const (
	recordOfKey = 1
	recordOfID  = 2
)

// MaxRecord is the size of the largest record, in bytes.
const MaxRecord = 1 + 20 + 20 + 32 + 32 + 4

// KeyRecord says where a key stands that is or was in a link. Hashes are in internal byte order.
type KeyRecord struct {
	Key    protocol.KeyHash
	Parent protocol.KeyHash // zero of a root
	Accept chainhash.Hash   // MLA of the link to Parent; zero of a root
	ID     chainhash.Hash   // of the tree whose root it is; zero if it has a parent
	Height uint32           // of the last block that changed one of the above
}

// KeyOf returns the map key of a key's record.
func KeyOf(key protocol.KeyHash) Key {
	const prefix = "keytree/key\x00"
	var b [len(prefix) + len(key)]byte
	copy(b[copy(b[:], prefix):], key[:])
	return sha256.Sum256(b[:])
}

// AppendTo appends the record.
func (r *KeyRecord) AppendTo(b []byte) []byte {
	b = append(append(append(b, recordOfKey), r.Key[:]...), r.Parent[:]...)
	b = append(append(b, r.Accept[:]...), r.ID[:]...)
	return binary.LittleEndian.AppendUint32(b, r.Height)
}

// Leaf returns the record's leaf, which its owner finds by a number.
func (r *KeyRecord) Leaf(ref int32) Change {
	var space [MaxRecord]byte
	return newChange(KeyOf(r.Key), ref, r.AppendTo(space[:0]))
}

// IDRecord says what became of an id. Hashes are in internal byte order.
type IDRecord struct {
	ID     chainhash.Hash
	Merged bool
	Root   protocol.KeyHash // of the tree that has the id; zero if it merged
	Into   chainhash.Hash   // the id that it merged into, as of that merge; else zero
}

// IDKey returns the map key of an id's record.
func IDKey(id chainhash.Hash) Key {
	const prefix = "keytree/id\x00"
	var b [len(prefix) + len(id)]byte
	copy(b[copy(b[:], prefix):], id[:])
	return sha256.Sum256(b[:])
}

// AppendTo appends the record.
func (r *IDRecord) AppendTo(b []byte) []byte {
	b = append(append(b, recordOfID), r.ID[:]...)
	if r.Merged {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	return append(append(b, r.Root[:]...), r.Into[:]...)
}

// Leaf returns the record's leaf, which its owner finds by a number.
func (r *IDRecord) Leaf(ref int32) Change {
	var space [MaxRecord]byte
	return newChange(IDKey(r.ID), ref, r.AppendTo(space[:0]))
}

// LeafHash returns the hash of the leaf of a record.
func LeafHash(key Key, record []byte) Hash {
	var space [2 + len(key) + binary.MaxVarintLen16 + MaxRecord]byte
	b := append(append(space[:0], 0, byte(len(key))), key[:]...)
	b = binary.AppendUvarint(b, uint64(len(record)))
	return sha256.Sum256(append(b, record...))
}

// NodeHash returns the hash of two sets of records whose map keys differ in a bit, and in none before.
func NodeHash(bit int, left, right Hash) Hash {
	var space [1 + 2 + 2*len(left)]byte
	b := binary.AppendUvarint(append(space[:0], 1), uint64(bit))
	return sha256.Sum256(append(append(b, left[:]...), right[:]...))
}
