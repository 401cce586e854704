package graph

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

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

// storedAction is an action, one of those under 'a': as it was confirmed, and what
// its own block made of it. What a later block decided is under 'l' and 'f'.
type storedAction struct {
	kind      protocol.Kind
	malformed bool
	index     uint32 // of its tx in the block
	txid      chainhash.Hash
	hasAuthor bool
	author    protocol.KeyHash
	reference protocol.Reference // well-formed MLA and MCR, as pushed

	// The keys that it is about, as far as its own block has shown them: of a
	// well-formed MLR, of an MLA or MCR that refers to the right kind.
	hasParent, hasChild bool
	parent, child       protocol.KeyHash

	waits  bool   // MLA, MCR: it was not decided in its own block, so the next two are zero
	reason Reason // why it was refused
	target int32  // MLA, MCR: the action that reference means; none: there is none, or it was not asked

	mentions   []mentioning // one for each of keys()
	messageLen uint32       // bytes
	message    []byte       // if messageLen <= inlineMessage, else under 'm'
}

// keys lists the keys that the action is by and about, once each, as far as its own
// block has shown them. What comes out later is listed apart (prefixLate).
func (a *storedAction) keys() (keys [3]protocol.KeyHash, n int) {
	if a.hasAuthor {
		keys[0], n = a.author, 1
	}
	if a.hasParent && !slices.Contains(keys[:n], a.parent) {
		keys[n] = a.parent
		n++
	}
	if a.hasChild && !slices.Contains(keys[:n], a.child) {
		keys[n] = a.child
		n++
	}
	return keys, n
}

// mentioning is an action's place in the list of a key that it mentions. The actions
// of a key that is in an identity form a chain, with a landmark every landmarkEvery;
// one that came before the key was in any is a landmark and in no chain.
type mentioning struct {
	previous int32 // the action before it in the chain, none if it is the first or in none
	since    uint8 // how many actions of the chain came after its last landmark, this one included
}

// chained reports whether the action is in the key's chain.
func (m mentioning) chained() bool { return m.previous != none || m.since > 0 }

// landmark reports whether the action has a landmark.
func (m mentioning) landmark() bool { return m.since == 0 }

// inlineMessage is the longest message kept beside its action, in bytes. It
// covers what writers are allowed; longer ones would be in the way of the
// actions beside them.
const inlineMessage = 256

// Bits of a stored action's first byte, above its kind, and of its second, above its
// reason.
const (
	flagMalformed = 1 << 2
	flagAuthor    = 1 << 3
	flagWaits     = 1 << 4
	flagTarget    = 1 << 5
	shiftMentions = 6 // how many there are

	maskReason    = 1<<4 - 1
	flagHasParent = 1 << 4
	flagByParent  = 1 << 5 // the parent is the author
	flagHasChild  = 1 << 6
	flagByChild   = 1 << 7 // the child is the author
)

// appendTo appends the action to a chunk: its length, and itself.
func (a *storedAction) appendTo(chunk []byte) []byte {
	var space [512]byte
	b := append(space[:0], byte(a.kind)|byte(len(a.mentions))<<shiftMentions, byte(a.reason))
	b = binary.BigEndian.AppendUint32(b, a.index)
	b = append(b, a.txid[:]...)
	if a.hasAuthor {
		b[0] |= flagAuthor
		b = append(b, a.author[:]...)
	}
	if a.malformed {
		b[0] |= flagMalformed
	} else if a.kind != protocol.MLR {
		b = append(b, a.reference[:]...)
	}
	b = a.appendKey(b, a.hasParent, a.parent, flagHasParent, flagByParent)
	b = a.appendKey(b, a.hasChild, a.child, flagHasChild, flagByChild)
	if a.waits {
		b[0] |= flagWaits
	}
	if a.target != none {
		b[0] |= flagTarget
		b = binary.AppendUvarint(b, uint64(a.target))
	}
	for _, m := range a.mentions {
		b = binary.AppendUvarint(b, uint64(m.previous+1)*landmarkEvery+uint64(m.since))
	}
	b = binary.AppendUvarint(b, uint64(a.messageLen))
	b = append(b, a.message...)
	return append(binary.AppendUvarint(chunk, uint64(len(b))), b...)
}

