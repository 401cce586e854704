package client

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
)

const (
	// maxEntries is more than a chain can have, and few enough to compute with.
	maxEntries = 1 << 48
	// entriesAtOnce is how many entries are read, searched or downloaded in one go:
	// some 2.5 MB, or 3.4 MB on the wire.
	entriesAtOnce = 1 << 14
)

// chainCopy is the file with the entries. Whatever is read of it is verified again, each
// entry against the one before it: nobody who only speaks the keyserver's JSON-RPC can ask
// for proofs from the Merkle tree, whose computation would take longer than all else.
type chainCopy struct {
	file  *os.File
	size  uint64         // entries
	head  hashchain.Hash // of the last; zero if there is none
	first hashchain.Hash // of position 0
}

// openCopy opens the file with a chain of some size and head, or makes it for a chain
// without entries.
func openCopy(path string, size uint64, head []byte) (*chainCopy, error) {
	return openCopyWith(os.O_RDWR|os.O_CREATE, path, size, head)
}

// lookAtCopy is openCopy only to read what is there.
func lookAtCopy(path string, size uint64, head []byte) (*chainCopy, error) {
	return openCopyWith(os.O_RDONLY, path, size, head)
}

func openCopyWith(flag int, path string, size uint64, head []byte) (_ *chainCopy, err error) {
	c := &chainCopy{size: size}
	if size > maxEntries || size > 0 && len(head) != len(c.head) {
		return nil, fmt.Errorf("%w: the recorded end of the chain", ErrDamagedCopy)
	}
	copy(c.head[:], head)
	if c.file, err = os.OpenFile(path, flag, 0o600); err != nil {
		return nil, err
	}
	if size > 0 {
		var first hashchain.Entry
		if first, err = c.at(0); err == nil {
			c.first = first.Hash()
			_, err = c.at(size - 1)
		}
	}
	if err != nil {
		return nil, errors.Join(err, c.file.Close())
	}
	return c, nil
}

func (c *chainCopy) close() error { return c.file.Close() }

// read returns count entries from a position on, all of which must exist, verified
// against each other, the one before them and, at the end, the chain's head.
func (c *chainCopy) read(from, count uint64) ([]hashchain.Entry, error) {
	if from > c.size || count > c.size-from {
		return nil, fmt.Errorf("entries %d to %d are not in the copy, which has %d", from, from+count-1, c.size)
	}
	before := min(from, 1) // one more, for its hash
	raw := make([]byte, (before+count)*hashchain.EntrySize)
	if _, err := c.file.ReadAt(raw, int64((from-before)*hashchain.EntrySize)); err != nil {
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("%w: %s ends before position %d", ErrDamagedCopy, c.file.Name(), from+count-1)
		}
		return nil, err
	}
	var prev hashchain.Hash
	if before == 1 {
		prev = hashchain.Hash(raw)
	}
	entries := make([]hashchain.Entry, count)
	for i := range entries {
		e := &entries[i]
		*e = hashchain.Entry(raw[(before+uint64(i))*hashchain.EntrySize:])
		if !e.Follows(prev) {
			return nil, fmt.Errorf("%w: %s: the entry at position %d is not the one that was verified", ErrDamagedCopy, c.file.Name(), from+uint64(i))
		}
		prev = e.Hash()
	}
	if count > 0 && from+count == c.size && prev != c.head {
		return nil, fmt.Errorf("%w: %s: the entry at position %d is not the recorded head", ErrDamagedCopy, c.file.Name(), from+count-1)
	}
	return entries, nil
}

func (c *chainCopy) at(position uint64) (hashchain.Entry, error) {
	entries, err := c.read(position, 1)
	if err != nil {
		return hashchain.Entry{}, err
	}
	return entries[0], nil
}

// find returns the last position in [begin, end) at which an entry stands.
func (c *chainCopy) find(e *hashchain.Entry, begin, end uint64) (position uint64, ok bool, err error) {
	for end > begin {
		count := min(end-begin, entriesAtOnce)
		entries, err := c.read(end-count, count)
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

// append writes verified entries, at least one, behind the last. They are on disk
// then, but only count when the state is, too.
func (c *chainCopy) append(entries []hashchain.Entry) error {
	raw := make([]byte, 0, len(entries)*hashchain.EntrySize)
	for i := range entries {
		raw = append(raw, entries[i][:]...)
	}
	if _, err := c.file.WriteAt(raw, int64(c.size*hashchain.EntrySize)); err != nil {
		return err
	}
	if err := c.file.Sync(); err != nil {
		return err
	}
	if c.size == 0 {
		c.first = entries[0].Hash()
	}
	c.size += uint64(len(entries))
	c.head = entries[len(entries)-1].Hash()
	return nil
}
