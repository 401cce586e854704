// Package cow holds arrays and maps that come in versions. A version is made of
// another by Fork, in no time, and shares its pages; a page is copied when the new
// version first changes it. So a change of a few things costs a few pages however
// much there is, it is seen by nobody who holds the version before, and dropping it
// is forgetting it.
//
// A version that has been forked must not be changed any more: it may be read by
// any number of goroutines then. A version that changes belongs to one goroutine.
//
// What never belongs here: what the items mean.
package cow

import "iter"

// A page holds pageLen items, a middle middleLen pages. Small ones make a change
// of something at random cheap. Large pages take less room beside the items; large middles leave
// a short top, which each version that changes anything copies. A page has nothing but items: a few bytes more would
// make the runtime give it a tenth more.
const (
	pageBits   = 4
	pageLen    = 1 << pageBits
	middleBits = 6
	middleLen  = 1 << middleBits
)

// Array is a list of items by number, from 0 on. The zero Array is empty.
type Array[T any] struct {
	top []*middle[T]
	len int32
	// version tells which middles may be changed in place: those that were made in
	// this version. It grows from fork to fork, and nothing that an array refers to is
	// younger than the array.
	version uint64
	own     bool // top was made in this version
}

type middle[T any] struct {
	version uint64
	own     uint64 // bits: which pages were made in this version
	pages   [middleLen]*page[T]
}

type page[T any] [pageLen]T

// Fork returns a new version, which is as a is now. a must not be changed any more.
func (a *Array[T]) Fork() Array[T] {
	return Array[T]{top: a.top, len: a.len, version: a.version + 1}
}

// Len returns how many items there are.
func (a *Array[T]) Len() int32 { return a.len }

// At returns an item, 0 <= i < Len.
func (a *Array[T]) At(i int32) T { return *a.Ref(i) }

// Ref returns an item for reading, 0 <= i < Len. It does not follow later changes.
func (a *Array[T]) Ref(i int32) *T {
	return &a.top[uint32(i)>>(pageBits+middleBits)].pages[uint32(i)>>pageBits%middleLen][uint32(i)%pageLen]
}

// Edit returns an item for changing it, 0 <= i < Len. It remains the item until a is
// forked.
func (a *Array[T]) Edit(i int32) *T {
	m, at := a.top[uint32(i)>>(pageBits+middleBits)], uint32(i)>>pageBits%middleLen
	p := m.pages[at]
	if m.version != a.version || m.own>>at&1 == 0 {
		p = a.copyPage(i)
	}
	return &p[uint32(i)%pageLen]
}

// copyPage makes the page of item i one of this version.
func (a *Array[T]) copyPage(i int32) *page[T] {
	m, at := a.middle(i), uint32(i)>>pageBits%middleLen
	if m.own>>at&1 == 0 {
		made := new(page[T])
		if before := m.pages[at]; before != nil {
			*made = *before
		}
		m.pages[at] = made
		m.own |= 1 << at
	}
	return m.pages[at]
}

// middle returns the middle of item i, which is made one of this version.
func (a *Array[T]) middle(i int32) *middle[T] {
	at := int(uint32(i) >> (pageBits + middleBits))
	if !a.own {
		a.top, a.own = append(make([]*middle[T], 0, len(a.top)+1), a.top...), true
	}
	if at == len(a.top) {
		a.top = append(a.top, &middle[T]{version: a.version})
	} else if a.top[at].version != a.version {
		copied := *a.top[at]
		copied.version, copied.own = a.version, 0
		a.top[at] = &copied
	}
	return a.top[at]
}

// Append adds an item at the end.
func (a *Array[T]) Append(item T) {
	i := a.len
	if i%pageLen == 0 {
		a.copyPage(i)
	}
	a.len++
	*a.Edit(i) = item
}

// Truncate drops the items from n on, n <= Len.
func (a *Array[T]) Truncate(n int32) { a.len = n }

// Since visits, in order, the numbers of the items that may be other than in an older or younger version of
// the same array: those whose pages the two do not share.
func (a *Array[T]) Since(other *Array[T]) iter.Seq[int32] {
	return func(yield func(int32) bool) {
		for m, mine := range a.top {
			var theirs *middle[T]
			if m < len(other.top) {
				theirs = other.top[m]
			}
			if mine == theirs {
				continue
			}
			for p, page := range mine.pages {
				if page == nil || theirs != nil && page == theirs.pages[p] {
					continue
				}
				first := int32(m)<<(pageBits+middleBits) | int32(p)<<pageBits
				for i := first; i < min(first+pageLen, a.len); i++ {
					if !yield(i) {
						return
					}
				}
			}
		}
	}
}
