package audit

import (
	"errors"

	"github.com/keytree-bch/keytree/keyserver/chainfile"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
)

// ErrDamaged says that a file of the auditor is not what it wrote. Reset drops it, and the
// next audit fetches again what it needs.
var ErrDamaged = errors.New("local file damaged")

// entryFile is a file with the entries of a hashchain.
type entryFile struct {
	*chainfile.File
	// kept is how many of them something covers that is signed or anchored, keptHead the
	// hash of the last. What comes behind was only shown.
	kept     uint64
	keptHead hashchain.Hash
}

// openEntries opens the file with a chain of some size and head, all of which is kept,
// or makes it for a chain without entries.
func openEntries(path string, size uint64, head hashchain.Hash) (*entryFile, error) {
	file, err := chainfile.Open(path, size, head, ErrDamaged)
	if err != nil {
		return nil, err
	}
	return &entryFile{File: file, kept: size, keptHead: head}, nil
}

// add verifies that entries follow the last and writes them; Sync puts them on
// disk. At the first that does not follow it stops, and returns its index.
func (e *entryFile) add(entries []hashchain.Entry) (added int, err error) {
	head := e.Head()
	for added < len(entries) && entries[added].Follows(head) {
		head = entries[added].Hash()
		added++
	}
	if err := e.Append(entries[:added]); err != nil {
		return 0, err
	}
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
	e.Shorten(e.kept, e.keptHead)
	return e.Truncate()
}
