package proof

import (
	"encoding/binary"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
)

// The first byte of a node of a tree.
const (
	treeEmpty  = 0
	treeRecord = 1
	treeBoth   = 2 // sides are shown
	treeRight  = 3 // is shown
	treeLeft   = 4 // is shown
)

// StateTree is that part of a map which a state proof shows, while it is made: node by node, the root first, what is on
// the left before what is on the right. There is one for each set of records that are to be shown.
type StateTree struct{ b []byte }

// Bytes returns the tree as StateProof has it.
func (t *StateTree) Bytes() []byte { return t.b }

// Empty adds the node of an empty map, the only one then.
func (t *StateTree) Empty() { t.b = append(t.b, treeEmpty) }

// Record adds a record: protocol.KeyRecord or protocol.IDRecord.
func (t *StateTree) Record(record []byte) { t.b = append(append(t.b, treeRecord), record...) }

// Both begins a node whose sides differ in a bit, 0 to 255, and are shown both: they are added next.
func (t *StateTree) Both(bit int) { t.b = append(t.b, treeBoth, byte(bit)) }

// Right begins a node of which only the right side is shown, which is added next.
func (t *StateTree) Right(bit int, left [32]byte) {
	t.b = append(append(t.b, treeRight, byte(bit)), left[:]...)
}

// Left adds a node of which only the left side is shown, which add adds.
func (t *StateTree) Left(bit int, right [32]byte, add func() error) error {
	t.b = append(t.b, treeLeft, byte(bit))
	err := add()
	t.b = append(t.b, right[:]...)
	return err
}

// shownTree is a tree that was read: its hash, and how a look-up goes down it. It holds some 200 bytes for each record, and
// nothing for what is not shown.
type shownTree struct {
	hash    [32]byte
	empty   bool
	root    int32 // a branch, or ^ the number of a record
	branch  []treeBranch
	records []shownRecord // from left to right
}

// treeBranch is a node both of whose sides are shown: branches, or ^ the numbers of records.
type treeBranch struct {
	bit   uint8
	sides [2]int32
}

// shownRecord is a record of the map. One of key and id is there.
type shownRecord struct {
	at   protocol.MapKey
	key  *protocol.KeyRecord
	id   *protocol.IDRecord
	asks protocol.MapKey // bits that nodes on the way here ask for, of which one side is shown
}

// lookup returns the number of the record at which the look-up of a map key ends; ok is false if it comes to what is not
// shown. The tree is not empty.
func (t *shownTree) lookup(key *protocol.MapKey) (record int32, ok bool) {
	n := t.root
	for n >= 0 {
		b := &t.branch[n]
		n = b.sides[key.Bit(int(b.bit))]
	}
	r := &t.records[^n]
	for i := range r.at {
		if (r.at[i]^key[i])&r.asks[i] != 0 {
			return 0, false
		}
	}
	return ^n, true
}

// tree reads a tree, and checks that its form is right: bits grow on each way down, records are where their map keys
// belong, and are such as there are in the map after a block at a height.
func (r *stateReader) tree(height uint32) *shownTree {
	t := new(shownTree)
	if r.err == nil && len(r.rest) > 0 && r.rest[0] == treeEmpty {
		r.rest = r.rest[1:]
		t.empty, t.hash = true, protocol.EmptyMapHash()
		return t
	}
	n := nodeReader{stateReader: r, tree: t, height: height}
	t.hash, t.root, _ = n.node(-1)
	return t
}

// nodeReader reads the nodes of a tree.
type nodeReader struct {
	*stateReader
	tree   *shownTree
	height uint32
	asks   protocol.MapKey // as shownRecord.asks, of the node that is read
}

// node reads a node below one with a bit. It returns its hash, the node as shownTree has it, and the numbers of
// its records, which are those from the one before that was read on. The depth is that of its bits: 256 at most.
func (r *nodeReader) node(above int) (hash [32]byte, node int32, records int) {
	kind := r.byte("tree")
	switch {
	case r.err != nil:
	case kind == treeRecord:
		return r.record()
	case kind == treeBoth || kind == treeRight || kind == treeLeft:
		bit := int(r.byte("tree"))
		if bit <= above && r.err == nil {
			r.fail("a node with bit %d is below one with bit %d", bit, above)
			return
		}
		return r.sides(kind, bit)
	default:
		r.fail("expected a node (%02x to %02x), got %02x", treeRecord, treeLeft, kind)
	}
	return
}

