package forest

import (
	"math"

	"github.com/keytree-bch/keytree/graph/cow"
)

const (
	maxWidth = 32 // most entries that a node can have
	chunkLen = 96 // entries allocated at once, and copied for a new version
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
	chunks  cow.Array[*chunk]     // nil if given back
	states  cow.Array[chunkState] // of the chunks
	open    [len(classes)]int32   // first chunk of the class with a free block, or None
	gone    cow.Array[int32]      // numbers of the chunks given back
	version uint64                // chunks of this version may be changed in place
}

type chunk struct {
	version uint64
	entries [chunkLen]entry
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

// fork returns a new version.
func (b *blocks) fork() blocks {
	return blocks{b.chunks.Fork(), b.states.Fork(), b.open, b.gone.Fork(), b.version + 1}
}

// entries returns the first n entries of the block at at for reading.
func (b *blocks) entries(at int32, n int) []entry {
	i := int(uint32(at) % chunkLen)
	return b.chunks.At(at / chunkLen).entries[i : i+n]
}

// edit returns the first n entries of the block at at for changing them.
func (b *blocks) edit(at int32, n int) []entry {
	c := at / chunkLen
	held := b.chunks.At(c)
	if held.version != b.version {
		copied := *held
		copied.version = b.version
		held = &copied
		*b.chunks.Edit(c) = held
	}
	i := int(uint32(at) % chunkLen)
	return held.entries[i : i+n]
}

// alloc returns a block of the class.
func (b *blocks) alloc(class uint8) int32 {
	c := b.open[class]
	if c == None {
		c = b.grow(class)
	}
	s := b.states.Edit(c)
	at := c*chunkLen + int32(s.free)
	s.free = int16(b.entries(at, 1)[0].ref)
	s.used++
	if s.free < 0 {
		b.close(c)
	}
	return at
}

// free takes a block back.
func (b *blocks) free(at int32) {
	c, i := at/chunkLen, at%chunkLen
	s := b.states.Edit(c)
	b.edit(at, 1)[0].ref = int32(s.free)
	if s.free < 0 {
		b.list(c)
	}
	s.free = int16(i)
	s.used--
	if s.used == 0 && (s.prev != None || s.next != None) {
		b.close(c)
		*b.chunks.Edit(c) = nil
		b.gone.Append(c)
	}
}

// grow adds a chunk for the class.
func (b *blocks) grow(class uint8) int32 {
	var c int32
	if n := b.gone.Len(); n > 0 {
		c = b.gone.At(n - 1)
		b.gone.Truncate(n - 1)
	} else {
		c = b.chunks.Len()
		if c > math.MaxInt32/chunkLen {
			panic("forest: more keys than a forest can hold")
		}
		b.chunks.Append(nil)
		b.states.Append(chunkState{})
	}
	fresh, size := &chunk{version: b.version}, classes[class]
	for i := 0; i+size <= chunkLen; i += size {
		fresh.entries[i].ref = int32(i + size)
		if i+2*size > chunkLen {
			fresh.entries[i].ref = None
		}
	}
	*b.chunks.Edit(c), *b.states.Edit(c) = fresh, chunkState{class: class}
	b.list(c)
	return c
}

// list puts chunk c first among the open ones of its class.
func (b *blocks) list(c int32) {
	s := b.states.Edit(c)
	s.prev, s.next = None, b.open[s.class]
	if s.next != None {
		b.states.Edit(s.next).prev = c
	}
	b.open[s.class] = c
}

// close takes chunk c from the open ones of its class.
func (b *blocks) close(c int32) {
	s := b.states.At(c)
	if s.prev != None {
		b.states.Edit(s.prev).next = s.next
	} else {
		b.open[s.class] = s.next
	}
	if s.next != None {
		b.states.Edit(s.next).prev = s.prev
	}
}
