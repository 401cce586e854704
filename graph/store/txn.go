package store

import (
	"bytes"
	"slices"
	"sort"

	"github.com/dgraph-io/badger/v4"
)

// Txn reads the database as of a moment. Over that may lie what a change would write: to who reads,
// it looks as if it had been written. It may be read by several goroutines at once.
type Txn struct {
	under *badger.Txn
	over  []Entry // in order of their keys, each key once
}

// NewTxn returns a Txn that reads what a transaction of the database does. Discarding either
// ends both.
func NewTxn(txn *badger.Txn) *Txn { return &Txn{under: txn} }

// Discard ends reading.
func (t *Txn) Discard() { t.under.Discard() }

// Over returns a Txn that reads what t does with the writes of a change over it, which it keeps, in another order.
// Each key must be there once. It ends with t, which has nothing over it.
func (t *Txn) Over(change []Entry) *Txn {
	slices.SortFunc(change, func(a, b Entry) int { return bytes.Compare(a.Key, b.Key) })
	return &Txn{t.under, change}
}

// from returns the number of the first entry at or after a key.
func from(entries []Entry, key []byte) int {
	return sort.Search(len(entries), func(i int) bool { return bytes.Compare(entries[i].Key, key) >= 0 })
}

// with returns the entries whose keys have a prefix.
func with(entries []Entry, prefix []byte) []Entry {
	entries = entries[from(entries, prefix):]
	return entries[:sort.Search(len(entries), func(i int) bool { return !bytes.HasPrefix(entries[i].Key, prefix) })]
}

// Iterator goes through the keys of a Txn with a prefix, in their order. It is its maker's until
// Close, and belongs to one goroutine.
type Iterator struct {
	under *badger.Iterator // beyond what over[next:] begins with, unless it is before that
	over  []Entry          // of the Txn, with the prefix
	next  int              // in over
	item  Item             // where it is
}

// Item is where an Iterator is, until that moves.
type Item struct {
	under *badger.Item
	over  *Entry // instead, if it is not nil
}

func (t *Txn) iterate(opt badger.IteratorOptions) *Iterator {
	it := &Iterator{under: t.under.NewIterator(opt)}
	if len(t.over) > 0 {
		it.over = with(t.over, opt.Prefix)
	}
	return it
}

// Close ends the iterator.
func (i *Iterator) Close() { i.under.Close() }

// Rewind moves to the first key.
func (i *Iterator) Rewind() {
	i.under.Rewind()
	i.next = 0
	i.settle()
}

// Seek moves to the first key at or after one.
func (i *Iterator) Seek(key []byte) {
	i.under.Seek(key)
	i.next = from(i.over, key)
	i.settle()
}

// Next moves to the next key. There must be one where it is.
func (i *Iterator) Next() {
	if i.item.over != nil {
		i.next++
	} else {
		i.under.Next()
	}
	i.settle()
}

// settle finds out where the iterator is, once both that it goes through have moved on.
func (i *Iterator) settle() {
	i.item = Item{}
	for ; i.next < len(i.over); i.next++ {
		entry := &i.over[i.next]
		if i.under.Valid() {
			order := bytes.Compare(i.under.Item().Key(), entry.Key)
			if order < 0 {
				break
			}
			if order == 0 {
				i.under.Next() // another value is over it, or it is deleted
			}
		}
		if entry.Value != nil {
			i.item.over = entry
			return
		}
	}
	if i.under.Valid() {
		i.item.under = i.under.Item()
	}
}

// Valid tells whether there is a key where the iterator is.
func (i *Iterator) Valid() bool { return i.item != Item{} }

// ValidForPrefix tells whether there is a key that has a prefix.
func (i *Iterator) ValidForPrefix(prefix []byte) bool {
	return i.Valid() && bytes.HasPrefix(i.item.Key(), prefix)
}

// Item returns where the iterator is, which must be Valid.
func (i *Iterator) Item() *Item { return &i.item }

// Key returns the key, which is the store's, and good until the iterator moves.
func (i *Item) Key() []byte {
	if i.over != nil {
		return i.over.Key
	}
	return i.under.Key()
}

// KeyCopy returns a copy of the key.
func (i *Item) KeyCopy() []byte { return bytes.Clone(i.Key()) }

// Value returns a copy of an item's value, which is never nil without an error.
func Value(item *Item) ([]byte, error) {
	if item.over != nil {
		return bytes.Clone(item.over.Value), nil
	}
	v, err := item.under.ValueCopy(nil)
	if err == nil && v == nil {
		v = []byte{}
	}
	return v, reading(err)
}

// Visit calls a function with an item's value, which is the store's.
func Visit(item *Item, visit func(value []byte) error) error {
	if item.over != nil {
		return visit(item.over.Value)
	}
	return reading(item.under.Value(visit))
}

// Read returns a copy of the value of key, nil if there is none.
func Read(txn *Txn, key []byte) ([]byte, error) {
	if n := from(txn.over, key); n < len(txn.over) && bytes.Equal(txn.over[n].Key, key) {
		return bytes.Clone(txn.over[n].Value), nil
	}
	item, err := txn.under.Get(key)
	if err == badger.ErrKeyNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, reading(err)
	}
	return Value(&Item{under: item})
}