// sides reads what is behind the bit of a node.
func (r *nodeReader) sides(kind byte, bit int) (hash [32]byte, node int32, records int) {
	var hashes [2][32]byte
	var nodes [2]int32
	if kind == treeRight {
		hashes[0] = [32]byte(r.take(32, "tree"))
	}
	asked := r.asks
	if kind == treeBoth {
		node = int32(len(r.tree.branch))
		r.tree.branch = append(r.tree.branch, treeBranch{bit: uint8(bit)})
	} else {
		r.asks[bit/8] |= 0x80 >> (bit % 8)
	}
	for side := range 2 {
		if kind == treeRight && side == 0 || kind == treeLeft && side == 1 {
			continue
		}
		var count int
		from := len(r.tree.records)
		hashes[side], nodes[side], count = r.node(bit)
		if r.err != nil {
			return
		}
		for i := from; i < from+count; i++ {
			if at := &r.tree.records[i].at; int(at.Bit(bit)) != side {
				r.fail("the record with map key %x is on side %d of a node with bit %d", at[:], side, bit)
				return
			}
		}
		records += count
	}
	if r.asks = asked; kind == treeBoth {
		r.tree.branch[node].sides = nodes
	} else {
		node = nodes[0] + nodes[1] // the other is 0
	}
	if kind == treeLeft {
		hashes[1] = [32]byte(r.take(32, "tree"))
	}
	return protocol.MapNodeHash(bit, hashes[0], hashes[1]), node, records
}

// record reads a record.
func (r *nodeReader) record() (hash [32]byte, node int32, records int) {
	if len(r.tree.records) == MaxStateRecords {
		r.fail("expected at most %d records", MaxStateRecords)
		return
	}
	var raw []byte
	shown := shownRecord{asks: r.asks}
	switch {
	case len(r.rest) > 0 && r.rest[0] == protocol.RecordOfKey:
		raw = r.take(protocol.KeyRecordSize, "record of a key")
		shown.key = r.keyRecord(raw)
		shown.at = shown.key.MapKey()
	case len(r.rest) > 0 && r.rest[0] == protocol.RecordOfID:
		raw = r.take(protocol.IDRecordSize, "record of an id")
		shown.id = r.idRecord(raw)
		shown.at = shown.id.MapKey()
	default:
		r.fail("expected a record of a key (%02x) or of an id (%02x)", protocol.RecordOfKey, protocol.RecordOfID)
	}
	if r.err != nil {
		return
	}
	r.tree.records = append(r.tree.records, shown)
	return protocol.MapLeafHash(shown.at, raw), ^int32(len(r.tree.records) - 1), 1
}

func (r *nodeReader) keyRecord(raw []byte) *protocol.KeyRecord {
	k := &protocol.KeyRecord{Key: protocol.KeyHash(raw[1:]), Parent: protocol.KeyHash(raw[21:]), Accept: chainhash.Hash(raw[41:]), ID: chainhash.Hash(raw[73:]), Height: binary.LittleEndian.Uint32(raw[105:])}
	hasID, hasAccept := k.ID != chainhash.Hash{}, k.Accept != chainhash.Hash{}
	switch {
	case k.HasParent() != hasAccept || k.HasParent() == hasID:
		r.fail("expected the record of key %x to have a parent and its MLA, or an id", k.Key[:])
	case k.Height > r.height:
		r.fail("the record of key %x is of height %d, the entry of %d", k.Key[:], k.Height, r.height)
	}
	return k
}

func (r *nodeReader) idRecord(raw []byte) *protocol.IDRecord {
	i := &protocol.IDRecord{ID: chainhash.Hash(raw[1:]), Merged: raw[33] == 1, Root: protocol.KeyHash(raw[34:]), Into: chainhash.Hash(raw[54:])}
	hasRoot, hasInto := i.Root != protocol.KeyHash{}, i.Into != chainhash.Hash{}
	if raw[33] > 1 || i.Merged == hasRoot || i.Merged != hasInto || i.Into == i.ID {
		r.fail("expected the record of id %v to be current with a root key, or merged into another id", i.ID)
	}
	return i
}
