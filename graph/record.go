package graph

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/badgerdb"
	"github.com/keytree-bch/keytree/protocol"
)

// ErrDamaged says that the database holds something that keytree did not write.
// It cannot be used; rebuild it from the node.
var ErrDamaged = badgerdb.ErrDamaged

// never is a height that no block reaches: "not yet".
const never = math.MaxUint32

// blockRecord is the value under 'b'.
type blockRecord struct {
	hash      chainhash.Hash
	prev      chainhash.Hash
	time      uint32
	bits      uint32
	stateHash [32]byte
	counts    Counts
}

func (r blockRecord) encode() []byte {
	b := make([]byte, 0, 3*32+6*4)
	b = append(b, r.hash[:]...)
	b = append(b, r.prev[:]...)
	b = binary.BigEndian.AppendUint32(b, r.time)
	b = binary.BigEndian.AppendUint32(b, r.bits)
	b = append(b, r.stateHash[:]...)
	for _, n := range []uint32{r.counts.Links, r.counts.Identities, r.counts.Refused, r.counts.Waiting} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	return b
}

func decodeBlockRecord(b []byte) (blockRecord, error) {
	d := decoder{rest: b}
	r := blockRecord{hash: d.hash(), prev: d.hash(), time: d.uint32(), bits: d.uint32(), stateHash: d.hash()}
	r.counts = Counts{Links: d.uint32(), Identities: d.uint32(), Refused: d.uint32(), Waiting: d.uint32()}
	return r, d.finish("block record")
}

// storedAction is an action as it was confirmed, one of those under 'a'. What
// became of it is in the effects.
type storedAction struct {
	kind      protocol.Kind
	malformed bool
	index     uint32 // of its tx in the block
	txid      chainhash.Hash
	hasAuthor bool
	author    protocol.KeyHash
	parent    protocol.KeyHash   // well-formed MLR
	reference protocol.Reference // well-formed MLA and MCR, as pushed
	// previous is, of each key that the action mentions (state.mentions), the last
	// action before that does, none if there is none.
	previous   []int32
	messageLen uint32 // bytes
	message    []byte // if messageLen <= inlineMessage, else under 'm'
}

// inlineMessage is the longest message kept beside its action, in bytes. It
// covers what writers are allowed; longer ones would be in the way of the
// actions beside them.
const inlineMessage = 256

// Bits of a stored action's first byte, above its kind.
const (
	flagMalformed = 1 << 2
	flagAuthor    = 1 << 3
	shiftPrevious = 4 // number of previous
)

// appendTo appends the action to a chunk: its length, and itself.
func (a *storedAction) appendTo(chunk []byte) []byte {
	var space [512]byte
	b := append(space[:0], byte(a.kind)|byte(len(a.previous))<<shiftPrevious)
	b = binary.BigEndian.AppendUint32(b, a.index)
	b = append(b, a.txid[:]...)
	if a.hasAuthor {
		b[0] |= flagAuthor
		b = append(b, a.author[:]...)
	}
	switch {
	case a.malformed:
		b[0] |= flagMalformed
	case a.kind == protocol.MLR:
		b = append(b, a.parent[:]...)
	default:
		b = append(b, a.reference[:]...)
	}
	for _, n := range a.previous {
		b = binary.AppendUvarint(b, uint64(n+1))
	}
	b = binary.AppendUvarint(b, uint64(a.messageLen))
	b = append(b, a.message...)
	return append(binary.AppendUvarint(chunk, uint64(len(b))), b...)
}

// decodeActions reads all actions of a chunk. They share its memory.
func decodeActions(chunk []byte) ([]storedAction, error) {
	actions := make([]storedAction, 0, actionsPerChunk)
	d := decoder{rest: chunk}
	for len(d.rest) > 0 {
		a, err := decodeAction(d.take(d.length()))
		if err != nil {
			return nil, err
		}
		actions = append(actions, a)
	}
	return actions, d.finish("chunk of actions")
}

// actionInChunk reads the n-th action of a chunk.
func actionInChunk(chunk []byte, n int) (storedAction, error) {
	d := decoder{rest: chunk}
	for range n {
		d.take(d.length())
	}
	return decodeAction(d.take(d.length()))
}

func decodeAction(b []byte) (storedAction, error) {
	d := decoder{rest: b}
	flags := d.byte()
	a := storedAction{kind: protocol.Kind(flags & 3), malformed: flags&flagMalformed != 0, index: d.uint32(), txid: d.hash()}
	if a.hasAuthor = flags&flagAuthor != 0; a.hasAuthor {
		a.author = d.key()
	}
	switch {
	case a.malformed:
	case a.kind == protocol.MLR:
		a.parent = d.key()
	default:
		a.reference = protocol.Reference(d.hash())
	}
	for range flags >> shiftPrevious {
		a.previous = append(a.previous, int32(d.uvarint(math.MaxInt32))-1)
	}
	if a.messageLen = uint32(d.uvarint(math.MaxUint32)); a.messageLen > 0 && a.messageLen <= inlineMessage {
		a.message = d.take(int(a.messageLen))
	}
	if a.kind == 0 {
		return a, fmt.Errorf("%w: an action of no kind", ErrDamaged)
	}
	return a, d.finish("stored action")
}

