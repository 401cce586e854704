package store

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
)

// Decoder reads fields off a stored value. After it ran short it returns zeros;
// Finish tells. Integers are big-endian, hashes in internal byte order. Not safe for
// concurrent use.
type Decoder struct {
	Rest  []byte // what has not been read
	short bool
}

// Take reads n bytes. They are the value's own, unless it ran short.
func (d *Decoder) Take(n int) []byte {
	if len(d.Rest) < n {
		d.short, d.Rest = true, nil
		return make([]byte, n)
	}
	out := d.Rest[:n]
	d.Rest = d.Rest[n:]
	return out
}

// Action reads the number of an action.
func (d *Decoder) Action() int32 {
	n := d.Uint32()
	d.short = d.short || n > math.MaxInt32
	return int32(n)
}

// Byte reads a byte.
func (d *Decoder) Byte() byte { return d.Take(1)[0] }

// Uint32 reads four bytes.
func (d *Decoder) Uint32() uint32 { return binary.BigEndian.Uint32(d.Take(4)) }

// Uint64 reads eight bytes.
func (d *Decoder) Uint64() uint64 { return binary.BigEndian.Uint64(d.Take(8)) }

// Uvarint reads a number of variable length, up to most.
func (d *Decoder) Uvarint(most uint64) uint64 {
	v, n := binary.Uvarint(d.Rest)
	if n <= 0 || v > most {
		d.short, d.Rest = true, nil
		return 0
	}
	d.Rest = d.Rest[n:]
	return v
}

// Length reads the length of what follows.
func (d *Decoder) Length() int { return int(d.Uvarint(uint64(len(d.Rest)))) }

// Hash reads a hash.
func (d *Decoder) Hash() chainhash.Hash { return chainhash.Hash(d.Take(chainhash.HashSize)) }

// Key reads the hash of a key.
func (d *Decoder) Key() protocol.KeyHash {
	return protocol.KeyHash(d.Take(len(protocol.KeyHash{})))
}

// Short reports whether the value was shorter than its fields so far.
func (d *Decoder) Short() bool { return d.short }

// Finish returns ErrDamaged if the value, which is called what, was shorter or longer
// than its fields.
func (d *Decoder) Finish(what string) error {
	if d.short || len(d.Rest) > 0 {
		return fmt.Errorf("%w: a %s has the wrong length", ErrDamaged, what)
	}
	return nil
}
