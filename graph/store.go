package graph

import (
	"errors"
	"iter"
)

// store is where a graph's writes go, and the place where they can be made to
// fail. Reads need no such place: they are of Badger's snapshots.
//
// Entries are pairs of key and value, each key once; a nil value deletes the
// key. A store may keep the values, so nobody may change them afterwards. What
// has been written without an error is on disk.
type store interface {
	// commit writes all entries or none. errTooLarge if they are more than the
	// store writes in one piece: then it is none. After any other error, which of
	// the two it was can only be told by reading.
	commit(entries iter.Seq2[string, []byte]) error
	// write writes entries in as many pieces as it takes, in their order. After an
	// error, those up to some piece have been written.
	write(entries iter.Seq2[string, []byte]) error
}

// errTooLarge says that entries do not fit into one commit.
var errTooLarge = errors.New("more than one transaction of the store can hold")

// entry is one pair alone, for commit.
func entry(key, value []byte) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) { yield(string(key), value) }
}
