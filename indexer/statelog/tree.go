package statelog

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/keytree-bch/keytree/graph/durable"
	"github.com/keytree-bch/keytree/protocol"
	format "github.com/keytree-bch/keytree/protocol/tlog"
)

const (
	entrySize = int64(protocol.StateEntrySize)
	hashSize  = int64(len(format.Hash{}))
)

// tree are the entries of an epoch and the hashes of all perfect subtrees over them, in two files of fixed
// records. It is a Tree of keyserver/tlog, but for Ready. Its methods may be called concurrently; append and cut
// by one goroutine only.
type tree struct {
	entries *os.File
	hashes  *os.File // in the order of tlog.StoredHashIndex

	mu   sync.RWMutex // held for reading while anything below size is read
	size uint64       // mu; entries that are on disk
}

// openTree opens the tree in dir, or makes one there. All that its files have is checked; what comes behind
// the first record that does not hold, as after a power failure, is cut off: the chain has it still.
func openTree(dir string) (t *tree, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	t = new(tree)
	if t.entries, err = os.OpenFile(filepath.Join(dir, "entries"), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	if t.hashes, err = os.OpenFile(filepath.Join(dir, "hashes"), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, errors.Join(err, t.entries.Close())
	}
	if err = errors.Join(durable.SyncFolder(dir), durable.SyncFolder(filepath.Dir(dir))); err == nil {
		err = t.readBack()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("reading the state log in %s: %w", dir, err), t.close())
	}
	return t, nil
}

func (t *tree) close() error { return errors.Join(t.entries.Close(), t.hashes.Close()) }

// readBack counts the entries that hold.
func (t *tree) readBack() error {
	entries, hashes := bufio.NewReaderSize(io.NewSectionReader(t.entries, 0, 1<<62), 1<<20), bufio.NewReaderSize(io.NewSectionReader(t.hashes, 0, 1<<62), 1<<20)
	var size int64
	for entry := make([]byte, entrySize); ; size++ {
		if _, err := io.ReadFull(entries, entry); ended(err) {
			break
		} else if err != nil {
			return err
		}
		if _, err := protocol.DecodeStateEntry(entry); err != nil {
			break
		}
		want, err := tlog.StoredHashes(size, entry, tlog.HashReaderFunc(t.readHashes))
		if err != nil {
			return err
		}
		have := make([]byte, int64(len(want))*hashSize)
		if _, err := io.ReadFull(hashes, have); err != nil && !ended(err) {
			return err
		} else if err != nil || !bytes.Equal(have, joined(want)) {
			break
		}
	}
	return t.truncate(size)
}

// ended tells whether a file had no whole record any more.
func ended(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

func joined(hashes []tlog.Hash) (b []byte) {
	for i := range hashes {
		b = append(b, hashes[i][:]...)
	}
	return b
}

// truncate leaves the first size entries.
func (t *tree) truncate(size int64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.size = uint64(size)
	return errors.Join(t.entries.Truncate(size*entrySize), t.hashes.Truncate(tlog.StoredHashCount(size)*hashSize), t.entries.Sync(), t.hashes.Sync())
}

// append adds entries, which count when they are on disk.
func (t *tree) append(entries []protocol.StateEntry) error {
	t.mu.RLock()
	size := int64(t.size)
	t.mu.RUnlock()
	var records []byte
	var made []tlog.Hash
	stored := tlog.StoredHashCount(size)
	read := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) { // made comes behind what is stored
		hashes := make([]tlog.Hash, len(indexes))
		for i, at := range indexes {
			if at >= stored {
				hashes[i] = made[at-stored]
				continue
			}
			h, err := t.readHashes([]int64{at})
			if err != nil {
				return nil, err
			}
			hashes[i] = h[0]
		}
		return hashes, nil
	})
	for i := range entries {
		b := entries[i].Bytes()
		hashes, err := tlog.StoredHashes(size+int64(i), b[:], read)
		if err != nil {
			return err
		}
		records, made = append(records, b[:]...), append(made, hashes...)
	}
	_, entriesErr := t.entries.WriteAt(records, size*entrySize)
	_, hashesErr := t.hashes.WriteAt(joined(made), stored*hashSize)
	if err := errors.Join(entriesErr, hashesErr, t.entries.Sync(), t.hashes.Sync()); err != nil {
		return err // what was written is written again
	}
	t.mu.Lock()
	t.size += uint64(len(entries))
	t.mu.Unlock()
	return nil
}

// readHashes is a tlog.HashReaderFunc. Called with mu held for reading, or by who alone appends.
func (t *tree) readHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, at := range indexes {
		if _, err := t.hashes.ReadAt(hashes[i][:], at*hashSize); err != nil {
			return nil, err
		}
	}
	return hashes, nil
}

// entry returns the entry at an index below Size.
func (t *tree) entry(index uint64) (protocol.StateEntry, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if index >= t.size {
		return protocol.StateEntry{}, t.beyond(index + 1)
	}
	b := make([]byte, entrySize)
	if _, err := t.entries.ReadAt(b, int64(index)*entrySize); err != nil {
		return protocol.StateEntry{}, err
	}
	return protocol.DecodeStateEntry(b)
}

func (t *tree) beyond(size uint64) error {
	return fmt.Errorf("the state log has %d entries, not %d", t.size, size)
}

// Size implements keyserver/tlog.Tree.
func (t *tree) Size() uint64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.size
}

// RootAt implements keyserver/tlog.Tree.
func (t *tree) RootAt(_ context.Context, size uint64) (format.Hash, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	switch {
	case size == 0:
		return format.EmptyRoot, nil
	case size > t.size:
		return format.Hash{}, t.beyond(size)
	}
	return tlog.TreeHash(int64(size), tlog.HashReaderFunc(t.readHashes))
}

// TileHashes implements keyserver/tlog.Tree.
func (t *tree) TileHashes(_ context.Context, level uint, first, count uint64) ([]format.Hash, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if last := first + count; last > t.size>>level {
		return nil, t.beyond(last << level)
	}
	indexes := make([]int64, count)
	for i := range indexes {
		indexes[i] = tlog.StoredHashIndex(int(level), int64(first)+int64(i))
	}
	return t.readHashes(indexes)
}

// Bundle implements keyserver/tlog.Tree.
func (t *tree) Bundle(_ context.Context, first, count uint64) ([]byte, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if first+count > t.size {
		return nil, t.beyond(first + count)
	}
	records := make([]byte, int64(count)*entrySize)
	if _, err := t.entries.ReadAt(records, int64(first)*entrySize); err != nil {
		return nil, err
	}
	var bundle []byte
	for ; len(records) > 0; records = records[entrySize:] {
		bundle = format.AppendEntry(bundle, records[:entrySize])
	}
	return bundle, nil
}

// Consistency implements keyserver/tlog.Tree.
func (t *tree) Consistency(_ context.Context, size1, size2 uint64) ([]format.Hash, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if size1 == 0 || size1 > size2 || size2 > t.size {
		return nil, t.beyond(max(size1, size2))
	}
	if size1 == size2 {
		return nil, nil
	}
	return tlog.ProveTree(int64(size2), int64(size1), tlog.HashReaderFunc(t.readHashes))
}