// appendKey appends a key that the action may be about to an action begun in b.
func (a *storedAction) appendKey(b []byte, has bool, key protocol.KeyHash, flag, same byte) []byte {
	switch {
	case !has:
		return b
	case a.hasAuthor && key == a.author:
		b[1] |= flag | same
		return b
	}
	b[1] |= flag
	return append(b, key[:]...)
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
	flags, about := d.byte(), d.byte()
	a := storedAction{
		kind: protocol.Kind(flags & 3), malformed: flags&flagMalformed != 0, index: d.uint32(), txid: d.hash(),
		waits: flags&flagWaits != 0, reason: Reason(about & maskReason), target: none,
	}
	if a.hasAuthor = flags&flagAuthor != 0; a.hasAuthor {
		a.author = d.key()
	}
	if !a.malformed && a.kind != protocol.MLR {
		a.reference = protocol.Reference(d.hash())
	}
	a.hasParent, a.parent = d.about(&a, about, flagHasParent, flagByParent)
	a.hasChild, a.child = d.about(&a, about, flagHasChild, flagByChild)
	if flags&flagTarget != 0 {
		a.target = int32(d.uvarint(math.MaxInt32))
	}
	if count := int(flags >> shiftMentions); count > 0 {
		a.mentions = make([]mentioning, count)
		for i := range a.mentions {
			m := d.uvarint((math.MaxInt32+1)*landmarkEvery + landmarkEvery - 1)
			a.mentions[i] = mentioning{int32(m/landmarkEvery - 1), uint8(m % landmarkEvery)}
		}
	}
	if a.messageLen = uint32(d.uvarint(math.MaxUint32)); a.messageLen > 0 && a.messageLen <= inlineMessage {
		a.message = d.take(int(a.messageLen))
	}
	if _, n := a.keys(); a.kind == 0 || n != len(a.mentions) {
		return a, fmt.Errorf("%w: an action of kind %d with %d keys in %d lists", ErrDamaged, a.kind, n, len(a.mentions))
	}
	return a, d.finish("stored action")
}

// about reads what appendKey wrote.
func (d *decoder) about(a *storedAction, flags, flag, same byte) (has bool, key protocol.KeyHash) {
	switch {
	case flags&flag == 0:
		return false, key
	case flags&same != 0:
		return true, a.author
	}
	return true, d.key()
}

// lateFate is what became of an action in a later block than its own, the value
// under 'l'.
type lateFate struct {
	height uint32 // of that block
	reason Reason // why it was refused
	target int32  // the action that it refers to
}

func (o lateFate) appendTo(b []byte) []byte {
	b = append(binary.BigEndian.AppendUint32(b, o.height), byte(o.reason))
	return binary.BigEndian.AppendUint32(b, uint32(o.target))
}

func decodeLateFate(b []byte) (lateFate, error) {
	d := decoder{rest: b}
	o := lateFate{height: d.uint32(), reason: Reason(d.byte()), target: d.action()}
	return o, d.finish("late fate of an action")
}

// cutLink is a link that is not in force any more, the value under 'f'. Its request
// can never be used again.
type cutLink struct {
	accept int32  // MLA
	linked uint32 // height at which it came into force
	revoke int32  // MCR
	cut    uint32 // height
}

func (c cutLink) appendTo(b []byte) []byte {
	for _, n := range []uint32{uint32(c.accept), c.linked, uint32(c.revoke), c.cut} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	return b
}

func decodeCutLink(b []byte) (cutLink, error) {
	d := decoder{rest: b}
	c := cutLink{accept: d.action(), linked: d.uint32(), revoke: d.action(), cut: d.uint32()}
	return c, d.finish("cut link")
}

// keyRecord is one version of a key that has been in a link, the value under
// 'k'.
type keyRecord struct {
	hasParent bool
	parent    protocol.KeyHash
	accept    naming // the MLA of the link to parent
	request   int32  // the MLR that it accepted
	linked    uint32 // height at which it came into force

	// Children stand in the order in which they were linked.
	hasFirst bool
	first    protocol.KeyHash // of its children
	hasNext  bool
	next     protocol.KeyHash // of its parent's children, after it

	id naming // of the tree whose root it is; zero if it has a parent
}

// naming is an action that something is named by.
type naming struct {
	tx     chainhash.Hash
	number int32
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
		b = r.accept.appendTo(append(b, r.parent[:]...))
		b = binary.BigEndian.AppendUint32(b, uint32(r.request))
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
	if r.id.tx != (chainhash.Hash{}) {
		b[at] |= flagID
		b = r.id.appendTo(b)
	}
	return b
}

func (n naming) appendTo(b []byte) []byte {
	return binary.BigEndian.AppendUint32(append(b, n.tx[:]...), uint32(n.number))
}

func (d *decoder) naming() naming { return naming{d.hash(), d.action()} }

func decodeKeyRecord(b []byte) (r keyRecord, err error) {
	d := decoder{rest: b}
	flags := d.byte()
	if r.hasParent = flags&flagParent != 0; r.hasParent {
		r.parent, r.accept, r.request, r.linked = d.key(), d.naming(), d.action(), d.uint32()
	}
	if r.hasFirst = flags&flagFirst != 0; r.hasFirst {
		r.first = d.key()
	}
	if r.hasNext = flags&flagNext != 0; r.hasNext {
		r.next = d.key()
	}
	if flags&flagID != 0 {
		r.id = d.naming()
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

// action reads the number of an action.
func (d *decoder) action() int32 {
	n := d.uint32()
	d.short = d.short || n > math.MaxInt32
	return int32(n)
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
