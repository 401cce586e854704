package graph

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
)

// ErrDamaged says that the database holds something that keytree did not write.
// It cannot be used; rebuild it from the node.
var ErrDamaged = errors.New("database damaged")

// never is a height that no block reaches: "not yet".
const never = math.MaxUint32

// blockRecord is the value under 'b'.
type blockRecord struct {
	hash      chainhash.Hash
	prev      chainhash.Hash
	stateHash [32]byte
	counts    Counts
}

func (r blockRecord) encode() []byte {
	b := make([]byte, 0, 3*32+4*4)
	b = append(b, r.hash[:]...)
	b = append(b, r.prev[:]...)
	b = append(b, r.stateHash[:]...)
	for _, n := range []uint32{r.counts.Links, r.counts.Identities, r.counts.Refused, r.counts.Waiting} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	return b
}

func decodeBlockRecord(b []byte) (blockRecord, error) {
	d := decoder{rest: b}
	r := blockRecord{hash: d.hash(), prev: d.hash(), stateHash: d.hash()}
	r.counts = Counts{Links: d.uint32(), Identities: d.uint32(), Refused: d.uint32(), Waiting: d.uint32()}
	return r, d.finish("block record")
}

// actionRecord is the value under 'a': an action as it was confirmed, and what
// became of it. Its state as of any height follows from the heights in it.
type actionRecord struct {
	kind   protocol.Kind
	reason Reason // why it was refused, from decided on
	at     position

	hasAuthor bool
	author    protocol.KeyHash

	hasParent bool // parent is known
	hasChild  bool // child is known
	parent    protocol.KeyHash
	child     protocol.KeyHash

	hasReference bool               // well-formed MLA or MCR
	reference    protocol.Reference // as pushed
	refersTo     chainhash.Hash     // zero until decided, and where nothing was found

	decided uint32 // height at which it was opened, put in force, done or refused; never while it waits
	ended   uint32 // height at which a request was used or a link was cut; never before
	endedBy chainhash.Hash

	messageLen uint32 // bytes
	message    []byte // if messageLen <= inlineMessage, else under 'm'
}

// inlineMessage is the longest message kept in its action's record, in bytes.
// It covers what writers are allowed; longer ones would be rewritten with every
// change of state.
const inlineMessage = 256

const (
	flagAuthor = 1 << iota
	flagParent
	flagChild
	flagReference
	flagDecided
	flagRefersTo
	flagEnded
)

func (r *actionRecord) encode() []byte {
	b := make([]byte, 0, 224+len(r.message))
	var flags byte
	set := func(on bool, flag byte) bool {
		if on {
			flags |= flag
		}
		return on
	}
	b = append(b, byte(r.kind), byte(r.reason), 0)
	b = r.at.append(b)
	if set(r.hasAuthor, flagAuthor) {
		b = append(b, r.author[:]...)
	}
	if set(r.hasParent, flagParent) {
		b = append(b, r.parent[:]...)
	}
	if set(r.hasChild, flagChild) {
		b = append(b, r.child[:]...)
	}
	if set(r.hasReference, flagReference) {
		b = append(b, r.reference[:]...)
	}
	if set(r.decided != never, flagDecided) {
		b = binary.BigEndian.AppendUint32(b, r.decided)
	}
	if set(r.refersTo != chainhash.Hash{}, flagRefersTo) {
		b = append(b, r.refersTo[:]...)
	}
	if set(r.ended != never, flagEnded) {
		b = binary.BigEndian.AppendUint32(b, r.ended)
		b = append(b, r.endedBy[:]...)
	}
	b[2] = flags
	b = binary.BigEndian.AppendUint32(b, r.messageLen)
	return append(b, r.message...)
}

