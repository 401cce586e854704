package audit

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
	// maxEntries is more than a chain can have, and few enough to compute with.
	maxEntries = 1 << 48
	// entriesAtOnce is how many entries are read in one go: some 2.5 MB.
	entriesAtOnce = 1 << 14
)

// ErrDamaged says that a file of the auditor is not what it wrote. What it needs it
// can get again: Reset.
var ErrDamaged = errors.New("local file damaged")

// entryFile is a file with the entries of a hashchain from position 0 on.
// Whatever is read of it is verified again.
type entryFile struct {
	file *os.File
	size uint64         // entries
	head hashchain.Hash // of the last; zero if there is none
	// kept is how many of them something covers that is signed or anchored, keptHead the
	// hash of the last. What comes behind was only shown.
	kept     uint64
	keptHead hashchain.Hash
}

// openEntries opens the file with a chain of some size and head, all of which is kept,
// or makes it for a chain without entries.
func openEntries(path string, size uint64, head hashchain.Hash) (*entryFile, error) {
	if size > maxEntries {
		return nil, fmt.Errorf("%w: the recorded end of the hashchain", ErrDamaged)
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	e := &entryFile{file: file, size: size, head: head, kept: size, keptHead: head}
	if size > 0 {
		if _, err := e.at(size - 1); err != nil {
			return nil, errors.Join(err, file.Close())
		}
	}
	return e, nil
}

// add verifies that entries follow the last and writes them; sync puts them on
// disk. At the first that does not follow it stops, and returns its index.
func (e *entryFile) add(entries []hashchain.Entry) (added int, err error) {
	raw := make([]byte, 0, len(entries)*hashchain.EntrySize)
	head := e.head
	for added < len(entries) && entries[added].Follows(head) {
		raw = append(raw, entries[added][:]...)
		head = entries[added].Hash()
		added++
	}
	if _, err := e.file.WriteAt(raw, int64(e.size*hashchain.EntrySize)); err != nil {
		return 0, err
	}
	e.size, e.head = e.size+uint64(added), head
	return added, nil
}

// keep says that something signed or anchored covers the first size entries, which end
// with head.
func (e *entryFile) keep(size uint64, head hashchain.Hash) {
	if size > e.kept {
		e.kept, e.keptHead = size, head
	}
}

// drop forgets the entries that are not kept, in the file too.
func (e *entryFile) drop() error {
	e.size, e.head = e.kept, e.keptHead
	return e.file.Truncate(int64(e.kept * hashchain.EntrySize))
}

// extend takes what is in the file behind the chain, and follows it: an earlier audit
// was shown that. It need not be fetched again if it is still shown.
func (e *entryFile) extend() error {
	info, err := e.file.Stat()
	if err != nil {
		return err
	}
	for end := min(uint64(info.Size())/hashchain.EntrySize, maxEntries); e.size < end; {
		count := min(end-e.size, entriesAtOnce)
		raw := make([]byte, count*hashchain.EntrySize)
		if _, err := e.file.ReadAt(raw, int64(e.size*hashchain.EntrySize)); err != nil {
			return err
		}
		for ; len(raw) > 0; raw = raw[hashchain.EntrySize:] {
			next := hashchain.Entry(raw)
			if !next.Follows(e.head) {
				return nil
			}
			e.size, e.head = e.size+1, next.Hash()
		}
	}
	return nil
}

// load returns count entries from a position on, all of which must exist, as they
// are in the file.
func (e *entryFile) load(from, count uint64) ([]hashchain.Entry, error) {
	if from > e.size || count > e.size-from {
		return nil, fmt.Errorf("%d entries from position %d on are not in the copy, which has %d", count, from, e.size)
	}
	raw := make([]byte, count*hashchain.EntrySize)
	if _, err := e.file.ReadAt(raw, int64(from*hashchain.EntrySize)); err != nil {
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("%w: %s ends before position %d", ErrDamaged, e.file.Name(), from+count-1)
		}
		return nil, err
	}
	entries := make([]hashchain.Entry, count)
	for i := range entries {
		entries[i] = hashchain.Entry(raw[i*hashchain.EntrySize:])
	}
	return entries, nil
}

// read does what load does, and verifies the entries against each other, the one
// before them and, at the end, the chain's head.
func (e *entryFile) read(from, count uint64) ([]hashchain.Entry, error) {
	before := min(from, 1) // one more, for its hash
	entries, err := e.load(from-before, before+count)
	if err != nil {
		return nil, err
	}
	var prev hashchain.Hash
	if before == 1 {
		prev, entries = entries[0].Hash(), entries[1:]
	}
	for i := range entries {
		if !entries[i].Follows(prev) {
			return nil, e.damaged(from + uint64(i))
		}
		prev = entries[i].Hash()
	}
	if count > 0 && from+count == e.size && prev != e.head {
		return nil, e.damaged(from + count - 1)
	}
	return entries, nil
}

func (e *entryFile) damaged(position uint64) error {
	return fmt.Errorf("%w: %s: the entry at position %d is not the one that was verified", ErrDamaged, e.file.Name(), position)
}

func (e *entryFile) at(position uint64) (hashchain.Entry, error) {
	entries, err := e.read(position, 1)
	if err != nil {
		return hashchain.Entry{}, err
	}
	return entries[0], nil
}

// advance appends entries to a chain, which has the first of them, until it has
// size, which the file must have.
func (e *entryFile) advance(c *hashchain.Chain, size uint64) error {
	for c.Size < size {
		entries, err := e.load(c.Size, min(size-c.Size, entriesAtOnce))
		if err != nil {
			return err
		}
		if err := c.Append(entries, nil); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrDamaged, e.file.Name(), err)
		}
	}
	if size == e.size && c.Head != e.head {
		return e.damaged(size - 1)
	}
	return nil
}

// Node implements hashchain.Nodes: it hashes the entries below.
func (e *entryFile) Node(id hashchain.NodeID) (hashchain.Hash, error) {
	first, left := id.Index<<id.Level, uint64(1)<<id.Level
	tree := (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0)
	for left > 0 {
		entries, err := e.read(first, min(left, entriesAtOnce))
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

// root returns the Merkle tree hash over the first size entries.
func (e *entryFile) root(size uint64) (hashchain.Hash, error) {
	c, err := hashchain.ChainAt(size, hashchain.Hash{}, e)
	if err != nil {
		return hashchain.Hash{}, err
	}
	return c.Root(), nil
}
