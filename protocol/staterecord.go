package protocol

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/gcash/bchd/chaincfg/chainhash"
)

// MapKey is where the map under the state root has a record (protocol/SPEC.md §12).
type MapKey [32]byte

// MapKeyOf returns the map key of a key's record.
func MapKeyOf(key KeyHash) MapKey {
	const prefix = "keytree/key\x00"
	var b [len(prefix) + len(key)]byte
	copy(b[copy(b[:], prefix):], key[:])
	return sha256.Sum256(b[:])
}

// MapKeyOfID returns the map key of an id's record.
func MapKeyOfID(id chainhash.Hash) MapKey {
	const prefix = "keytree/id\x00"
	var b [len(prefix) + len(id)]byte
	copy(b[copy(b[:], prefix):], id[:])
	return sha256.Sum256(b[:])
}

// Bit returns a bit of a map key, 0 to 255; that of number 0 is the most significant of the first byte.
func (k *MapKey) Bit(n int) byte { return k[n/8] >> (7 - n%8) & 1 }

// The first byte of a record says what it is of.
const (
	RecordOfKey = 1
	RecordOfID  = 2
)

// Sizes of records, in bytes.
const (
	KeyRecordSize = 1 + 2*len(KeyHash{}) + 2*chainhash.HashSize + 4
	IDRecordSize  = 1 + chainhash.HashSize + 1 + len(KeyHash{}) + chainhash.HashSize
)

// KeyRecord says where a key stands that is or was in a link. Hashes are in internal byte order.
type KeyRecord struct {
	Key    KeyHash
	Parent KeyHash        // zero of a root
	Accept chainhash.Hash // MLA of the link to Parent; zero of a root
	ID     chainhash.Hash // of the tree whose root it is; zero if it has a parent
	Height uint32         // of the last block that changed one of the above
}

// MapKey returns where the map has the record.
func (r *KeyRecord) MapKey() MapKey { return MapKeyOf(r.Key) }

// HasParent tells whether a link to a parent is in force.
func (r *KeyRecord) HasParent() bool { return r.Parent != KeyHash{} }

// AppendTo appends the record as the map has it, KeyRecordSize bytes.
func (r *KeyRecord) AppendTo(b []byte) []byte {
	b = append(append(append(b, RecordOfKey), r.Key[:]...), r.Parent[:]...)
	b = append(append(b, r.Accept[:]...), r.ID[:]...)
	return binary.LittleEndian.AppendUint32(b, r.Height)
}

// IDRecord says what became of an id. Hashes are in internal byte order.
type IDRecord struct {
	ID     chainhash.Hash
	Merged bool
	Root   KeyHash        // of the tree that has the id; zero if it merged
	Into   chainhash.Hash // the id that it merged into, as of that merge; else zero
}

// MapKey returns where the map has the record.
func (r *IDRecord) MapKey() MapKey { return MapKeyOfID(r.ID) }

// AppendTo appends the record as the map has it, IDRecordSize bytes.
func (r *IDRecord) AppendTo(b []byte) []byte {
	b = append(append(b, RecordOfID), r.ID[:]...)
	if r.Merged {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	return append(append(b, r.Root[:]...), r.Into[:]...)
}

// EmptyMapHash is the hash of a map without records.
func EmptyMapHash() [32]byte { return sha256.Sum256(nil) }

// MapLeafHash returns the hash of the leaf of a record.
func MapLeafHash(key MapKey, record []byte) [32]byte {
	var space [2 + len(key) + binary.MaxVarintLen16 + KeyRecordSize]byte
	b := append(append(space[:0], 0, byte(len(key))), key[:]...)
	b = binary.AppendUvarint(b, uint64(len(record)))
	return sha256.Sum256(append(b, record...))
}

// MapNodeHash returns the hash of two sets of records whose map keys differ in a bit, and in none before.
func MapNodeHash(bit int, left, right [32]byte) [32]byte {
	var space [1 + 2 + 2*len(left)]byte
	b := binary.AppendUvarint(append(space[:0], 1), uint64(bit))
	return sha256.Sum256(append(append(b, left[:]...), right[:]...))
}
