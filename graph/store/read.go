package store

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/dgraph-io/badger/v4"
)

// reading says of an error of Badger's what was being done.
func reading(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("reading the database: %w", err)
}

// NewIterator returns an iterator over the keys with a prefix.
func NewIterator(txn *Txn, prefix []byte) *Iterator {
	opt := badger.DefaultIteratorOptions
	opt.PrefetchValues = false
	opt.Prefix = prefix
	return txn.iterate(opt)
}

// NewReader returns an iterator that reads values as well.
func NewReader(txn *Txn, prefix []byte) *Iterator {
	opt := badger.DefaultIteratorOptions
	opt.Prefix = prefix
	return txn.iterate(opt)
}

// Seek moves an iterator to the first key at or after one. Mostly it is there, or at the
// key before.
func Seek(it *Iterator, key []byte) {
	if it.Valid() {
		order := bytes.Compare(it.Item().Key(), key)
		if order < 0 {
			if it.Next(); it.Valid() && bytes.Compare(it.Item().Key(), key) >= 0 {
				return
			}
		}
		if order == 0 {
			return
		}
	}
	it.Seek(key)
}

// EachKey visits a copy of every key under a prefix, from the key from on if it
// is given.
func EachKey(txn *Txn, prefix, from []byte, visit func(key []byte) error) error {
	it := NewIterator(txn, prefix)
	defer it.Close()
	if from == nil {
		from = prefix
	}
	for it.Seek(from); it.Valid(); it.Next() {
		if err := visit(it.Item().KeyCopy()); err != nil {
			return err
		}
	}
	return nil
}

// EachNewest visits the newest version of each thing under a prefix, whose stems have
// stemSize bytes. The slices are the store's.
func EachNewest(txn *Txn, prefix byte, stemSize int, visit func(key, value []byte) error) error {
	it := NewReader(txn, []byte{prefix})
	defer it.Close()
	var stem []byte
	for it.Rewind(); it.Valid(); it.Next() {
		key := it.Item().Key()
		if len(key) != stemSize+4 {
			return fmt.Errorf("%w: the key of a version has the wrong length", ErrDamaged)
		}
		if bytes.Equal(key[:stemSize], stem) {
			continue // an older version
		}
		stem = append(stem[:0], key[:stemSize]...)
		if err := Visit(it.Item(), func(value []byte) error { return visit(key, value) }); err != nil {
			return err
		}
	}
	return nil
}

// EachVersionAt visits the version as of a height of each thing under a prefix, whose stems have stemSize bytes, that has
// one. The slices are the store's. What it costs does not depend on how many versions a thing has.
func EachVersionAt(txn *Txn, prefix byte, stemSize int, height uint32, visit func(stem, value []byte) error) error {
	it := NewIterator(txn, []byte{prefix})
	defer it.Close()
	const few = 8 // versions are passed over as soon as looked for
	var stem []byte
	passed, done := 0, false // versions of the stem; it was visited
	for it.Rewind(); it.Valid(); {
		key := it.Item().Key()
		if len(key) != stemSize+4 {
			return fmt.Errorf("%w: the key of a version has the wrong length", ErrDamaged)
		}
		if !bytes.Equal(key[:stemSize], stem) {
			stem, passed, done = append(stem[:0], key[:stemSize]...), 0, false
		}
		if !done && VersionHeight(key) <= height {
			done, passed = true, 0
			if err := Visit(it.Item(), func(value []byte) error { return visit(stem, value) }); err != nil {
				return err
			}
		}
		switch passed++; {
		case passed < few:
			it.Next()
		case done:
			it.Seek(append(Version(slices.Clip(stem), 0), 0)) // behind all of them
		default:
			it.Seek(Version(slices.Clip(stem), height))
		}
	}
	return nil
}

