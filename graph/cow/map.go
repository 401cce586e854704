package cow

import (
	"encoding/binary"
	"hash/maphash"
	"iter"
	"runtime"
)

// None is what stands for no number.
const None int32 = -1

// Index gives keys numbers from 0 on, in the order in which they come, and finds the
// number of a key in O(1). It takes the key and 10 bytes or so.
//
// Its hash has a seed of its own, so whoever chooses the keys cannot make them
// collide. The zero Index cannot be used.
type Index[K comparable] struct {
	keys  Array[K]
	slots table
	seed  maphash.Seed
}

// table is a hash table, open addressed, whose length is a power of two. Slots are so
// small that some share an item of an array, for pages of a sensible size.
type table struct{ array Array[[perItem]slot] }

const perItem = 4

func newTable(n int32) (t table) {
	for range n / perItem {
		t.array.Append([perItem]slot{})
	}
	return t
}

func (t *table) fork() table         { return table{t.array.Fork()} }
func (t *table) mask() int32         { return t.array.Len()*perItem - 1 }
func (t *table) ref(at int32) *slot  { return &t.array.Ref(at / perItem)[at%perItem] }
func (t *table) edit(at int32) *slot { return &t.array.Edit(at / perItem)[at%perItem] }

// slot is a place in a hash table: a key's number+1, 0 if it is free, in little
// endian, and a byte of the key's hash, which saves looking at most other keys.
type slot [5]byte

func newSlot(number int32, hash uint64) (s slot) {
	binary.LittleEndian.PutUint32(s[:], uint32(number+1))
	s[4] = byte(hash >> 56)
	return s
}

// number returns None for a free slot.
func (s slot) number() int32 { return int32(binary.LittleEndian.Uint32(s[:])) - 1 }

// NewIndex returns an Index without keys.
func NewIndex[K comparable]() Index[K] {
	return Index[K]{slots: newTable(pageLen), seed: maphash.MakeSeed()}
}

// Fill gives an index without any these keys, by their numbers in the array, which is the index's from then on. It
// returns false if one of them is there twice: then the index cannot be used.
func (x *Index[K]) Fill(keys Array[K]) bool {
	size := x.slots.mask() + 1
	for 3*int64(keys.Len()) > 2*int64(size-1) {
		size *= 2
	}
	x.keys = keys
	return x.rehash(size)
}

// Fork returns a new version (Array.Fork).
func (x *Index[K]) Fork() Index[K] {
	return Index[K]{x.keys.Fork(), x.slots.fork(), x.seed}
}

// Len returns how many keys there are.
func (x *Index[K]) Len() int32 { return x.keys.Len() }

// Key returns the key with a number, 0 <= n < Len.
func (x *Index[K]) Key(n int32) K { return x.keys.At(n) }

// Ref returns the key with a number for reading, 0 <= n < Len.
func (x *Index[K]) Ref(n int32) *K { return x.keys.Ref(n) }

func (x *Index[K]) hash(key K) uint64 { return maphash.Comparable(x.seed, key) }

// home is where the search for a key with a hash begins.
func (x *Index[K]) home(hash uint64) int32 { return int32(hash) & x.slots.mask() }

// slot returns where a key is, with its number, or where it would be put, with None.
func (x *Index[K]) slot(key K, hash uint64) (at, number int32) {
	mask := x.slots.mask()
	for at = x.home(hash); ; at = (at + 1) & mask {
		s := x.slots.ref(at)
		number = s.number()
		if number == None || s[4] == byte(hash>>56) && *x.keys.Ref(number) == key {
			return at, number
		}
	}
}

// Find returns the number of a key, None if it has none.
func (x *Index[K]) Find(key K) int32 {
	_, number := x.slot(key, x.hash(key))
	return number
}

// Add returns the number of a key, a new one, which is the former Len, if it had
// none.
func (x *Index[K]) Add(key K) int32 {
	hash := x.hash(key)
	at, number := x.slot(key, hash)
	if number != None {
		return number
	}
	n := x.keys.Len()
	x.keys.Append(key)
	*x.slots.edit(at) = newSlot(n, hash)
	if 3*int64(n) > 2*int64(x.slots.mask()) {
		x.rehash(2 * (x.slots.mask() + 1))
	}
	return n
}

