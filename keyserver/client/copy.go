package client

import (
	"errors"
	"fmt"

	"github.com/keytree-bch/keytree/keyserver/chainfile"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
)

// entriesAtOnce is how many entries are read, searched or downloaded in one go: some
// 2.5 MB, or 3.4 MB on the wire.
const entriesAtOnce = chainfile.AtOnce

// chainCopy is the file with the entries. Whatever is read of it is verified again: nobody
// who only speaks the keyserver's JSON-RPC can ask for proofs from the Merkle tree, whose
// computation would take longer than all else.
type chainCopy struct {
	*chainfile.File
	first hashchain.Hash // of position 0
}

// openCopy opens the file with a chain of some size and head, or makes it for a chain
// without entries.
func openCopy(path string, size uint64, head []byte) (*chainCopy, error) {
	return copyOf(chainfile.Open, path, size, head)
}

// openCopyReadOnly is openCopy only to read what is there.
func openCopyReadOnly(path string, size uint64, head []byte) (*chainCopy, error) {
	return copyOf(chainfile.OpenReadOnly, path, size, head)
}

// copyOf opens the file by one of chainfile's functions.
func copyOf(open func(string, uint64, hashchain.Hash, error) (*chainfile.File, error), path string, size uint64, head []byte) (*chainCopy, error) {
	c := new(chainCopy)
	var last hashchain.Hash
	if size > 0 && len(head) != len(last) {
		return nil, fmt.Errorf("%w: the recorded end of the chain", ErrDamagedCopy)
	}
	copy(last[:], head)
	var err error
	if c.File, err = open(path, size, last, ErrDamagedCopy); err != nil {
		return nil, err
	}
	if size > 0 {
		first, err := c.At(0)
		if err != nil {
			return nil, errors.Join(err, c.Close())
		}
		c.first = first.Hash()
	}
	return c, nil
}

// append writes verified entries, at least one, behind the last. They are on disk
// then, but only count when the state is, too.
func (c *chainCopy) append(entries []hashchain.Entry) error {
	begins := c.Size() == 0
	if err := c.Append(entries); err != nil {
		return err
	}
	if err := c.Sync(); err != nil {
		return err
	}
	if begins {
		c.first = entries[0].Hash()
	}
	return nil
}
