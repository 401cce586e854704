package forest

import "math"

const (
	maxWidth = 32   // most entries that a node can have
	chunkLen = 1024 // entries allocated at once
)

// classes are the lengths of blocks: short ones, for small trees, cost little.
var classes = [...]int{2, 4, 6, 8, 12, 16, 24, maxWidth}

// classOf returns the class of the shortest block that holds n entries.
func classOf(n int) uint8 {
	c := uint8(0)
	for classes[c] < n {
		c++
	}
	return c
}

// blocks allocates arrays of entries in chunks of blocks of one class. Chunks
// are never moved, and go back to the runtime when None of their blocks is in
// use, but for the last one of a class.
type blocks struct {
	chunks []*[chunkLen]entry  // nil if given back
	states []chunkState        // of the chunks
	open   [len(classes)]int32 // first chunk of the class with a free block, or None
	gone   []int32             // numbers of the chunks given back
}

type chunkState struct {
	prev, next int32 // in the list that open begins
	used       int16 // blocks
	free       int16 // entry where the first free block begins, whose ref is the next; or None
	class      uint8
}

func newBlocks() blocks {
	var b blocks
	for c := range b.open {
		b.open[c] = None
	}
	return b
}

// entries returns the first n entries of the block at at.
func (b *blocks) entries(at int32, n int) []entry {
	i := int(uint32(at) % chunkLen)
	return b.chunks[uint32(at)/chunkLen][i : i+n]
}

// alloc returns a block of the class.
func (b *blocks) alloc(class uint8) int32 {
	c := b.open[class]
	if c == None {
		c = b.grow(class)
	}
	s := &b.states[c]
	at := s.free
	s.free = int16(b.chunks[c][at].ref)
	s.used++
	if s.free < 0 {
		b.close(c)
	}
	return c*chunkLen + int32(at)
}

// free takes a block back.
func (b *blocks) free(at int32) {
	c, i := at/chunkLen, at%chunkLen
	s := &b.states[c]
	b.chunks[c][i].ref = int32(s.free)
	if s.free < 0 {
		b.list(c)
	}
	s.free = int16(i)
	s.used--
	if s.used == 0 && (s.prev != None || s.next != None) {
		b.close(c)
		b.chunks[c] = nil
		b.gone = append(b.gone, c)
	}
}

// grow adds a chunk for the class.
func (b *blocks) grow(class uint8) int32 {
	var c int32
	if n := len(b.gone); n > 0 {
		c, b.gone = b.gone[n-1], b.gone[:n-1]
	} else {
		c = int32(len(b.chunks))
		if c > math.MaxInt32/chunkLen {
			panic("forest: more keys than a forest can hold")
		}
		b.chunks, b.states = append(b.chunks, nil), append(b.states, chunkState{})
	}
	chunk, size := new([chunkLen]entry), classes[class]
	for i := 0; i+size <= chunkLen; i += size {
		chunk[i].ref = int32(i + size)
		if i+2*size > chunkLen {
			chunk[i].ref = None
		}
	}
	b.chunks[c], b.states[c] = chunk, chunkState{class: class}
	b.list(c)
	return c
}

// list puts chunk c first among the open ones of its class.
func (b *blocks) list(c int32) {
	s := &b.states[c]
	s.prev, s.next = None, b.open[s.class]
	if s.next != None {
		b.states[s.next].prev = c
	}
	b.open[s.class] = c
}

// close takes chunk c from the open ones of its class.
func (b *blocks) close(c int32) {
	s := &b.states[c]
	if s.prev != None {
		b.states[s.prev].next = s.next
	} else {
		b.open[s.class] = s.next
	}
	if s.next != None {
		b.states[s.next].prev = s.prev
	}
}
