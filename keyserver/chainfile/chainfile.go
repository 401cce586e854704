// Package chainfile keeps a verified copy of a hashchain in a file: its entries from position
// 0 on, hashchain.EntrySize bytes each. Whatever is read of it is verified again, each entry
// against the one before it: a disk may change what a process has written.
//
// Where the chain ends is for its user to keep, elsewhere: only that makes entries count. So
// what a killed process has written behind the end is no harm, and is written over.
//
// What never belongs here: who has signed what about the entries, and where they come from.
package chainfile

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
)

const (
	// MaxEntries is more than a chain can have, and few enough to compute with.
	MaxEntries = 1 << 48
	// AtOnce is how many entries are read in one go: some 2.5 MB.
	AtOnce = 1 << 14
)

// File is the copy. It is for one goroutine at a time, methods that only read for several.
type File struct {
	file    *os.File
	size    uint64         // entries
	head    hashchain.Hash // of the last; zero if there is none
	damaged error          // what errors wrap if the file is not what was written
}

// Open opens the file with a chain of some size and head, or makes it for a chain without
// entries. Errors, here and later, wrap damaged if the file is not what was written.
func Open(path string, size uint64, head hashchain.Hash, damaged error) (*File, error) {
	return open(os.O_RDWR|os.O_CREATE, path, size, head, damaged)
}

// OpenReadOnly is Open only to read what is there.
func OpenReadOnly(path string, size uint64, head hashchain.Hash, damaged error) (*File, error) {
	return open(os.O_RDONLY, path, size, head, damaged)
}

func open(flag int, path string, size uint64, head hashchain.Hash, damaged error) (*File, error) {
	if size > MaxEntries {
		return nil, fmt.Errorf("%w: the recorded end of the hashchain", damaged)
	}
	file, err := os.OpenFile(path, flag, 0o600)
	if err != nil {
		return nil, err
	}
	f := &File{file: file, size: size, head: head, damaged: damaged}
	if size > 0 {
		if _, err := f.At(size - 1); err != nil {
			return nil, errors.Join(err, file.Close())
		}
	}
	return f, nil
}

// Close ends the use of the file.
func (f *File) Close() error { return f.file.Close() }

// Sync puts on disk what was appended.
func (f *File) Sync() error { return f.file.Sync() }

// Name returns the path of the file.
func (f *File) Name() string { return f.file.Name() }

// Size returns how many entries there are.
func (f *File) Size() uint64 { return f.size }

// Head returns the hash of the last entry; zero if there is none.
func (f *File) Head() hashchain.Hash { return f.head }

// Append writes entries, which the caller has verified to follow, behind the last.
func (f *File) Append(entries []hashchain.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	raw := make([]byte, 0, len(entries)*hashchain.EntrySize)
	for i := range entries {
		raw = append(raw, entries[i][:]...)
	}
	if _, err := f.file.WriteAt(raw, int64(f.size*hashchain.EntrySize)); err != nil {
		return err
	}
	f.size, f.head = f.size+uint64(len(entries)), entries[len(entries)-1].Hash()
	return nil
}

// Shorten forgets the entries from a position on; head is the hash of the last that is
// left. They stay in the file, to be written over.
func (f *File) Shorten(size uint64, head hashchain.Hash) { f.size, f.head = size, head }

// Truncate takes out of the file what is behind the last entry.
func (f *File) Truncate() error { return f.file.Truncate(int64(f.size * hashchain.EntrySize)) }

// Extend takes what is in the file behind the last entry, as far as it follows.
func (f *File) Extend() error {
	info, err := f.file.Stat()
	if err != nil {
		return err
	}
	for end := min(uint64(info.Size())/hashchain.EntrySize, MaxEntries); f.size < end; {
		entries, err := f.load(f.size, min(end-f.size, AtOnce))
		if err != nil {
			return err
		}
		for i := range entries {
			if !entries[i].Follows(f.head) {
				return nil
			}
			f.size, f.head = f.size+1, entries[i].Hash()
		}
	}
	return nil
}

// Load returns count entries from a position on, all of which must exist, as they are in
// the file: nothing is verified.
func (f *File) Load(from, count uint64) ([]hashchain.Entry, error) {
	if from > f.size || count > f.size-from {
		return nil, fmt.Errorf("%d entries from position %d on are not in the copy, which has %d", count, from, f.size)
	}
	return f.load(from, count)
}

