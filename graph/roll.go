package graph

import (
	"iter"

	"github.com/keytree-bch/keytree/graph/cow"
)

// roll says by whom each of many keys, or identities, is followed. It takes some 30 bytes for a name besides the name itself,
// and 16 for each that follows it. Adding, removing, and finding the next who follows take constant time, however many
// follow the same name.
type roll[K comparable] struct {
	names   cow.Index[K]
	first   cow.Array[int32] // by name: the first of those who follow it
	entries cow.Array[entry]
	unused  int32 // first of the free entries, which are linked by next; or none
}

// entry says that one follows a name.
type entry struct {
	following  int32  // by number
	at         uint16 // where the name is in its list
	prev, next int32  // among those who follow the name: prev of the first is ^number of the name, next of the last none
}

// none stands for no entry.
const none = cow.None

func newRoll[K comparable]() roll[K] { return roll[K]{names: cow.NewIndex[K](), unused: none} }

// has tells whether somebody follows a name.
func (r *roll[K]) has(name K) bool { return r.names.Find(name) != none }

// all lists the names that are followed.
func (r *roll[K]) all() (names []K) {
	for n := range r.names.Len() {
		names = append(names, r.names.Key(n))
	}
	return names
}

// add notes that one follows a name, and returns the number of the entry; first tells whether nobody did.
func (r *roll[K]) add(name K, following int32, at int) (number int32, first bool) {
	number = r.unused
	if number == none {
		number = r.entries.Len()
		r.entries.Append(entry{})
	} else {
		r.unused = r.entries.Ref(number).next
	}
	*r.entries.Edit(number) = entry{following: following, at: uint16(at)}
	return number, r.enlist(name, number)
}

// enlist puts an entry first among those of a name, and tells whether it is the only one.
func (r *roll[K]) enlist(name K, number int32) (only bool) {
	n := r.names.Add(name)
	if only = n == r.first.Len(); only {
		r.first.Append(none)
	}
	e := r.entries.Edit(number)
	e.prev, e.next = ^n, r.first.At(n)
	if e.next != none {
		r.entries.Edit(e.next).prev = number
	}
	*r.first.Edit(n) = number
	return only
}

// remove forgets an entry, and tells whether nobody follows its name any more.
func (r *roll[K]) remove(number int32) (last bool) {
	last = r.delist(number)
	*r.entries.Edit(number) = entry{next: r.unused}
	r.unused = number
	return last
}

// delist takes an entry from those of its name, and tells whether there are no others.
func (r *roll[K]) delist(number int32) (last bool) {
	e := r.entries.At(number)
	if e.next != none {
		r.entries.Edit(e.next).prev = e.prev
	}
	if e.prev >= 0 {
		r.entries.Edit(e.prev).next = e.next
		return false
	}
	n := ^e.prev
	if *r.first.Edit(n) = e.next; e.next != none {
		return false
	}
	// The name with the highest number gets this one's.
	end := r.first.Len() - 1
	if n != end {
		*r.first.Edit(n) = r.first.At(end)
		r.entries.Edit(r.first.At(n)).prev = ^n
	}
	r.first.Truncate(end)
	r.names.Remove(n)
	return true
}

// of visits the numbers of a name's entries. The one that is visited may be removed or listed elsewhere.
func (r *roll[K]) of(name K) iter.Seq2[int32, entry] {
	return func(yield func(int32, entry) bool) {
		n := r.names.Find(name)
		if n == none {
			return
		}
		for at := r.first.At(n); at != none; {
			e := r.entries.At(at)
			if !yield(at, e) {
				return
			}
			at = e.next
		}
	}
}