func decodeActionRecord(b []byte) (*actionRecord, error) {
	d := decoder{rest: b}
	r := &actionRecord{kind: protocol.Kind(d.byte()), reason: Reason(d.byte()), decided: never, ended: never}
	flags := d.byte()
	r.at = position{d.uint32(), d.uint32()}
	if r.hasAuthor = flags&flagAuthor != 0; r.hasAuthor {
		r.author = d.key()
	}
	if r.hasParent = flags&flagParent != 0; r.hasParent {
		r.parent = d.key()
	}
	if r.hasChild = flags&flagChild != 0; r.hasChild {
		r.child = d.key()
	}
	if r.hasReference = flags&flagReference != 0; r.hasReference {
		r.reference = protocol.Reference(d.hash())
	}
	if flags&flagDecided != 0 {
		r.decided = d.uint32()
	}
	if flags&flagRefersTo != 0 {
		r.refersTo = d.hash()
	}
	if flags&flagEnded != 0 {
		r.ended, r.endedBy = d.uint32(), d.hash()
	}
	if r.messageLen = d.uint32(); r.messageLen > 0 && r.messageLen <= inlineMessage {
		r.message = append([]byte(nil), d.take(int(r.messageLen))...)
	}
	return r, d.finish("action record")
}

// refused reports whether the action was decided against.
func (r *actionRecord) refused() bool { return r.decided != never && r.reason != NoReason }

// stateAt returns the state as of height, and since when. ok is false if the
// action was not confirmed by then.
func (r *actionRecord) stateAt(height uint32) (state State, since uint32, ok bool) {
	switch {
	case r.at.height > height:
		return 0, 0, false
	case r.decided > height:
		return StateWaiting, r.at.height, true
	case r.refused():
		return StateRefused, r.decided, true
	case r.kind == protocol.MCR:
		return StateDone, r.decided, true
	}
	entered, left := StateOpen, StateUsed
	if r.kind == protocol.MLA {
		entered, left = StateInForce, StateCut
	}
	if r.ended <= height {
		return left, r.ended, true
	}
	return entered, r.decided, true
}

// identityRecord is one version of an identity that holds a tree, the value
// under 'i'.
type identityRecord struct {
	root protocol.KeyHash
	keys uint32 // in the tree
}

func (r identityRecord) encode() []byte {
	return binary.BigEndian.AppendUint32(append(make([]byte, 0, 24), r.root[:]...), r.keys)
}

func decodeIdentityRecord(b []byte) (identityRecord, error) {
	d := decoder{rest: b}
	r := identityRecord{root: d.key(), keys: d.uint32()}
	return r, d.finish("identity record")
}

// nameRecord is one version of a name in a set of names that merged, the value
// under 'n'. See identity.go.
type nameRecord struct {
	up       chainhash.Hash // next towards the set's representative; zero in the representative
	weight   uint32         // representative: names in the set
	survivor chainhash.Hash // representative: the identity that holds the tree
}

func (r nameRecord) encode() []byte {
	b := append(make([]byte, 0, 68), r.up[:]...)
	b = binary.BigEndian.AppendUint32(b, r.weight)
	return append(b, r.survivor[:]...)
}

func decodeNameRecord(b []byte) (nameRecord, error) {
	d := decoder{rest: b}
	r := nameRecord{up: d.hash(), weight: d.uint32(), survivor: d.hash()}
	return r, d.finish("name record")
}

// acceptRecord is one version of a key's parent, the value under 'p'.
type acceptRecord struct {
	parent protocol.KeyHash
	accept chainhash.Hash // the MLA
}

func (r acceptRecord) encode() []byte {
	return append(append(make([]byte, 0, 52), r.parent[:]...), r.accept[:]...)
}

func decodeAcceptRecord(b []byte) (acceptRecord, error) {
	d := decoder{rest: b}
	r := acceptRecord{parent: d.key(), accept: d.hash()}
	return r, d.finish("parent record")
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

func (d *decoder) byte() byte            { return d.take(1)[0] }
func (d *decoder) uint32() uint32        { return binary.BigEndian.Uint32(d.take(4)) }
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