// keyRecord is one version of a key that has been in a link, the value under
// 'k'.
type keyRecord struct {
	hasParent bool
	parent    protocol.KeyHash
	accept    chainhash.Hash // the MLA of the link to parent
	linked    uint32         // height at which it came into force

	// Children stand in the order in which they were linked.
	hasFirst bool
	first    protocol.KeyHash // of its children
	hasNext  bool
	next     protocol.KeyHash // of its parent's children, after it

	id chainhash.Hash // of the tree whose root it is; zero if it has a parent
}

const (
	flagParent = 1 << iota
	flagFirst
	flagNext
	flagID
)

func (r *keyRecord) appendTo(b []byte) []byte {
	at := len(b)
	b = append(b, 0)
	if r.hasParent {
		b[at] |= flagParent
		b = append(append(b, r.parent[:]...), r.accept[:]...)
		b = binary.BigEndian.AppendUint32(b, r.linked)
	}
	if r.hasFirst {
		b[at] |= flagFirst
		b = append(b, r.first[:]...)
	}
	if r.hasNext {
		b[at] |= flagNext
		b = append(b, r.next[:]...)
	}
	if r.id != (chainhash.Hash{}) {
		b[at] |= flagID
		b = append(b, r.id[:]...)
	}
	return b
}

func decodeKeyRecord(b []byte) (r keyRecord, err error) {
	d := decoder{rest: b}
	flags := d.byte()
	if r.hasParent = flags&flagParent != 0; r.hasParent {
		r.parent, r.accept, r.linked = d.key(), d.hash(), d.uint32()
	}
	if r.hasFirst = flags&flagFirst != 0; r.hasFirst {
		r.first = d.key()
	}
	if r.hasNext = flags&flagNext != 0; r.hasNext {
		r.next = d.key()
	}
	if flags&flagID != 0 {
		r.id = d.hash()
	}
	return r, d.finish("key record")
}

// identityRecord is one version of an identity that holds a tree, the value
// under 'i'.
type identityRecord struct {
	root protocol.KeyHash
	keys uint32 // in the tree
}

func (r identityRecord) appendTo(b []byte) []byte {
	return binary.BigEndian.AppendUint32(append(b, r.root[:]...), r.keys)
}

func decodeIdentityRecord(b []byte) (identityRecord, error) {
	d := decoder{rest: b}
	r := identityRecord{root: d.key(), keys: d.uint32()}
	return r, d.finish("identity record")
}

// nameRecord is one version of a name in a set of names that merged, the value
// under 'n'. See state.merge.
type nameRecord struct {
	up       chainhash.Hash // next towards the set's representative; zero in the representative
	weight   uint32         // representative: names in the set
	survivor chainhash.Hash // representative: the identity that holds the tree
}

func (r nameRecord) appendTo(b []byte) []byte {
	b = append(b, r.up[:]...)
	b = binary.BigEndian.AppendUint32(b, r.weight)
	return append(b, r.survivor[:]...)
}

func decodeNameRecord(b []byte) (nameRecord, error) {
	d := decoder{rest: b}
	r := nameRecord{up: d.hash(), weight: d.uint32(), survivor: d.hash()}
	return r, d.finish("name record")
}

// decoder reads fields off a stored value. After it ran short it returns zeros;
// finish tells.
type decoder struct {
	rest  []byte
	short bool
}

func (d *decoder) take(n int) []byte {
	if len(d.rest) < n {
		d.short, d.rest = true, nil
		return make([]byte, n)
	}
	out := d.rest[:n]
	d.rest = d.rest[n:]
	return out
}

func (d *decoder) byte() byte     { return d.take(1)[0] }
func (d *decoder) uint32() uint32 { return binary.BigEndian.Uint32(d.take(4)) }

// uvarint reads a number of variable length, up to most.
func (d *decoder) uvarint(most uint64) uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 || v > most {
		d.short, d.rest = true, nil
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

// length reads the length of what follows.
func (d *decoder) length() int { return int(d.uvarint(uint64(len(d.rest)))) }

func (d *decoder) uint64() uint64        { return binary.BigEndian.Uint64(d.take(8)) }
func (d *decoder) hash() chainhash.Hash  { return chainhash.Hash(d.take(32)) }
func (d *decoder) key() protocol.KeyHash { return protocol.KeyHash(d.take(20)) }

// finish returns an error if the value was shorter or longer than its fields.
func (d *decoder) finish(what string) error {
	if d.short || len(d.rest) > 0 {
		return fmt.Errorf("%w: a %s has the wrong length", ErrDamaged, what)
	}
	return nil
}
