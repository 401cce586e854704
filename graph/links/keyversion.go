package links

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/cow"
	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// keyRecord is where a key stands that has been in a link, and by what it is named.
type keyRecord struct {
	hasParent bool
	parent    protocol.KeyHash
	accept    naming // the MLA of the link to parent
	request   int32  // the MLR that it accepted

	// Children stand in the order in which they were linked.
	hasFirst bool
	first    protocol.KeyHash // of its children
	hasNext  bool
	next     protocol.KeyHash // of its parent's children, after it

	id naming // of the tree whose root it is; zero if it has a parent

	since uint32 // height at which the link came into force; of a root, from which on it has been that of this id
}

// naming is an action that something is named by.
type naming struct {
	tx     chainhash.Hash
	number int32
}

// none reports whether it names nothing.
func (n *naming) none() bool { return n.tx == chainhash.Hash{} }

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
		b = binary.BigEndian.AppendUint32(b, r.since)
	}
	if r.hasFirst {
		b[at] |= flagFirst
		b = append(b, r.first[:]...)
	}
	if r.hasNext {
		b[at] |= flagNext
		b = append(b, r.next[:]...)
	}
	if !r.id.none() {
		b[at] |= flagID
		b = r.id.appendTo(b)
		b = binary.BigEndian.AppendUint32(b, r.since)
	}
	return b
}

func (n naming) appendTo(b []byte) []byte {
	return binary.BigEndian.AppendUint32(append(b, n.tx[:]...), uint32(n.number))
}

func readNaming(d *store.Decoder) naming { return naming{d.Hash(), d.Action()} }

// readKeyRecord reads what appendTo wrote.
func readKeyRecord(d *store.Decoder) (r keyRecord) {
	flags := d.Byte()
	if r.hasParent = flags&flagParent != 0; r.hasParent {
		r.parent, r.accept, r.request, r.since = d.Key(), readNaming(d), d.Action(), d.Uint32()
	}
	if r.hasFirst = flags&flagFirst != 0; r.hasFirst {
		r.first = d.Key()
	}
	if r.hasNext = flags&flagNext != 0; r.hasNext {
		r.next = d.Key()
	}
	if flags&flagID != 0 {
		r.id, r.since = readNaming(d), d.Uint32()
	}
	return r
}

// keyVersion is a key's record as of a block that has changed it, one of those under 'k'. Versions of
// keys are numbered in the order in which they came; each block makes one at most of a key. Each names the one of its key
// before it, and from that of unlisted on they are listed by key.
type keyVersion struct {
	key protocol.KeyHash
	versionPlace
	keyRecord
}

// versionPlace is a version's place among those of its key.
type versionPlace struct {
	previous int32 // the one before it, none if it is the first
	nth      uint8 // how many are before it, unlisted at most
}

// unlisted is how many versions of a key are found by those after them alone. Few keys have more: one is made when a key is
// linked, one when it gets its first child, and one when it gets a sibling.
const unlisted = 3

// listed reports whether the version is listed.
func (p versionPlace) listed() bool { return p.nth == unlisted }

// KeysPerChunk is how many versions of keys of a block share a value.
const KeysPerChunk = 32

// appendTo appends the version to a chunk: its length, and itself.
func (v *keyVersion) appendTo(chunk []byte) []byte {
	var space [256]byte
	b := append(space[:0], v.key[:]...)
	b = binary.AppendUvarint(b, uint64(v.previous+1)*(unlisted+1)+uint64(v.nth))
	b = v.keyRecord.appendTo(b)
	return append(binary.AppendUvarint(chunk, uint64(len(b))), b...)
}

func decodeKeyVersion(b []byte) (keyVersion, error) {
	d := store.Decoder{Rest: b}
	v := keyVersion{key: d.Key()}
	place := d.Uvarint((math.MaxInt32+1)*(unlisted+1) + unlisted)
	v.versionPlace = versionPlace{int32(place/(unlisted+1) - 1), uint8(place % (unlisted + 1))}
	v.keyRecord = readKeyRecord(&d)
	if v.id.none() != v.hasParent {
		return v, fmt.Errorf("%w: key %x is neither in a link nor the root of an identity", store.ErrDamaged, v.key)
	}
	return v, d.Finish("key record")
}

// keyVersions numbers the versions of keys. It is a version itself, as package cow has them.
type keyVersions struct {
	blocks cow.Array[blockSpan] // those that have some, in order
	count  int32
}

func (k *keyVersions) fork() keyVersions { return keyVersions{k.blocks.Fork(), k.count} }

// upTo returns how many came up to the block at a height.
func (k *keyVersions) upTo(height uint32) int32 {
	if i := search(k.blocks.Len(), func(i int32) bool { return k.blocks.Ref(i).height > height }); i < k.blocks.Len() {
		return k.blocks.Ref(i).first
	}
	return k.count
}

