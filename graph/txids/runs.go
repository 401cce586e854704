package txids

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/bits"
	"slices"

	"github.com/keytree-bch/keytree/graph/store"
)

const (
	// chunkEntries is how many entries a chunk has on average, at most.
	chunkEntries = 512
	// fanIn is how many runs of about the same size are merged into one.
	fanIn = 8
	// mergeRate is by how many entries each merge goes on per action that is flushed. With 4 it ends
	// before two more runs have come that are as large as those that it merges.
	mergeRate = 4
)

// run is sorted entries in the store.
type run struct {
	id   uint32
	bits uint8  // with how many bits alike hashes share a chunk: there are 1<<bits chunks
	size uint32 // how many entries there are, at most
	// The chunks from first up to end are there. A run that is being made has no others yet; of one
	// that is being merged those before have been.
	first, end uint32
	known      int32  // the numbers from that on are not those of these actions any more
	into       uint32 // id of the run that it is being merged into, 0: none

	filters []filter // of the chunks up to end; shorter: those have none
}

// crcTable is that of CRC-32C.
var crcTable = crc32.MakeTable(crc32.Castagnoli)

// crcSize is the size of the checksum at the end of chunks and of the list of runs, in bytes.
const crcSize = 4

func withChecksum(b []byte) []byte {
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, crcTable))
}

// checkSum reports whether the checksum at the end of a value is right.
func checkSum(b []byte) bool {
	return len(b) >= crcSize && crc32.Checksum(b[:len(b)-crcSize], crcTable) == binary.BigEndian.Uint32(b[len(b)-crcSize:])
}

// chunkOf returns the number of the chunk that a hash belongs to.
func (r *run) chunkOf(hash uint32) uint32 { return hash >> (32 - r.bits) }

// complete reports whether all chunks are made.
func (r *run) complete() bool { return r.end == 1<<r.bits }

// mayHave reports whether a chunk has to be read for a hash.
func (r *run) mayHave(hash uint32) bool {
	n := r.chunkOf(hash)
	if n < r.first || n >= r.end {
		return false
	}
	return int(n) >= len(r.filters) || r.filters[n].mayHave(hash)
}

func (r *run) key(chunk uint32) []byte { return store.RunKey(r.id, chunk) }

// chunk is entries as they are stored, and their checksum.
type chunk []byte

func (c chunk) len() int { return len(c) / 8 }

func (c chunk) entry(i int) uint64 { return binary.BigEndian.Uint64(c[8*i:]) }

// read reads a chunk that must be there.
func (r *run) read(txn *store.Txn, n uint32) (chunk, error) {
	value, err := store.Read(txn, r.key(n))
	if err == nil && len(value)%8 != crcSize {
		err = fmt.Errorf("%w: chunk %d of run %d of txids has %d bytes", store.ErrDamaged, n, r.id, len(value))
	}
	return value, err
}

// entries reads the entries of a chunk, and compares its checksum.
func (r *run) entries(txn *store.Txn, n uint32) ([]uint64, error) {
	c, err := r.read(txn, n)
	if err != nil {
		return nil, err
	}
	if !checkSum(c) {
		return nil, fmt.Errorf("%w: the checksum of chunk %d of run %d of txids is wrong", store.ErrDamaged, n, r.id)
	}
	entries := make([]uint64, c.len())
	for i := range entries {
		entries[i] = c.entry(i)
	}
	return entries, nil
}

// write makes the next chunk.
func (r *run) write(entries []uint64, set func(key, value []byte)) {
	value := make([]byte, 0, 8*len(entries)+crcSize)
	for _, e := range entries {
		value = binary.BigEndian.AppendUint64(value, e)
	}
	set(r.key(r.end), withChecksum(value))
	if len(r.filters) == int(r.end) {
		r.filters = append(r.filters, newFilter(entries))
	}
	r.end++
}

// newRun returns a run of so many entries at most, none of which it has yet.
func (x *Index) newRun(size uint32, known int32) run {
	r := run{id: 1, size: size, known: known}
	if n := len(x.runs); n > 0 {
		r.id = x.runs[n-1].id + 1
	}
	r.bits = uint8(bits.Len32((max(size, 1) - 1) / chunkEntries))
	return r
}

