package store

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
)

// StaleChange is what a block had changed that was taken off the chain, as far as those have to know who had been told of it.
type StaleChange struct {
	Keys []protocol.KeyHash // whose own link, or whose name as a root, it had changed
	IDs  []chainhash.Hash   // of the identities that it had touched
}

// The lists of a StaleChange, as its keys name them.
const (
	staleKeys = 0
	staleIDs  = 1
)

// staleChunk is how many items a chunk of such a list has.
const staleChunk = 2000

// staleChangeStem is what the keys of a list of a block begin with.
func staleChangeStem(height uint32, hash chainhash.Hash, list byte) []byte {
	return append(append(HeightKey(PrefixStaleChange, height), hash[:]...), list)
}

// Encode sets the records under 'D' of a block. There is one of each list at least.
func (c *StaleChange) Encode(height uint32, hash chainhash.Hash, set func(key, value []byte)) {
	setStale(staleChangeStem(height, hash, staleKeys), c.Keys, func(k protocol.KeyHash) []byte { return k[:] }, set)
	setStale(staleChangeStem(height, hash, staleIDs), c.IDs, func(id chainhash.Hash) []byte { return id[:] }, set)
}

func setStale[T any](stem []byte, items []T, bytes func(T) []byte, set func(key, value []byte)) {
	for number := uint32(0); number == 0 || len(items) > 0; number++ {
		n := min(len(items), staleChunk)
		value := []byte{}
		for _, item := range items[:n] {
			value = append(value, bytes(item)...)
		}
		set(binary.BigEndian.AppendUint32(slices.Clone(stem), number), value)
		items = items[n:]
	}
}

// ReadStaleChange reads what a block had changed; ok is false if that is not known, since the block is not known to have been
// taken off the chain, or was by an earlier version of the program. ErrDamaged.
func ReadStaleChange(txn *Txn, height uint32, hash chainhash.Hash) (c StaleChange, ok bool, err error) {
	stem := HeightKey(PrefixStaleChange, height)
	it := NewReader(txn, append(stem, hash[:]...))
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		value, err := Value(it.Item())
		if err == nil {
			err = c.Decode(it.Item().Key(), value)
		}
		if err != nil {
			return StaleChange{}, false, err
		}
		ok = true
	}
	return c, ok, nil
}

// Decode adds what a record under 'D' says. ErrDamaged.
func (c *StaleChange) Decode(key, value []byte) error {
	k := Decoder{Rest: key[1:]}
	k.Uint32()
	k.Hash()
	list := k.Byte()
	k.Uint32()
	if err := k.Finish("key of what a stale block had changed"); err != nil {
		return err
	}
	d := Decoder{Rest: value}
	for len(d.Rest) > 0 && !d.Short() {
		switch list {
		case staleKeys:
			c.Keys = append(c.Keys, d.Key())
		case staleIDs:
			c.IDs = append(c.IDs, d.Hash())
		default:
			return fmt.Errorf("%w: list %d of what a stale block had changed, there are 0 and 1", ErrDamaged, list)
		}
	}
	return d.Finish("what a stale block had changed")
}