// add numbers the next version, which is one of the block at a height.
func (k *keyVersions) add(height uint32) int32 {
	if n := k.blocks.Len(); n == 0 || k.blocks.Ref(n-1).height != height {
		k.blocks.Append(blockSpan{height, k.count})
	}
	k.count++
	return k.count - 1
}

// takeBack forgets those of the block at a height, which is the last that has some, if it has.
func (k *keyVersions) takeBack(height uint32) {
	if n := k.blocks.Len(); n > 0 && k.blocks.Ref(n-1).height == height {
		k.count = k.blocks.Ref(n - 1).first
		k.blocks.Truncate(n - 1)
	}
}

// changedKey is a key that has another record as of the block, and the place of its version.
type changedKey struct {
	key int32
	versionPlace
}

// change notes that a key has another record as of the block.
func (s *Step) change(key int32) {
	p := s.places.Edit(key)
	if p.version >= s.firstVersion {
		return // it is noted
	}
	place := versionPlace{previous: p.version}
	if p.version != none {
		place.nth = min(p.nth+1, unlisted)
	}
	s.changed = append(s.changed, changedKey{key, place})
	p.version, p.nth = s.versions.add(s.height), place.nth
}

// keyReader reads versions of keys. Not safe for concurrent use.
type keyReader struct {
	txn      *store.Txn
	versions *keyVersions
	chunk    lastChunk
	asked    int // how many were asked for
}

// read reads the version of a number.
func (r *keyReader) read(n int32) (keyVersion, error) {
	r.asked++
	if n < 0 || n >= r.versions.count {
		return keyVersion{}, fmt.Errorf("%w: version %d of keys is referred to, there are %d", store.ErrDamaged, n, r.versions.count)
	}
	span := spanOf(&r.versions.blocks, n)
	within := n - span.first
	chunk, err := r.chunk.read(r.txn, store.PrefixKey, span.height, uint32(within/KeysPerChunk))
	if err != nil {
		return keyVersion{}, err
	}
	v, err := decodeKeyVersion(inChunk(chunk, int(within%KeysPerChunk)))
	if err == nil && v.previous >= n {
		err = fmt.Errorf("%w: it says that version %d came before it", store.ErrDamaged, v.previous)
	}
	if err != nil {
		err = fmt.Errorf("version %d of the keys of block %d: %w", within, span.height, err)
	}
	return v, err
}

// pastKeys reads where keys stood as of a block. Not safe for concurrent use.
type pastKeys struct {
	state       *State
	store       *store.Iterators
	versions    int32     // how many versions of keys there were as of the block
	then, since keyReader // of these, and of the others
}

func newPastKeys(s *State, it *store.Iterators, height uint32) pastKeys {
	reader := keyReader{txn: it.Txn(), versions: &s.versions}
	return pastKeys{s, it, s.versions.upTo(height), reader, reader}
}

// record returns the record of a key as of the block, an empty one if there is none. It goes back from the newest version,
// or from the first listed one that came since: it reads four of them at most.
func (p *pastKeys) record(n int32) (r keyRecord, err error) {
	key, place := p.state.keys.Key(n), p.state.places.Ref(n)
	at := place.version
	if at >= p.versions && place.nth == unlisted {
		if at, err = p.listedSince(key); err != nil {
			return r, err
		}
	}
	for at != none {
		reader := &p.then
		if at >= p.versions {
			reader = &p.since
		}
		version, err := reader.read(at)
		if err == nil && version.key != key {
			err = fmt.Errorf("%w: version %d of keys is of key %x, not of %x", store.ErrDamaged, at, version.key, key)
		}
		if err != nil || at < p.versions {
			return version.keyRecord, err
		}
		at = version.previous
	}
	return r, nil
}

// listedSince returns the first version of a key that came since the block and is listed. There must be one.
func (p *pastKeys) listedSince(key protocol.KeyHash) (int32, error) {
	it := p.store.Over(store.PrefixVersion)
	from := store.NumberedKey(store.PrefixVersion, key, p.versions)
	it.Seek(from)
	if stem := from[:len(from)-4]; it.ValidForPrefix(stem) {
		d := store.Decoder{Rest: it.Item().Key()[len(stem):]}
		return d.Action(), d.Finish("key of a listed version")
	}
	return none, fmt.Errorf("%w: the last version of key %x is not listed", store.ErrDamaged, key)
}

// eachKeyVersion visits the versions of keys that the block at height has made, in their order.
func eachKeyVersion(txn *store.Txn, height uint32, visit func(v *keyVersion) error) error {
	return store.EachChunk(txn, store.PrefixKey, height, func(_ uint32, chunk []byte) error {
		return keyVersionsIn(chunk, visit)
	})
}

// keyVersionsIn visits the versions in a chunk.
func keyVersionsIn(chunk []byte, visit func(v *keyVersion) error) error {
	d := store.Decoder{Rest: chunk}
	for len(d.Rest) > 0 {
		v, err := decodeKeyVersion(d.Take(d.Length()))
		if err == nil {
			err = visit(&v)
		}
		if err != nil {
			return err
		}
	}
	return d.Finish("chunk of versions of keys")
}
