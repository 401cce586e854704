package statemap

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"pgregory.net/rapid"

	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/proof"
)

// naive is the hash of a map as protocol/SPEC.md §12 says it, bit by bit, with nothing in common with the one
// that is tested.
func naive(records map[protocol.MapKey][]byte, bit int) [32]byte {
	switch len(records) {
	case 0:
		return sha256.Sum256(nil)
	case 1:
		for key, value := range records {
			b := append([]byte{0, 32}, key[:]...)
			b = append(binary.AppendUvarint(b, uint64(len(value))), value...)
			return sha256.Sum256(b)
		}
	}
	sides := [2]map[protocol.MapKey][]byte{{}, {}}
	for key, value := range records {
		sides[key[bit/8]>>(7-bit%8)&1][key] = value
	}
	if len(sides[0]) == 0 || len(sides[1]) == 0 {
		return naive(records, bit+1)
	}
	left, right := naive(sides[0], bit+1), naive(sides[1], bit+1)
	b := binary.AppendUvarint([]byte{1}, uint64(bit))
	return sha256.Sum256(append(append(b, left[:]...), right[:]...))
}

// owner gives records numbers.
type owner struct {
	keys    []protocol.MapKey
	numbers map[protocol.MapKey]int32
}

func (o *owner) ref(key protocol.MapKey) int32 {
	n, ok := o.numbers[key]
	if !ok {
		if o.numbers == nil {
			o.numbers = make(map[protocol.MapKey]int32)
		}
		n = int32(len(o.keys))
		o.keys, o.numbers[key] = append(o.keys, key), n
	}
	return n
}

func (o *owner) key(ref int32) (protocol.MapKey, error) { return o.keys[ref], nil }

func (o *owner) set(key protocol.MapKey, value []byte) Change {
	return NewChange(key, o.ref(key), value)
}

