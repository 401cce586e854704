package links

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// never is a height that no block reaches: "not yet".
const never = math.MaxUint32

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
// block has shown them. What comes out later is listed apart (store.PrefixLate).
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
// of a key that is in an identity form a chain, with a landmark every landmarkEvery. Of those that
// came before the key was in any, which are in no chain, the first is found by the key (package
// txids), and each other is a landmark.
type mentioning struct {
	previous int32 // the action before it in the chain, none if it is the first or in none
	since    uint8 // how many actions of the chain came after its last landmark, this one included
	first    bool  // in no chain, and the first that mentions the key
}

// chained reports whether the action is in the key's chain.
func (m mentioning) chained() bool { return m.previous != none || m.since > 0 }

// landmark reports whether the action has a landmark.
func (m mentioning) landmark() bool { return m.since == 0 && !m.first }

// firstMention is how a mentioning is stored that is the first of its key: one without a previous one
// has since 0 or 1.
const firstMention = 2

// appendTo appends the place to a stored action.
func (m mentioning) appendTo(b []byte) []byte {
	if m.first {
		return append(b, firstMention)
	}
	return binary.AppendUvarint(b, uint64(m.previous+1)*landmarkEvery+uint64(m.since))
}

// readMentioning reads what appendTo wrote.
func readMentioning(d *store.Decoder) mentioning {
	m := d.Uvarint((math.MaxInt32+1)*landmarkEvery + landmarkEvery - 1)
	if m == firstMention {
		return mentioning{previous: none, first: true}
	}
	return mentioning{previous: int32(m/landmarkEvery - 1), since: uint8(m % landmarkEvery)}
}

// ActionsPerChunk is how many actions of a block share a value: enough that
// their number costs Badger little, few enough to read for one of them.
const ActionsPerChunk = 32

// landmarkEvery is how many actions of a key's chain lie between those that are found
// without walking. At most 256: mentioning.since.
const landmarkEvery = 64

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
		b = m.appendTo(b)
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

// inChunk returns the n-th of the things in a chunk, each behind its length.
func inChunk(chunk []byte, n int) []byte {
	d := store.Decoder{Rest: chunk}
	for range n {
		d.Take(d.Length())
	}
	return d.Take(d.Length())
}

// decodeActions reads all actions of a chunk. They share its memory.
func decodeActions(chunk []byte) ([]storedAction, error) {
	actions := make([]storedAction, 0, ActionsPerChunk)
	d := store.Decoder{Rest: chunk}
	for len(d.Rest) > 0 {
		a, err := decodeAction(d.Take(d.Length()))
		if err != nil {
			return nil, err
		}
		actions = append(actions, a)
	}
	return actions, d.Finish("chunk of actions")
}

func decodeAction(b []byte) (storedAction, error) {
	d := store.Decoder{Rest: b}
	flags, about := d.Byte(), d.Byte()
	a := storedAction{
		kind: protocol.Kind(flags & 3), malformed: flags&flagMalformed != 0, index: d.Uint32(), txid: d.Hash(),
		waits: flags&flagWaits != 0, reason: Reason(about & maskReason), target: none,
	}
	if a.hasAuthor = flags&flagAuthor != 0; a.hasAuthor {
		a.author = d.Key()
	}
	if !a.malformed && a.kind != protocol.MLR {
		a.reference = protocol.Reference(d.Hash())
	}
	a.hasParent, a.parent = readAbout(&d, &a, about, flagHasParent, flagByParent)
	a.hasChild, a.child = readAbout(&d, &a, about, flagHasChild, flagByChild)
	if flags&flagTarget != 0 {
		a.target = int32(d.Uvarint(math.MaxInt32))
	}
	if count := int(flags >> shiftMentions); count > 0 {
		a.mentions = make([]mentioning, count)
		for i := range a.mentions {
			a.mentions[i] = readMentioning(&d)
		}
	}
	if a.messageLen = uint32(d.Uvarint(math.MaxUint32)); a.messageLen > 0 && a.messageLen <= inlineMessage {
		a.message = d.Take(int(a.messageLen))
	}
	if _, n := a.keys(); a.kind == 0 || n != len(a.mentions) {
		return a, fmt.Errorf("%w: an action of kind %d with %d keys in %d lists", store.ErrDamaged, a.kind, n, len(a.mentions))
	}
	return a, d.Finish("stored action")
}

// readAbout reads what appendKey wrote.
func readAbout(d *store.Decoder, a *storedAction, flags, flag, same byte) (has bool, key protocol.KeyHash) {
	switch {
	case flags&flag == 0:
		return false, key
	case flags&same != 0:
		return true, a.author
	}
	return true, d.Key()
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
	d := store.Decoder{Rest: b}
	o := lateFate{height: d.Uint32(), reason: Reason(d.Byte()), target: d.Action()}
	return o, d.Finish("late fate of an action")
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
	d := store.Decoder{Rest: b}
	c := cutLink{accept: d.Action(), linked: d.Uint32(), revoke: d.Action(), cut: d.Uint32()}
	return c, d.Finish("cut link")
}

// identityRecord is one version of an identity, the value under 'i': as it holds a tree, or the last
// one, as it has merged.
type identityRecord struct {
	root protocol.KeyHash
	keys uint32 // in the tree

	into   chainhash.Hash // the id that it merged into, as of that merge; zero while it holds a tree: root and keys are zero else
	number int32          // of the action that it is named by, once it has merged
}

func (r identityRecord) merged() bool { return r.into != chainhash.Hash{} }

func (r identityRecord) appendTo(b []byte) []byte {
	if r.merged() {
		return naming{r.into, r.number}.appendTo(b)
	}
	return binary.BigEndian.AppendUint32(append(b, r.root[:]...), r.keys)
}

func decodeIdentityRecord(b []byte) (r identityRecord, err error) {
	d := store.Decoder{Rest: b}
	if len(b) == chainhash.HashSize+4 {
		r.into, r.number = d.Hash(), d.Action()
	} else {
		r.root, r.keys = d.Key(), d.Uint32()
	}
	return r, d.Finish("identity record")
}

// nameRecord is one version of a name in a set of names that merged, the value
// under 'n'. See Draft.merge.
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
	d := store.Decoder{Rest: b}
	r := nameRecord{up: d.Hash(), weight: d.Uint32(), survivor: d.Hash()}
	return r, d.Finish("name record")
}