// VersionBefore reads the version before the one with a key, and the height from
// which on it holds; nil if there is none.
func VersionBefore(txn *Txn, key []byte) (value []byte, since uint32, err error) {
	it := NewIterator(txn, key[:len(key)-4])
	defer it.Close()
	if it.Seek(append(slices.Clip(key), 0)); !it.Valid() {
		return nil, 0, nil
	}
	value, err = Value(it.Item())
	return value, VersionHeight(it.Item().Key()), err
}

// VersionAt reads the version as of a height of the thing with a stem: nil if there is
// none, which is not the same as an empty one. It moves the iterator, which is over the stem's prefix
// or more.
func VersionAt(it *Iterator, stem []byte, height uint32) (value []byte, err error) {
	n := len(stem)
	stem = Version(stem, height)
	it.Seek(stem)
	if !it.ValidForPrefix(stem[:n]) {
		return nil, nil
	}
	return Value(it.Item())
}

// EachChunk visits the chunks under a prefix of the block at height, by number.
func EachChunk(txn *Txn, prefix byte, height uint32, visit func(number uint32, chunk []byte) error) error {
	for n := uint32(0); ; n++ {
		chunk, err := Read(txn, ChunkKey(prefix, height, n))
		if err != nil || chunk == nil {
			return err
		}
		if err := visit(n, chunk); err != nil {
			return err
		}
	}
}

// ReadChunks reads a long value of a height.
func ReadChunks(txn *Txn, prefix byte, height uint32) (value []byte, err error) {
	err = EachChunk(txn, prefix, height, func(_ uint32, chunk []byte) error {
		value = append(value, chunk...)
		return nil
	})
	return value, err
}

// ChunkReader reads a long value of a height. It holds a chunk or two of it at a time.
// Not safe for concurrent use.
type ChunkReader struct {
	txn    *Txn
	prefix byte
	height uint32

	next    uint32 // the number of the chunk to be read
	ended   bool   // there is none of that number
	buf     []byte
	Decoder // over what was read of the value
}

// NewChunkReader returns a reader of the value under a prefix, of a height.
func NewChunkReader(txn *Txn, prefix byte, height uint32) *ChunkReader {
	return &ChunkReader{txn: txn, prefix: prefix, height: height}
}

// SkipTo lets the reader begin with the chunk of a number, before it has read any.
func (r *ChunkReader) SkipTo(chunk uint32) { r.next = chunk }

// Fill reads on until n bytes can be decoded, or all that are left. It tells whether
// there are any.
func (r *ChunkReader) Fill(n int) (left bool, err error) {
	for !r.ended && len(r.Rest) < n {
		chunk, err := Read(r.txn, ChunkKey(r.prefix, r.height, r.next))
		if err != nil {
			return false, err
		}
		r.next, r.ended = r.next+1, chunk == nil
		r.buf = append(append(r.buf[:0], r.Rest...), chunk...)
		r.Rest = r.buf
	}
	return len(r.Rest) > 0, nil
}

// Iterators are those of one transaction, by prefix. They are the caller's until Close.
// Not safe for concurrent use.
type Iterators struct {
	txn  *Txn
	open map[byte]*Iterator
}

// NewIterators returns none yet.
func NewIterators(txn *Txn) *Iterators {
	return &Iterators{txn: txn}
}

// Txn returns the transaction.
func (i *Iterators) Txn() *Txn { return i.txn }

// Over returns the iterator over a prefix, anywhere in it.
func (i *Iterators) Over(prefix byte) *Iterator {
	it := i.open[prefix]
	if it == nil {
		it = NewIterator(i.txn, []byte{prefix})
		if i.open == nil { // many questions need none
			i.open = make(map[byte]*Iterator)
		}
		i.open[prefix] = it
	}
	return it
}

// Version reads the version as of a height of the thing with a stem, as VersionAt does.
func (i *Iterators) Version(stem []byte, height uint32) ([]byte, error) {
	return VersionAt(i.Over(stem[0]), stem, height)
}

// Close closes them.
func (i *Iterators) Close() {
	for _, it := range i.open {
		it.Close()
	}
	clear(i.open)
}
