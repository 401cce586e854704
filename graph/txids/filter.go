package txids

import "slices"

// filter tells of a chunk which hashes it does not have: a Bloom filter. Of those that it does not
// have one in a thousand looks as if it had.
type filter []uint64

// filterBits is how many bits a filter has per entry, filterProbes how many an entry sets. Reading a
// chunk in vain costs as much as applying some actions.
const (
	filterBits   = 16
	filterProbes = 7
)

// filterBytes is how many bytes the filters of so many entries take.
func filterBytes(entries uint32) int { return int(entries) / 8 * filterBits }

func newFilter(entries []uint64) filter {
	f := make(filter, len(entries)*filterBits/64+1)
	for _, e := range entries {
		for i := range uint32(filterProbes) {
			word, bit := f.probe(hashOf(e), i)
			f[word] |= bit
		}
	}
	return f
}

// probe returns a bit of a hash. All hashes in a chunk begin with the same bits, so they are mixed.
func (f filter) probe(hash, i uint32) (word int, bit uint64) {
	mixed := uint64(hash) * 0x9e3779b97f4a7c15
	at := uint64(uint32(mixed>>32)+i*(uint32(mixed)|1)) * uint64(len(f)) >> 26
	return int(at >> 6), 1 << (at & 63)
}

// mayHave reports whether the chunk may have a hash.
func (f filter) mayHave(hash uint32) bool {
	for i := range uint32(filterProbes) {
		if word, bit := f.probe(hash, i); f[word]&bit == 0 {
			return false
		}
	}
	return true
}

// filtered returns which runs have room for filters, by index: the smallest, as many as may.
func (x *Index) filtered() []bool {
	order := make([]int, len(x.runs))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return int(x.runs[a].size) - int(x.runs[b].size) })
	room, is := x.filters, make([]bool, len(x.runs))
	for _, i := range order {
		room -= filterBytes(x.runs[i].size)
		is[i] = room >= 0
	}
	return is
}
