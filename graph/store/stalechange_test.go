package store

import (
	"encoding/binary"
	"errors"
	"reflect"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
)

// TestStaleChange writes and reads lists of nothing, and of more than a chunk.
func TestStaleChange(t *testing.T) {
	for _, length := range []int{0, 1, staleChunk, 2*staleChunk + 1} {
		var c, got StaleChange
		for n := range length {
			var key protocol.KeyHash
			var id chainhash.Hash
			binary.BigEndian.PutUint32(key[:], uint32(n))
			binary.BigEndian.PutUint32(id[:], uint32(n))
			c.Keys, c.IDs = append(c.Keys, key), append(c.IDs, id)
		}
		records := 0
		c.Encode(7, chainhash.Hash{1}, func(key, value []byte) {
			records++
			if err := got.Decode(key, value); err != nil || value == nil || len(value) > ChunkSize {
				t.Errorf("%d items: a record of %d bytes: %v", length, len(value), err)
			}
		})
		if want := 2 * max(1, (length+staleChunk-1)/staleChunk); !reflect.DeepEqual(got, c) || records != want {
			t.Errorf("%d items: read %d keys and %d ids from %d records, want %d", length, len(got.Keys), len(got.IDs), records, want)
		}
	}
	stem := staleChangeStem(7, chainhash.Hash{1}, staleKeys)
	for what, record := range map[string][2][]byte{
		"a short key":   {stem, nil},
		"a short value": {append(stem[:len(stem):len(stem)], 0, 0, 0, 0), make([]byte, 21)},
		"another list":  {append(staleChangeStem(7, chainhash.Hash{1}, 2), 0, 0, 0, 0), make([]byte, 32)},
	} {
		var c StaleChange
		if err := c.Decode(record[0], record[1]); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