func (f *File) load(from, count uint64) ([]hashchain.Entry, error) {
	raw := make([]byte, count*hashchain.EntrySize)
	if _, err := f.file.ReadAt(raw, int64(from*hashchain.EntrySize)); err != nil {
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("%w: %s ends before position %d", f.damaged, f.Name(), from+count-1)
		}
		return nil, err
	}
	entries := make([]hashchain.Entry, count)
	for i := range entries {
		entries[i] = hashchain.Entry(raw[i*hashchain.EntrySize:])
	}
	return entries, nil
}

// Read does what Load does, and verifies the entries against each other, the one before
// them and, at the end, the chain's head.
func (f *File) Read(from, count uint64) ([]hashchain.Entry, error) {
	before := min(from, 1) // one more, for its hash
	entries, err := f.Load(from-before, before+count)
	if err != nil {
		return nil, err
	}
	var prev hashchain.Hash
	if before == 1 {
		prev, entries = entries[0].Hash(), entries[1:]
	}
	for i := range entries {
		if !entries[i].Follows(prev) {
			return nil, f.spoilt(from + uint64(i))
		}
		prev = entries[i].Hash()
	}
	if count > 0 && from+count == f.size && prev != f.head {
		return nil, f.spoilt(from + count - 1)
	}
	return entries, nil
}

func (f *File) spoilt(position uint64) error {
	return fmt.Errorf("%w: %s: the entry at position %d is not the one that was verified", f.damaged, f.Name(), position)
}

// At returns the entry at a position, as Read does.
func (f *File) At(position uint64) (hashchain.Entry, error) {
	entries, err := f.Read(position, 1)
	if err != nil {
		return hashchain.Entry{}, err
	}
	return entries[0], nil
}

// First returns the entry at position 0 of a file whose end is not known.
func (f *File) First() (hashchain.Entry, error) {
	entries, err := f.load(0, 1)
	if err == nil && !entries[0].Follows(hashchain.Hash{}) {
		err = f.spoilt(0)
	}
	if err != nil {
		return hashchain.Entry{}, err
	}
	return entries[0], nil
}

// Find returns the last position in [begin, end) at which an entry stands.
func (f *File) Find(e *hashchain.Entry, begin, end uint64) (position uint64, ok bool, err error) {
	for end > begin {
		count := min(end-begin, AtOnce)
		entries, err := f.Read(end-count, count)
		if err != nil {
			return 0, false, err
		}
		end -= count
		for i := len(entries) - 1; i >= 0; i-- {
			if entries[i] == *e {
				return end + uint64(i), true, nil
			}
		}
	}
	return 0, false, nil
}

// Advance appends entries to a chain, which has the first of them, until it has size, which
// the file must have.
func (f *File) Advance(c *hashchain.Chain, size uint64) error {
	for c.Size < size {
		entries, err := f.Load(c.Size, min(size-c.Size, AtOnce))
		if err != nil {
			return err
		}
		if err := c.Append(entries, nil); err != nil {
			return fmt.Errorf("%w: %s: %w", f.damaged, f.Name(), err)
		}
	}
	if size == f.size && c.Head != f.head {
		return f.spoilt(size - 1)
	}
	return nil
}

// Node implements hashchain.Nodes: it hashes the entries below.
func (f *File) Node(id hashchain.NodeID) (hashchain.Hash, error) {
	first, left := id.Index<<id.Level, uint64(1)<<id.Level
	tree := (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0)
	for left > 0 {
		entries, err := f.Read(first, min(left, AtOnce))
		if err != nil {
			return hashchain.Hash{}, err
		}
		for i := range entries {
			leaf := hashchain.LeafHash(&entries[i])
			if err := tree.Append(leaf[:], nil); err != nil {
				return hashchain.Hash{}, err
			}
		}
		first, left = first+uint64(len(entries)), left-uint64(len(entries))
	}
	root, err := tree.GetRootHash(nil)
	return hashchain.Hash(root), err
}

// Root returns the Merkle tree hash over the first size entries.
func (f *File) Root(size uint64) (hashchain.Hash, error) {
	c, err := hashchain.ChainAt(size, hashchain.Hash{}, f)
	if err != nil {
		return hashchain.Hash{}, err
	}
	return c.Root(), nil
}
