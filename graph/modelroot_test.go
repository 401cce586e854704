package graph_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
)

// The model's state root: protocol/SPEC.md §12 said once more, from the text alone. Every block makes all records
// anew, and hashes all of them.

// recorded lists the keys that have a record: each is the child of a link, or the root of a tree with an id.
func (s *modelState) recorded() (keys []protocol.KeyHash) {
	for key := range s.links {
		keys = append(keys, key)
	}
	for key := range s.ids {
		keys = append(keys, key)
	}
	return keys
}

// fields returns the record of a key without its height, "" if it has none.
func (s *modelState) fields(key protocol.KeyHash) string {
	var parent protocol.KeyHash
	var accept, id chainhash.Hash
	if l, ok := s.links[key]; ok {
		parent, accept = l.parent, l.accept
	} else if id, ok = s.ids[key]; !ok {
		return ""
	}
	return string(bytes.Join([][]byte{{1}, key[:], parent[:], accept[:], id[:]}, nil))
}

// recordHeights notes since when each key's record is as it is, before being the state of the block
// before.
func (s *modelState) recordHeights(before *modelState) {
	s.heights = make(map[protocol.KeyHash]uint32)
	for _, key := range s.recorded() {
		if s.heights[key] = s.block.Height; s.fields(key) == before.fields(key) {
			s.heights[key] = before.heights[key]
		}
	}
}

// stateRoot returns R after the block.
func (s *modelState) stateRoot() [32]byte { return modelTrie(s.records(), 0) }

// records are all that the map has after the block, by map key.
func (s *modelState) records() map[[32]byte]string {
	records := make(map[[32]byte]string)
	for _, key := range s.recorded() {
		records[sha256.Sum256(append([]byte("keytree/key\x00"), key[:]...))] = string(binary.LittleEndian.AppendUint32([]byte(s.fields(key)), s.heights[key]))
	}
	ofID := func(id chainhash.Hash, state byte, root protocol.KeyHash, into chainhash.Hash) {
		records[sha256.Sum256(append([]byte("keytree/id\x00"), id[:]...))] = string(bytes.Join([][]byte{{2}, id[:], {state}, root[:], into[:]}, nil))
	}
	for root, id := range s.ids {
		ofID(id, 0, root, chainhash.Hash{})
	}
	for id, into := range s.merged {
		ofID(id, 1, protocol.KeyHash{}, into)
	}
	return records
}

// modelTrie hashes records whose map keys have so many bits in common.
func modelTrie(records map[[32]byte]string, bit int) [32]byte {
	switch len(records) {
	case 0:
		return sha256.Sum256(nil)
	case 1:
		for key, value := range records {
			leaf := binary.AppendUvarint([]byte{0}, uint64(len(key)))
			leaf = binary.AppendUvarint(append(leaf, key[:]...), uint64(len(value)))
			return sha256.Sum256(append(leaf, value...))
		}
	}
	left, right := make(map[[32]byte]string), make(map[[32]byte]string)
	for key, value := range records {
		if key[bit/8]>>(7-bit%8)&1 == 0 {
			left[key] = value
		} else {
			right[key] = value
		}
	}
	if len(left) == 0 || len(right) == 0 {
		return modelTrie(records, bit+1)
	}
	l, r := modelTrie(left, bit+1), modelTrie(right, bit+1)
	return sha256.Sum256(append(append(binary.AppendUvarint([]byte{1}, uint64(bit)), l[:]...), r[:]...))
}
