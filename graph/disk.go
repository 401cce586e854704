package graph

import (
	"errors"
	"fmt"
)

// ErrDiskFull says that the disk has too little room left for a step, or for
// opening the graph. Nothing was changed. Make room, then go on.
var ErrDiskFull = errors.New("disk nearly full")

// reserveMemTables is how much room has to be free on the disk before anything
// is written, in memtables (Options.MemTable; 384 MiB by default).
//
// Badger writes through memory maps of files that have no blocks yet: on a full
// disk, such a write is a signal that ends the process. Besides what a step
// itself writes, there must be room for what Badger does on its own meanwhile:
// three memtables' logs, their tables, and a compaction of those on level 0,
// which holds old and new until it is done.
const reserveMemTables = 12

// disk is where a graph's folder is.
type disk struct {
	dir     string
	reserve uint64 // bytes
	// free returns the bytes that are free for this process where dir is, ok false
	// where the system does not tell.
	free func(dir string) (bytes uint64, ok bool, err error)
}

// room returns ErrDiskFull unless need bytes can be written without touching
// the reserve.
func (d disk) room(need uint64) error {
	free, ok, err := d.free(d.dir)
	if err != nil {
		return fmt.Errorf("asking for the free space of %s: %w", d.dir, err)
	}
	if ok && free < need+d.reserve {
		return fmt.Errorf("%w: %s has %d MiB free, %d MiB are needed: make room and start again",
			ErrDiskFull, d.dir, free>>20, (need+d.reserve+1<<20-1)>>20)
	}
	return nil
}

func errLocked(dir string) error {
	return fmt.Errorf("%w: %s: is another keytree running on this folder?", ErrLocked, dir)
}
