// Package store is what a keyserver keeps its data in: keys and values in order, which one
// writer changes in commits that are atomic and durable, while any number of readers each see
// one state. It declares what the keyserver needs, and no more, so that a database engine can
// be put behind it. Package storetest has the tests that every engine must pass; package
// badger is the embedded one.
//
//	store.go   the interface, and what can go wrong
//	weight.go  how much one commit takes
//	backup.go  a store in a stream of bytes, for moving it to another, of any engine
//
// # What an engine promises
//
//   - A commit is in the store as a whole or not at all, whenever the process, the engine or the
//     machine ends. Once Commit has returned nil, nothing takes it back.
//   - A View reads one state: that of the last Commit that had returned when the View began, or
//     a later one. It never waits for a commit that is being made.
//   - There is one writer. Whoever opens a store that somebody else writes gets ErrLocked. An
//     engine that several machines can reach has to make sure of that at every commit: a writer
//     that was replaced commits nothing more, and gets ErrLocked.
//   - What a commit writes does not depend on what the engine read for it. So an engine whose
//     transactions can fail because of others runs them again by itself. The callers of View
//     and Commit never do.
//
// What never belongs here: what keys and values mean.
package store

import (
	"context"
	"errors"
	"iter"
)

// Why a store does not do what it was asked to. Nothing was changed.
var (
	// ErrClosed says that the store has been closed.
	ErrClosed = errors.New("store is closed")
	// ErrDamaged says that the store holds something else than was written. Restore a backup.
	ErrDamaged = errors.New("database damaged")
	// ErrDiskFull says that too little room is left for what is to be written. Make room, then
	// go on.
	ErrDiskFull = errors.New("disk nearly full")
	// ErrLocked says that somebody else writes the store. Let it go on, or end it first.
	ErrLocked = errors.New("database in use")
	// ErrNotEmpty says that a store was to be made where something is already. Name another
	// place.
	ErrNotEmpty = errors.New("not empty")
	// ErrUnavailable says that whatever the store is in does not answer now. Try again later.
	ErrUnavailable = errors.New("database cannot be reached")
	// ErrReadOnly says that a store that was opened only to be read was to be changed.
	ErrReadOnly = errors.New("database is open only to be read")
)

// MaxRecord is more bytes than any key or value has.
const MaxRecord = 1 << 20

// Place is where a store is, open or not.
type Place interface {
	// Open opens the store to write, or makes it if there is none. Close it. The errors are
	// those above, but for ErrNotEmpty and ErrReadOnly, or one of whatever the store is in.
	Open(ctx context.Context) (Store, error)
	// OpenReadOnly opens the store, which must be there, only to read it, in the state that
	// it is in then. It changes nothing. The errors are those of Open, or fs.ErrNotExist, and
	// Commit returns ErrReadOnly.
	OpenReadOnly(ctx context.Context) (Store, error)
	// Create makes a store that holds what fill commits, where none is. It appears when all
	// of that is on disk. If anything fails, nothing does. ErrNotEmpty, what fill returns, or
	// an error of Open.
	Create(ctx context.Context, fill func(Store) error) error
	// String names the place to people, without any secret.
	String() string
}

// Store is an open store. View, Room, Size and Inspect may be called concurrently, also
// during a Commit.
type Store interface {
	// View calls read once, with one state of the store, and returns what read returns, or
	// why the store cannot be read. The Reader is for the goroutine that View was called in,
	// and ends with read. If ctx ends, View may return its error.
	View(ctx context.Context, read func(Reader) error) error

	// Commit makes some writes, of which the last to a key counts. It is for one goroutine at
	// a time. After nil they are on disk. After an error, nobody can tell whether they are but
	// by opening the store anew, unless the error wraps one of those above: then they are not.
	// It has no context, since whoever gave up waiting could not tell either.
	Commit(writes []Write) error

	// Limit is the most that one Commit takes; it does not change.
	Limit() Weight

	// Room returns ErrDiskFull unless so many bytes of keys and values have room. nil where
	// nobody can tell before they are written.
	Room(bytes uint64) error

	// Size is about how many bytes are stored.
	Size() uint64

	// Inspect searches what is stored for damage that came after the store was opened:
	// ErrDamaged, ctx's error, or why it could not be searched.
	Inspect(ctx context.Context) error

	// Close closes the store, once. No View and no Commit may be under way. Those that come
	// later return ErrClosed.
	Close() error
}

// Getter reads single values.
type Getter interface {
	// Get returns the value of a key, which must not be changed; ok is false if there is none.
	Get(key []byte) (value []byte, ok bool, err error)
}

// Reader reads one state of a store.
type Reader interface {
	Getter

	// Keys are the keys that begin with prefix and are not less than from, in the order of
	// bytes.Compare. A nil from is before all of them. After an error there are no more. A key
	// must not be changed, and is valid until the next one.
	Keys(prefix, from []byte) iter.Seq2[[]byte, error]

	// Pairs is Keys with the values.
	Pairs(prefix, from []byte) iter.Seq2[Pair, error]

	// KeysBackward are the keys that begin with prefix and are less than before, which begins with
	// it, too: the last one first. What Keys says of errors and of keys holds here.
	KeysBackward(prefix, before []byte) iter.Seq2[[]byte, error]
}

// SharedPlace is a Place that several processes can reach, of which one writes.
type SharedPlace interface {
	Place
	// OpenStandby opens the store to be read until TakeOver. The errors are those of Open,
	// but for ErrLocked.
	OpenStandby(ctx context.Context) (Shared, error)
}

// Shared is a store in a SharedPlace. Until TakeOver has returned nil, Commit returns
// ErrReadOnly.
type Shared interface {
	Store
	// TakeOver waits until nobody writes the store any more, and then makes this the one who
	// does. It is called once, and while it runs Commit is not. If ctx ends it returns its
	// error, and nothing has changed.
	TakeOver(ctx context.Context) error
	// Lost is closed when somebody else has taken over from this one.
	Lost() <-chan struct{}
	// Usable returns why View would read nothing now, without asking: ErrUnavailable where
	// this was the writer and cannot know whether it is; ErrLocked, ErrClosed or nil.
	Usable() error
}

// Pair is a key with its value. Neither must be changed.
type Pair struct{ Key, Value []byte }

// Write is one change: a key gets a value, which may be empty, or is deleted. A key has at
// least one byte.
type Write struct {
	Key, Value []byte
	Delete     bool // there is no Value
}

// Has tells whether there is a key that begins with a prefix.
func Has(r Reader, prefix []byte) (bool, error) {
	for _, err := range r.Keys(prefix, nil) {
		return err == nil, err
	}
	return false, nil
}

// Count tells how many keys begin with a prefix.
func Count(r Reader, prefix []byte) (n uint64, err error) {
	for _, err := range r.Keys(prefix, nil) {
		if err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}
