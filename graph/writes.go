package graph

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	"github.com/dgraph-io/badger/v4"
)

// writes is one atomic step in the making: what it wrote so far lies over a
// snapshot of the store. It also records, block by block, what was there before,
// for undo. Not safe for concurrent use.
type writes struct {
	base    *badger.Txn
	pending map[string]pendingWrite
	// versions maps the stem of a versioned key, of those that latest is asked for,
	// to the newest version in pending.
	versions map[string]string

	block uint32 // number in the step of the block being applied, from 1 on
	undo  []byte // its undo entries
}

type pendingWrite struct {
	value []byte // nil: deleted
	block uint32 // the last that has an undo entry for it, 0: none
}

func newWrites(db *badger.DB) *writes {
	return &writes{
		base:     db.NewTransaction(false),
		pending:  make(map[string]pendingWrite),
		versions: make(map[string]string),
		block:    1,
	}
}

func (w *writes) discard() { w.base.Discard() }

// get returns the value of key, nil if there is none. The caller must not
// change it.
func (w *writes) get(key []byte) ([]byte, error) {
	if p, ok := w.pending[string(key)]; ok {
		return p.value, nil
	}
	return read(w.base, key)
}

// read returns the value of key in txn, nil if there is none.
func read(txn *badger.Txn, key []byte) ([]byte, error) {
	item, err := txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the database: %w", err)
	}
	v, err := item.ValueCopy(nil)
	if err != nil {
		return nil, fmt.Errorf("reading the database: %w", err)
	}
	if v == nil {
		v = []byte{}
	}
	return v, nil
}

// replace sets key to value, or deletes it if value is nil. old is what the
// key held before the block, nil for nothing: the caller knows, which saves
// looking.
func (w *writes) replace(key, old, value []byte) {
	if w.pending[string(key)].block != w.block {
		w.undo = appendEntry(w.undo, key, old)
	}
	w.pending[string(key)] = pendingWrite{value, w.block}
}

// insert sets a key that did not exist before the block.
func (w *writes) insert(key, value []byte) { w.replace(key, nil, value) }

// setVersion writes the version of height, which must be the block's own, of
// the thing with the given stem.
func (w *writes) setVersion(stem []byte, height uint32, value []byte) {
	w.insert(version(stem, height), value)
}

// setLatest is setVersion for what latest is going to be asked for.
func (w *writes) setLatest(stem []byte, height uint32, value []byte) {
	w.setVersion(stem, height, value)
	w.versions[string(stem)] = string(version(stem, height))
}

// latest returns the newest version of the thing with the given stem, all of
// whose versions were set by setLatest, nil if there is none.
func (w *writes) latest(stem []byte) ([]byte, error) {
	if key, ok := w.versions[string(stem)]; ok {
		return w.pending[key].value, nil
	}
	it := newIterator(w.base, stem)
	defer it.Close()
	if it.Rewind(); !it.Valid() {
		return nil, nil
	}
	return it.Item().ValueCopy(nil)
}

func newIterator(txn *badger.Txn, prefix []byte) *badger.Iterator {
	opt := badger.DefaultIteratorOptions
	opt.PrefetchValues = false
	opt.Prefix = prefix
	return txn.NewIterator(opt)
}

// record sets a key without an undo entry: what taking a block back derives
// from its height alone.
func (w *writes) record(key, value []byte) { w.pending[string(key)] = pendingWrite{value: value} }

// entries lists what the step writes, in any order.
func (w *writes) entries() iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for key, p := range w.pending {
			if !yield(key, p.value) {
				return
			}
		}
	}
}

// finishBlock stores the undo record of the block at height and starts the next
// block's.
func (w *writes) finishBlock(height uint32) {
	w.recordChunks(prefixUndo, height, w.undo)
	w.undo = nil
	w.block++
}

// recordChunks stores a long value of a height, cut in chunks.
func (w *writes) recordChunks(prefix byte, height uint32, value []byte) {
	for n := uint32(0); len(value) > 0; n++ {
		chunk := value[:min(len(value), chunkSize)]
		w.record(chunkKey(prefix, height, n), chunk)
		value = value[len(chunk):]
	}
}

// takeBack applies a block's undo record.
func (w *writes) takeBack(undo []byte) error {
	return eachEntry(undo, func(key, old []byte) {
		w.record(key, old)
	})
}

// appendEntry encodes one write: key length 1, key, 0 for a deletion or 1, value
// length 4, value.
func appendEntry(b, key, value []byte) []byte {
	b = append(b, byte(len(key)))
	b = append(b, key...)
	if value == nil {
		return append(b, 0)
	}
	b = append(b, 1)
	b = binary.BigEndian.AppendUint32(b, uint32(len(value)))
	return append(b, value...)
}

func eachEntry(b []byte, visit func(key, value []byte)) error {
	d := decoder{rest: b}
	for len(d.rest) > 0 {
		key := d.take(int(d.byte()))
		var value []byte
		set := d.byte()
		if set == 1 {
			value = d.take(int(d.uint32()))
		}
		if d.short || set > 1 {
			return fmt.Errorf("%w: a list of writes does not end with one", ErrDamaged)
		}
		visit(key, value)
	}
	return nil
}