func apply(t rapid.TB, m *Map, o *owner, changes []Change) Map {
	t.Helper()
	next, err := m.Apply(changes, o.key)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

// TestTreeFormat pins the hashes to vectors of filippo.io/torchwood/mpt, testdata/treehash.txt, as far as their
// map keys have 32 bytes.
func TestTreeFormat(t *testing.T) {
	for _, v := range []struct{ records, root string }{
		{"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
		{`4888ffe82a7d2964fbd4fa329f1509960024fd70e393cd5a1945bb41d0964d5c 70be652ae9dffdd30243acd6487b0bebdac46aff230c8ac383e29d79dbd8915d`,
			"2a698354db3d6d1e4205dc2ca99f9b5925612fd3641ce5bc3400ab521052c1e9"},
		{`0000000000000000000000000000000000000000000000000000000000000000 920c9d26acc22861bcd8de8737683b0b4cfaf0dfb7e80b4774421517bf8489c8
8000000000000000000000000000000000000000000000000000000000000000 5f9895fa7d0d2ecb5d14d6dd0bda94f6b86cd8b197377445405576ac04279d3b`,
			"6b6f242a8dcfacd8bc1213d4453852a2127b398c65a7684a2e1af666f6356061"},
		{`aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa0000 d40ee8abad7b6dd20a3e437b2fe42ed96a04a622435cb79bcfc498a9e76f2069
aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa0100 1ee5c16df9f56ca48ab7cab839813a0fc53ffd57b8b6fd5fec34139855c3ed81`,
			"6267acde2a12f4da5666e44cb63779798523d5b07fb09ed1a7ea38aaaf3bcd75"},
		{`0000000000000000000000000000000000000000000000000000000000000000 cc406618223e1e591b2cec004a8c7c1bf4eeb09aec43600381eedacac20f2bf9
4000000000000000000000000000000000000000000000000000000000000000 6b371a019461913d1c26b038eff19680952e6e1c51c87db18a94f3a1b565f6c7
8000000000000000000000000000000000000000000000000000000000000000 d5819ee69ad23ea2c4612acab96a6ed0085a9a4800d33497ccfdc37ce09c6f32`,
			"3b5ae657915d8cd94abdf4362daf5397d0b74cea7edfcb88b2ad3a21bd0c6efd"},
		{`ffffffffffffffffffffffffffffffff00000000000000000000000000000000 a3b93625e143e33744bc532953260c66bcdb124ff930e6a55257558871df9e72
ffffffffffffffffffffffffffffffff80000000000000000000000000000000 4f02252ceaba90d9997b0f84bface6cd661dcb1779c5beb55d1eec2510680464`,
			"55664663e0148e90b47b18ec9660b0a9c5d83b03fc0235fcb8938763d7d3ed7f"},
	} {
		var o owner
		var changes []Change
		for _, line := range strings.Split(v.records, "\n") {
			if key, value, ok := strings.Cut(line, " "); ok {
				changes = append(changes, o.set(protocol.MapKey(unhex(t, key)), unhex(t, value)))
			}
		}
		m := apply(t, &Map{}, &o, changes)
		if got := m.Root(); hex.EncodeToString(got[:]) != v.root {
			t.Errorf("root %x, expected %s, of\n%s", got, v.root, v.records)
		}
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestExample follows the example of protocol/SPEC.md §12.
func TestExample(t *testing.T) {
	key := func(b byte) (k protocol.KeyHash) { return protocol.KeyHash(bytes.Repeat([]byte{b}, len(k))) }
	tx := func(b byte) (h chainhash.Hash) { return chainhash.Hash(bytes.Repeat([]byte{b}, len(h))) }
	var m Map
	var o owner
	next := func(want string, changes ...Change) {
		t.Helper()
		if m = apply(t, &m, &o, changes); want != hex.EncodeToString(bytes.Join([][]byte{sliced(m.Root())}, nil)) {
			t.Errorf("root %x, expected %s", m.Root(), want)
		}
	}
	ofKey := func(r protocol.KeyRecord) Change { return o.set(r.MapKey(), r.AppendTo(nil)) }
	ofID := func(r protocol.IDRecord) Change { return o.set(r.MapKey(), r.AppendTo(nil)) }
	next("5d752d9222a57f5c034b37cfca29acc1aff0f724e48be17d7206d69164094fdb",
		ofKey(protocol.KeyRecord{Key: key(0x11), Parent: key(0x22), Accept: tx(0xbb), Height: 100}),
		ofKey(protocol.KeyRecord{Key: key(0x22), ID: tx(0xaa), Height: 100}),
		ofID(protocol.IDRecord{ID: tx(0xaa), Root: key(0x22)}))
	next("f6a2836a0d7a09ecb0935c11359ca1e1f8f867d81cf8cf1200ebaa6a5a2c3a3b",
		ofKey(protocol.KeyRecord{Key: key(0x11), ID: tx(0xcc), Height: 102}),
		ofID(protocol.IDRecord{ID: tx(0xcc), Root: key(0x11)}))
	next("e9c49d0ad68ff4a963a2e9c413cfa1333658f8216545f5de7d3f8c43d0e1d495",
		ofKey(protocol.KeyRecord{Key: key(0x22), Parent: key(0x11), Accept: tx(0xee), Height: 103}),
		ofKey(protocol.KeyRecord{Key: key(0x11), ID: tx(0xaa), Height: 103}),
		ofID(protocol.IDRecord{ID: tx(0xaa), Root: key(0x11)}),
		ofID(protocol.IDRecord{ID: tx(0xcc), Merged: true, Into: tx(0xaa)}))
}

func sliced(h [32]byte) []byte { return h[:] }

// drawKey draws a map key; many have long beginnings in common, as an attacker would make them.
func drawKey(t *rapid.T) (key protocol.MapKey) {
	n := rapid.IntRange(0, 400).Draw(t, "key")
	key = sha256.Sum256(binary.BigEndian.AppendUint32(nil, uint32(n)))
	if n%4 == 0 {
		clear(key[:8+n%5*5]) // they are told apart behind what is held of them
	}
	return key
}

// TestAnyOrder: whatever comes and goes, in whatever steps, the root is that of the records alone, and so is the
// shape; versions stay what they were; and the path of each map key proves what it should.
func TestAnyOrder(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	rapid.Check(t, func(t *rapid.T) {
		var o owner
		records := make(map[protocol.MapKey][]byte)
		var m Map
		type version struct {
			Map
			root [32]byte
		}
		var versions []version
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			changes := make(map[protocol.MapKey]Change)
			for range rapid.IntRange(0, 60).Draw(t, "changes") {
				key := drawKey(t)
				if rapid.IntRange(0, 2).Draw(t, "what") == 0 {
					changes[key] = Change{Key: key, Gone: true}
					delete(records, key)
				} else {
					records[key] = []byte{rapid.Byte().Draw(t, "value")}
					changes[key] = o.set(key, records[key])
				}
			}
			m = apply(t, &m, &o, slices.Collect(maps.Values(changes)))
			if want := naive(records, 0); m.Root() != want || m.Len() != len(records) {
				t.Fatalf("root %x of %d records, expected %x of %d", m.Root(), m.Len(), want, len(records))
			}
			versions = append(versions, version{m, m.Root()})
		}
		checkBuilt(t, &m, &o)
		for _, v := range versions {
			if v.Map.Root() != v.root {
				t.Fatal("a version has changed")
			}
		}
		var keys []protocol.MapKey
		for n := range 420 {
			key := protocol.MapKey(sha256.Sum256(binary.BigEndian.AppendUint32(nil, uint32(n))))
			if n%4 == 0 {
				clear(key[:8+n%5*5])
			}
			checkShown(t, &m, &o, records, key)
			keys = append(keys, key)
		}
		checkShown(t, &m, &o, records, keys...)
		checkShown(t, &m, &o, records, rapid.SliceOfN(rapid.SampledFrom(keys), 1, 30).Draw(t, "shown")...)
	})
}

// builder returns one that has the leaves of a map, in no order.
func builder(m *Map) *Builder {
	b := NewBuilder(m.Len())
	m.root.each(func(l *leaf) bool {
		b.leaves = append(b.leaves, *l)
		return true
	})
	rand.New(rand.NewPCG(1, 1)).Shuffle(len(b.leaves), func(i, j int) { b.leaves[i], b.leaves[j] = b.leaves[j], b.leaves[i] })
	return b
}

// encode returns the leaves of a map, encoded.
func encode(m *Map) (all []byte) {
	for leaf := range m.Leaves() {
		all = append(all, leaf...)
	}
	return all
}

// checkBuilt builds a map again, of its leaves in no order, and encoded.
func checkBuilt(t rapid.TB, m *Map, o *owner) {
	t.Helper()
	check := func(what string, again Map, err error) {
		t.Helper()
		if err != nil || again.Root() != m.Root() || again.Len() != m.Len() {
			t.Fatalf("%s: root %x of %d records, %v, expected %x of %d", what, again.Root(), again.Len(), err, m.Root(), m.Len())
		}
		if got, want := shape(again.root), shape(m.root); got != want {
			t.Fatalf("%s: it has the shape %s, not %s", what, got, want)
		}
	}
	for _, most := range []int{1, 30, partLeaves} { // few records have many parts
		again, err := build(unsorted(builder(m).leaves), m.Len(), most, o.key)
		check(fmt.Sprintf("built in parts of %d", most), again, err)
		again, err = build(encoded{bytes.NewReader(encode(m))}, m.Len(), most, o.key)
		check(fmt.Sprintf("read in parts of %d", most), again, err)
	}
}

// TestNoLeaves reads and builds what is not the leaves of a map, in one part and in many.
func TestNoLeaves(t *testing.T) {
	var o owner
	var changes []Change
	for n := range 300 {
		key := protocol.MapKey(sha256.Sum256(binary.BigEndian.AppendUint32(nil, uint32(n))))
		if n%5 == 0 {
			clear(key[:8]) // they are told apart behind what is held of them
		}
		changes = append(changes, o.set(key, nil))
	}
	m := apply(t, &Map{}, &o, changes)
	right := encode(&m)
	swapped := func(i, j int) []byte {
		all := slices.Clone(right)
		copy(all[i*LeafSize:], right[j*LeafSize:(j+1)*LeafSize])
		copy(all[j*LeafSize:], right[i*LeafSize:(i+1)*LeafSize])
		return all
	}
	twice := func(i, j int) []byte {
		all := slices.Clone(right)
		copy(all[j*LeafSize:], right[i*LeafSize:(i+1)*LeafSize])
		return all
	}
	for _, most := range []int{1, 20, partLeaves} {
		for _, c := range []struct {
			what   string
			leaves []byte
			want   error
		}{
			{"as they are", right, nil},
			{"neighbours swapped", swapped(200, 201), ErrLeaves},
			{"neighbours swapped whose map keys begin alike", swapped(10, 11), ErrLeaves},
			{"the ends swapped", swapped(0, 299), ErrLeaves},
			{"one twice", twice(200, 201), ErrLeaves},
			{"one twice whose map key begins as others do", twice(10, 11), ErrLeaves},
			{"one, far from itself, twice", twice(20, 250), ErrLeaves},
			{"all the same", bytes.Repeat(right[:LeafSize], 300), ErrLeaves},
			{"cut", right[:len(right)-1], io.ErrUnexpectedEOF},
			{"none", nil, io.ErrUnexpectedEOF},
		} {
			got, err := build(encoded{bytes.NewReader(c.leaves)}, m.Len(), most, o.key)
			if !errors.Is(err, c.want) || err == nil && got.Root() != m.Root() {
				t.Errorf("%s, in parts of %d: %v, want %v", c.what, most, err, c.want)
			}
		}
		for _, of := range []int{10, 200} {
			leaves := builder(&m).leaves
			if _, err := build(unsorted(append(leaves, leaves[of])), len(leaves)+1, most, o.key); !errors.Is(err, ErrLeaves) {
				t.Errorf("one twice in no order, in parts of %d: %v", most, err)
			}
		}
	}
}

// checkFound checks where the search for a map key ends.
func checkFound(t rapid.TB, m *Map, o *owner, records map[protocol.MapKey][]byte, key protocol.MapKey) (at protocol.MapKey, ok bool) {
	t.Helper()
	found, ok, err := m.Find(key, o.key)
	value, is := records[key]
	switch {
	case err != nil:
		t.Fatal(err)
	case ok != (len(records) > 0):
		t.Fatalf("search for %x: %v of %d records", key, ok, len(records))
	case !ok:
		return at, false
	}
	at = o.keys[found.Ref]
	if is != (at == key) {
		t.Fatalf("search for %x leads to %x", key, at)
	}
	if !is {
		value = records[at]
	}
	if found.Hash != protocol.MapLeafHash(at, value) {
		t.Fatalf("search for %x leads to another hash", key)
	}
	return at, true
}

// checkShown checks the tree that shows where the search for some map keys ends, as who has only the root would.
func checkShown(t rapid.TB, m *Map, o *owner, records map[protocol.MapKey][]byte, keys ...protocol.MapKey) {
	t.Helper()
	shown := make(map[protocol.MapKey]bool)
	for _, key := range keys {
		if at, ok := checkFound(t, m, o, records, key); ok {
			shown[at] = true
		}
	}
	var list []Shown
	for _, key := range slices.SortedFunc(maps.Keys(shown), func(a, b protocol.MapKey) int { return bytes.Compare(a[:], b[:]) }) {
		list = append(list, Shown{key, records[key]})
	}
	var tree proof.StateTree
	if err := m.Show(&tree, list, o.key); err != nil {
		t.Fatal(err)
	}
	r := treeReader{rest: tree.Bytes(), records: list}
	if root := r.node(t, nil); root != m.Root() || len(r.rest) > 0 || len(r.records) > 0 {
		t.Fatalf("the tree that shows %d records leads to %x, and has %d bytes and %d records left", len(list), root, len(r.rest), len(r.records))
	}
}

// treeReader reads a tree whose records have one byte.
type treeReader struct {
	rest    []byte
	records []Shown
}

func (r *treeReader) take(n int) []byte {
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

// node reads a node below some bits, each with the side that is taken.
func (r *treeReader) node(t rapid.TB, above [][2]int) [32]byte {
	kind := r.take(1)[0]
	switch kind {
	case 0:
		return protocol.EmptyMapHash()
	case 1:
		record := r.records[0]
		r.records = r.records[1:]
		for _, taken := range above {
			if int(record.Key.Bit(taken[0])) != taken[1] {
				t.Fatalf("map key %x is on side %d of a node with bit %d", record.Key, taken[1], taken[0])
			}
		}
		return protocol.MapLeafHash(record.Key, r.take(len(record.Record)))
	}
	bit := int(r.take(1)[0])
	if len(above) > 0 && bit <= above[len(above)-1][0] {
		t.Fatalf("a node with bit %d is below %v", bit, above)
	}
	var sides [2][32]byte
	for side := range 2 {
		if kind == 3 && side == 0 || kind == 4 && side == 1 {
			sides[side] = [32]byte(r.take(32))
		} else {
			sides[side] = r.node(t, append(slices.Clip(above), [2]int{bit, side}))
		}
	}
	return protocol.MapNodeHash(bit, sides[0], sides[1])
}

// shape describes what nodes there are.
func shape(n *node) string {
	switch {
	case n == nil:
		return "-"
	case n.isPage():
		return fmt.Sprint(len(n.leaves))
	}
	return "(" + shape(n.sides[0]) + " " + shape(n.sides[1]) + ")"
}

// TestKeyByRefFails: an error of the owner's comes out.
func TestKeyByRefFails(t *testing.T) {
	var o owner
	a, b := protocol.MapKey{31: 1}, protocol.MapKey{31: 2}
	m := apply(t, &Map{}, &o, []Change{o.set(a, []byte("a"))})
	broken := errors.New("the store is damaged")
	fails := func(int32) (protocol.MapKey, error) { return protocol.MapKey{}, broken }
	if next, err := m.Apply([]Change{o.set(a, []byte("another"))}, fails); err != nil || next.Root() == m.Root() {
		t.Errorf("Apply to what is there, which is found by its number: %v", err)
	}
	if _, err := m.Apply([]Change{o.set(b, []byte("b"))}, fails); !errors.Is(err, broken) {
		t.Errorf("Apply: %v", err)
	}
	two := apply(t, &m, &o, []Change{o.set(b, []byte("b"))})
	if _, _, err := two.Find(b, fails); !errors.Is(err, broken) {
		t.Errorf("Find: %v", err)
	}
	if err := two.Show(new(proof.StateTree), []Shown{{b, []byte("b")}}, fails); !errors.Is(err, broken) {
		t.Errorf("Show: %v", err)
	}
	if _, err := builder(&two).Map(fails); !errors.Is(err, broken) {
		t.Errorf("Builder: %v", err)
	}
	if _, err := Read(bytes.NewReader(encode(&two)), two.Len(), fails); !errors.Is(err, broken) {
		t.Errorf("Read: %v", err)
	}
}

// BenchmarkMap prints what a map of a million records costs: in memory, to be built, per record changed in
// blocks of few and of many, and per path.
func BenchmarkMap(b *testing.B) {
	const records = 1_000_000
	keys := make([]protocol.MapKey, records)
	for i := range keys {
		keys[i] = sha256.Sum256(binary.BigEndian.AppendUint32(nil, uint32(i)))
	}
	keyOf := func(ref int32) (protocol.MapKey, error) { return keys[ref], nil }
	record := make([]byte, 109)
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	start := time.Now()
	builder := NewBuilder(records)
	for i := range keys {
		builder.Add(NewChange(keys[i], int32(i), record))
	}
	m, err := builder.Map(keyOf)
	if err != nil {
		b.Fatal(err)
	}
	build := time.Since(start)
	b.Logf("%d records: built in %v, %d bytes each", records, build, (heap()-before)/records)
	random := rand.New(rand.NewPCG(1, 2))
	for _, block := range []int{1, 10, 1000, 100_000} {
		b.Run(fmt.Sprintf("block=%d", block), func(b *testing.B) {
			b.ReportAllocs()
			changes := make([]Change, block)
			for n := 0; n < b.N; n += block {
				chosen := make(map[int]bool)
				for i := range changes {
					at := random.IntN(records)
					for chosen[at] {
						at = random.IntN(records)
					}
					chosen[at] = true
					binary.BigEndian.PutUint32(record, uint32(n))
					changes[i] = NewChange(keys[at], int32(at), record)
				}
				if m, err = m.Apply(changes, keyOf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("find", func(b *testing.B) {
		for b.Loop() {
			if _, ok, err := m.Find(keys[random.IntN(records)], keyOf); !ok || err != nil {
				b.Fatal(ok, err)
			}
		}
	})
	runtime.KeepAlive(builder)
}

// TestBeside: what versions are said to take beside the last one is about what the heap has for them.
func TestBeside(t *testing.T) {
	if testing.Short() {
		t.Skip("it measures the heap")
	}
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	const records = 60_000
	keys := make([]protocol.MapKey, 2*records)
	for i := range keys {
		keys[i] = sha256.Sum256(binary.BigEndian.AppendUint32(nil, uint32(i)))
	}
	keyOf := func(ref int32) (protocol.MapKey, error) { return keys[ref], nil }
	random := rand.New(rand.NewPCG(1, 2))
	for _, what := range []string{"changes", "additions", "removals"} {
		b := NewBuilder(records)
		for i := range records {
			b.Add(NewChange(keys[i], int32(i), []byte("a record")))
		}
		m, err := b.Map(keyOf)
		if err != nil {
			t.Fatal(err)
		}
		versions := []Map{m}
		said := int64(0)
		for n := range 20 {
			chosen := make(map[int]bool)
			var changes []Change
			for range 500 {
				at := random.IntN(records)
				switch what {
				case "additions":
					at = records + 500*n + len(changes)
				case "removals":
					at = 500*n + len(changes)
				}
				if !chosen[at] {
					c := NewChange(keys[at], int32(at), binary.BigEndian.AppendUint32(nil, uint32(n)))
					c.Gone = what == "removals"
					chosen[at], changes = true, append(changes, c)
				}
			}
			next, err := m.Apply(changes, keyOf)
			if err != nil {
				t.Fatal(err)
			}
			said += next.Beside(&m)
			m = next
			versions = append(versions, m)
		}
		with := heap()
		runtime.KeepAlive(versions)
		versions = nil
		took := with - heap()
		runtime.KeepAlive(m)
		t.Logf("%s: 20 versions take %d kB, it is said %d kB", what, took>>10, said>>10)
		if ratio := float64(said) / float64(took); ratio < 0.8 || ratio > 2 {
			t.Errorf("%s: 20 versions take %d bytes, it is said %d", what, took, said)
		}
	}
}