// Settle moves the entries in memory into a run if there are so many, and goes on with the merges.
// txn reads the store without the step. set takes what has to be durable before the tip is. The
// records with the returned keys may be removed once it is.
func (x *Index) Settle(txn *store.Txn, most int, set func(key, value []byte)) (obsolete [][]byte, err error) {
	held := x.held()
	if held < most {
		return nil, nil
	}
	x.runs = slices.Clone(x.runs)
	x.beginMerges()
	for _, id := range x.merging() {
		keys, err := x.merge(txn, id, mergeRate*held, set)
		if err != nil {
			return nil, err
		}
		obsolete = append(obsolete, keys...)
	}
	x.flush(set)
	for i, is := range x.filtered() {
		if !is {
			x.runs[i].filters = nil
		}
	}
	set([]byte{store.PrefixRuns}, x.encode())
	return obsolete, nil
}

// flush writes the entries in memory as a run.
func (x *Index) flush(set func(key, value []byte)) {
	var all []uint64
	for _, list := range slices.Backward(x.recent) {
		all = merged(list, all)
	}
	r := x.newRun(uint32(len(all)), x.next)
	for !r.complete() {
		n := 0
		for n < len(all) && r.chunkOf(hashOf(all[n])) == r.end {
			n++
		}
		r.write(all[:n], set)
		all = all[n:]
	}
	x.runs, x.recent, x.flushed = append(x.runs, r), nil, x.next
}

// beginMerges begins a merge for each size of which there are enough runs. Sizes are alike within a
// factor of fanIn.
func (x *Index) beginMerges() {
	var alike [32][]int // indices, by size
	made := len(x.runs)
	for i := range made {
		if r := &x.runs[i]; r.into == 0 && r.complete() {
			of := bits.Len32(r.size) / bits.Len(fanIn-1)
			alike[of] = append(alike[of], i)
		}
	}
	for _, sources := range alike {
		if len(sources) < fanIn {
			continue
		}
		size, known := uint32(0), int32(0)
		for _, i := range sources {
			size += x.runs[i].size
			known = max(known, x.runs[i].known)
		}
		into := x.newRun(size, known)
		for _, i := range sources {
			x.runs[i].into = into.id
		}
		x.runs = append(x.runs, into)
	}
}

// merging returns the ids of the runs that others are being merged into.
func (x *Index) merging() (ids []uint32) {
	for i := range x.runs {
		if into := x.runs[i].into; into != 0 && !slices.Contains(ids, into) {
			ids = append(ids, into)
		}
	}
	return ids
}

// source is a run that is read for a merge, in order.
type source struct {
	*run
	read  uint32   // the chunk that was read last
	left  []uint64 // of its entries, those not taken yet
	begun bool
}

// take appends the entries whose chunk in another run, which has no larger ones, is that of a number.
func (s *source) take(txn *store.Txn, all []uint64, of *run, number uint32) ([]uint64, error) {
	if n := number >> (of.bits - s.bits); !s.begun || n != s.read {
		entries, err := s.entries(txn, n)
		if err != nil {
			return nil, err
		}
		s.begun, s.read, s.left = true, n, entries
	}
	for ; len(s.left) > 0; s.left = s.left[1:] {
		e := s.left[0]
		at := of.chunkOf(hashOf(e))
		if at > number {
			break
		}
		if at == number && numberOf(e) < s.known {
			all = append(all, e)
		}
	}
	return all, nil
}

// merge goes on with the merge into a run by so many entries, or a few more. It returns the keys of
// the chunks that have been merged.
func (x *Index) merge(txn *store.Txn, id uint32, entries int, set func(key, value []byte)) (obsolete [][]byte, err error) {
	var into *run
	var sources []*source
	for i := range x.runs {
		if r := &x.runs[i]; r.id == id {
			into = r
			into.filters = slices.Clip(into.filters) // the version before has them
		} else if r.into == id {
			sources = append(sources, &source{run: r})
		}
	}
	for entries > 0 && !into.complete() {
		var all []uint64
		for _, s := range sources {
			if all, err = s.take(txn, all, into, into.end); err != nil {
				return nil, err
			}
		}
		slices.Sort(all)
		into.write(all, set)
		entries -= max(1, len(all))
	}
	for _, s := range sources {
		for end := into.end >> (into.bits - s.bits); s.first < end; s.first++ {
			obsolete = append(obsolete, s.key(s.first))
		}
	}
	x.runs = slices.DeleteFunc(x.runs, func(r run) bool { return r.into == id && r.first == r.end })
	return obsolete, nil
}

// The list of runs, under store.PrefixRuns: the secret, the number below which all actions are in
// runs, and of each run its fields but for the filters; a checksum. Integers are big-endian.