// rehash makes a hash table of so many slots for all keys. It returns false if one of them is there twice.
//
// Wherever a key belongs is a cache miss away. So it looks there for many keys, which do not wait for each other, before
// it puts the first one in its place.
func (x *Index[K]) rehash(size int32) bool {
	x.slots = newTable(size)
	mask := x.slots.mask()
	var hashes [256]uint64
	for n := int32(0); n < x.keys.Len(); {
		batch := hashes[:min(int32(len(hashes)), x.keys.Len()-n)]
		for i := range batch {
			batch[i] = x.hash(*x.keys.Ref(n + int32(i)))
		}
		var looked byte
		for _, hash := range batch {
			looked |= x.slots.ref(x.home(hash))[0]
		}
		runtime.KeepAlive(looked)
		for _, hash := range batch {
			at := x.home(hash)
			for s := x.slots.ref(at); s.number() != None; s = x.slots.ref(at) {
				if s[4] == byte(hash>>56) && *x.keys.Ref(s.number()) == *x.keys.Ref(n) {
					return false
				}
				at = (at + 1) & mask
			}
			*x.slots.edit(at) = newSlot(n, hash)
			n++
		}
	}
	return true
}

// Remove forgets the key with a number, which the last key gets.
func (x *Index[K]) Remove(n int32) {
	x.free(n)
	last := x.keys.Len() - 1
	if n != last {
		key := x.keys.At(last)
		hash := x.hash(key)
		at, _ := x.slot(key, hash)
		*x.slots.edit(at) = newSlot(n, hash)
		*x.keys.Edit(n) = key
	}
	x.keys.Truncate(last)
}

// free frees the slot of the key with a number.
func (x *Index[K]) free(n int32) {
	key := x.keys.At(n)
	gap, _ := x.slot(key, x.hash(key))
	mask := x.slots.mask()
	for at := (gap + 1) & mask; ; at = (at + 1) & mask {
		s := *x.slots.ref(at)
		if s.number() == None {
			break
		}
		// It may stand in the gap unless its search begins behind that.
		if home := x.home(x.hash(*x.keys.Ref(s.number()))); (at-home)&mask >= (at-gap)&mask {
			*x.slots.edit(gap) = s
			gap = at
		}
	}
	*x.slots.edit(gap) = slot{}
}

// Map is values by key. The zero Map cannot be used.
type Map[K comparable, V any] struct {
	index  Index[K]
	values Array[V] // by number
}

// NewMap returns an empty Map.
func NewMap[K comparable, V any]() Map[K, V] { return Map[K, V]{index: NewIndex[K]()} }

// Fork returns a new version (Array.Fork).
func (m *Map[K, V]) Fork() Map[K, V] { return Map[K, V]{m.index.Fork(), m.values.Fork()} }

// Len returns how many keys have a value.
func (m *Map[K, V]) Len() int32 { return m.index.Len() }

// Get returns the value of a key; ok is false if it has none.
func (m *Map[K, V]) Get(key K) (value V, ok bool) {
	n := m.index.Find(key)
	if n == None {
		return value, false
	}
	return m.values.At(n), true
}

// Set gives a key a value.
func (m *Map[K, V]) Set(key K, value V) {
	if n := m.index.Add(key); n < m.values.Len() {
		*m.values.Edit(n) = value
	} else {
		m.values.Append(value)
	}
}

// Delete takes the value of a key away, if it has one.
func (m *Map[K, V]) Delete(key K) {
	n := m.index.Find(key)
	if n == None {
		return
	}
	last := m.values.Len() - 1
	if n != last {
		*m.values.Edit(n) = m.values.At(last)
	}
	m.values.Truncate(last)
	m.index.Remove(n)
}

// All visits the keys and their values in no particular order.
func (m *Map[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for n := range m.Len() {
			if !yield(m.index.Key(n), m.values.At(n)) {
				return
			}
		}
	}
}
