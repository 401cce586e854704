package badgerdb

import (
	"errors"
	"fmt"
)

// ErrDiskFull says that the disk has too little room left for a write, or for
// opening the database. Nothing was changed. Make room, then go on.
var ErrDiskFull = errors.New("disk nearly full")

// ReserveMemTables is how much room has to be free on the disk before anything
// is written, in memtables.
//
// Badger writes through memory maps of files that have no blocks yet: on a full
// disk, such a write is a signal that ends the process. Besides what is written,
// there must be room for what Badger does on its own meanwhile: the logs of up to
// three memtables, their tables, and a compaction of those on level 0, which holds
// old and new until it is done.
const ReserveMemTables = 12

// disk is where a database is, and what has to stay free there.
type disk struct {
	dir      string // the database's folder
	memTable int64  // size of one of its memtables in bytes; ReserveMemTables of them stay free
	// free returns the bytes that are free for this process where dir is, ok false
	// where the system does not tell.
	free func(dir string) (bytes uint64, ok bool, err error)
}

// room returns ErrDiskFull unless so many bytes of keys and values can be written
// without touching what has to stay free. The folder must exist.
func (d disk) room(bytes uint64) error {
	free, ok, err := d.free(d.dir)
	if err != nil {
		return fmt.Errorf("asking for the free space of %s: %w", d.dir, err)
	}
	// Once in the log, once in a table, and both once more in compactions.
	need := 4*bytes + ReserveMemTables*uint64(d.memTable)
	if ok && free < need {
		return fmt.Errorf("%w: %s has %d MiB free, %d MiB are needed: make room and try again",
			ErrDiskFull, d.dir, free>>20, (need+1<<20-1)>>20)
	}
	return nil
}