// encode returns the list of runs.
func (x *Index) encode() []byte {
	b := binary.BigEndian.AppendUint32(slices.Clone(x.secret[:]), uint32(x.flushed))
	for i := range x.runs {
		r := &x.runs[i]
		b = append(b, r.bits)
		for _, v := range [...]uint32{r.id, r.size, r.first, r.end, uint32(r.known), r.into} {
			b = binary.BigEndian.AppendUint32(b, v)
		}
	}
	return withChecksum(b)
}

// Begin is the record with which a new database has an index, of no actions.
func Begin() store.Entry {
	x := New()
	return store.Entry{Key: []byte{store.PrefixRuns}, Value: x.encode()}
}

// Load returns the index of the runs in the store, with filters of so many bytes at most, which it
// makes of them. The actions from Flushed on have to be added. store.ErrDamaged.
func Load(txn *store.Txn, filters int) (Index, error) {
	x, err := decode(txn)
	if err != nil {
		return x, err
	}
	x.filters = filters
	for i, is := range x.filtered() {
		r := &x.runs[i]
		for n := uint32(0); is && n < r.end; n++ {
			var f filter // of one that has been merged: nobody asks it
			if n >= r.first {
				entries, err := r.entries(txn, n)
				if err != nil {
					return x, err
				}
				f = newFilter(entries)
			}
			r.filters = append(r.filters, f)
		}
	}
	return x, nil
}

// decode reads the list of runs.
func decode(txn *store.Txn) (x Index, err error) {
	value, err := store.Read(txn, []byte{store.PrefixRuns})
	if err != nil {
		return x, err
	}
	if !checkSum(value) {
		return x, fmt.Errorf("%w: the list of runs of txids is missing, or its checksum is wrong", store.ErrDamaged)
	}
	d := store.Decoder{Rest: value[:len(value)-crcSize]}
	copy(x.secret[:], d.Take(len(x.secret)))
	x.flushed = d.Action()
	x.next = x.flushed
	last := uint32(0)
	for len(d.Rest) > 0 {
		r := run{bits: d.Byte(), id: d.Uint32(), size: d.Uint32(), first: d.Uint32(), end: d.Uint32(), known: d.Action(), into: d.Uint32()}
		if r.id <= last || r.bits >= 32 || r.first > r.end || r.end > 1<<r.bits || r.into != 0 && r.into <= r.id {
			return x, fmt.Errorf("%w: run %d of txids is not possible: %+v", store.ErrDamaged, r.id, r)
		}
		last = r.id
		x.runs = append(x.runs, r)
	}
	for _, id := range x.merging() {
		at, ok := slices.BinarySearchFunc(x.runs, id, func(r run, id uint32) int { return int(r.id) - int(id) })
		if !ok || slices.ContainsFunc(x.runs, func(r run) bool { return r.into == id && r.bits > x.runs[at].bits }) {
			return x, fmt.Errorf("%w: txids are merged into run %d, which cannot be", store.ErrDamaged, id)
		}
	}
	return x, d.Finish("list of runs of txids")
}

// EachLeftover visits the keys of the chunks that are of no run: steps that were not finished have
// left them. It seeks once or twice for each run, and reads keys alone.
func (x *Index) EachLeftover(txn *store.Txn, visit func(key []byte) error) error {
	it := store.NewIterator(txn, []byte{store.PrefixRun})
	defer it.Close()
	for it.Rewind(); it.Valid(); {
		key := it.Item().Key()
		id, n, ok := store.ParseRunKey(key)
		at, listed := slices.BinarySearchFunc(x.runs, id, func(r run, id uint32) int { return int(r.id) - int(id) })
		switch {
		case !ok: // nobody has written it
		case listed && n >= x.runs[at].first && n < x.runs[at].end:
			store.Seek(it, x.runs[at].key(x.runs[at].end))
			continue
		default:
			if err := visit(it.Item().KeyCopy()); err != nil {
				return err
			}
		}
		it.Next()
	}
	return nil
}

// Tidy lets the store have the index as it is, and no chunk that is of no run. That is needed before
// the step after one that was not finished, or that took a block back. txn reads the store.
func (x *Index) Tidy(txn *store.Txn, to store.Committer) error {
	stored, err := store.Read(txn, []byte{store.PrefixRuns})
	if err != nil {
		return err
	}
	var entries []store.Entry
	if list := x.encode(); string(list) != string(stored) {
		entries = append(entries, store.Entry{Key: []byte{store.PrefixRuns}, Value: list})
	}
	err = x.EachLeftover(txn, func(key []byte) error {
		entries = append(entries, store.Entry{Key: key})
		return nil
	})
	if err != nil {
		return err
	}
	return store.Commit(to, entries)
}
