package graph

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"
)

// writes is one atomic step in the making: what it wrote so far lies over a
// snapshot of the store. It also records, block by block, what was there before,
// for undo. Not safe for concurrent use.
type writes struct {
	base    *badger.Txn
	pending map[string][]byte // nil: deleted
	// versions maps the stem of a versioned key to the newest version in pending.
	versions map[string]string

	undo    []byte              // undo entries of the block being applied
	touched map[string]struct{} // keys that have an undo entry
}

func newWrites(db *badger.DB) *writes {
	return &writes{
		base:     db.NewTransaction(false),
		pending:  make(map[string][]byte),
		versions: make(map[string]string),
		touched:  make(map[string]struct{}),
	}
}

func (w *writes) discard() { w.base.Discard() }

// get returns the value of key, nil if there is none. The caller must not
// change it.
func (w *writes) get(key []byte) ([]byte, error) {
	if v, ok := w.pending[string(key)]; ok {
		return v, nil
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
	if _, ok := w.touched[string(key)]; !ok {
		w.touched[string(key)] = struct{}{}
		w.undo = appendEntry(w.undo, key, old)
	}
	w.pending[string(key)] = value
}

// insert sets a key that did not exist before the block.
func (w *writes) insert(key, value []byte) { w.replace(key, nil, value) }

// setVersion writes the version of height, which must be the block's own, of
// the thing with the given stem.
func (w *writes) setVersion(stem []byte, height uint32, value []byte) {
	key := version(stem, height)
	w.insert(key, value)
	w.versions[string(stem)] = string(key)
}

// latest returns the newest version of the thing with the given stem, nil if
// there is none.
func (w *writes) latest(stem []byte) ([]byte, error) {
	if key, ok := w.versions[string(stem)]; ok {
		return w.pending[key], nil
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
func (w *writes) record(key, value []byte) { w.pending[string(key)] = value }

// finishBlock stores the undo record of the block at height and starts the next
// block's.
func (w *writes) finishBlock(height uint32) {
	w.recordChunks(prefixUndo, height, w.undo)
	w.undo = nil
	clear(w.touched)
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
		w.pending[string(key)] = old
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
		if d.byte() == 1 {
			value = d.take(int(d.uint32()))
		}
		if d.short {
			return fmt.Errorf("%w: a list of writes is cut short", ErrDamaged)
		}
		visit(key, value)
	}
	return nil
}

// commit makes the step durable as a whole: when it returns nil, all of it is on
// disk; when it fails or the process dies, all of it or none is found when the
// graph is opened next.
//
// A step that fits goes into one Badger transaction. A larger one is written
// first to a journal, in as many transactions as it takes; one more transaction
// marks the journal complete, and from then on the step counts: recover copies
// the journal to its place, now or at the next start, as often as needed, since
// writing the same values twice changes nothing.
func (w *writes) commit(db *badger.DB) error {
	err := w.commitAtOnce(db)
	if errors.Is(err, badger.ErrTxnTooBig) {
		if err = w.commitJournal(db); err == nil {
			return recoverJournal(db)
		}
	}
	if err == nil {
		err = db.Sync()
	}
	if err != nil {
		return fmt.Errorf("writing the database: %w", err)
	}
	return nil
}

func (w *writes) commitAtOnce(db *badger.DB) error {
	txn := db.NewTransaction(true)
	defer txn.Discard()
	for key, value := range w.pending {
		if err := write(txn, []byte(key), value); err != nil {
			return err
		}
	}
	return txn.Commit()
}

func write(txn *badger.Txn, key, value []byte) error {
	if value == nil {
		return txn.Delete(key)
	}
	return txn.Set(key, value)
}

func (w *writes) commitJournal(db *badger.DB) error {
	batch := db.NewWriteBatch()
	defer batch.Cancel()
	var chunk []byte
	chunks := uint32(0)
	flush := func() error {
		if len(chunk) == 0 {
			return nil
		}
		key := heightKey(prefixJournal, chunks)
		chunks++
		err := batch.Set(key, chunk)
		chunk = nil // the batch keeps it
		return err
	}
	for key, value := range w.pending {
		if chunk = appendEntry(chunk, []byte(key), value); len(chunk) >= chunkSize {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	if err := batch.Flush(); err != nil {
		return err
	}
	if err := db.Sync(); err != nil {
		return err
	}
	err := db.Update(func(txn *badger.Txn) error {
		return txn.Set([]byte{prefixJournalDone}, binary.BigEndian.AppendUint32(nil, chunks))
	})
	if err != nil {
		return err
	}
	return db.Sync()
}

// recoverJournal finishes a step whose journal is complete, and drops one whose
// journal is not.
func recoverJournal(db *badger.DB) error {
	err := db.View(func(txn *badger.Txn) error {
		done, err := read(txn, []byte{prefixJournalDone})
		if err != nil || done == nil {
			return err
		}
		d := decoder{rest: done}
		chunks := d.uint32()
		if err := d.finish("journal mark"); err != nil {
			return err
		}
		batch := db.NewWriteBatch()
		defer batch.Cancel()
		for n := range chunks {
			chunk, err := read(txn, heightKey(prefixJournal, n))
			if err != nil {
				return err
			}
			if chunk == nil {
				return fmt.Errorf("%w: chunk %d of %d of the journal is missing", ErrDamaged, n, chunks)
			}
			var failed error
			err = eachEntry(chunk, func(key, value []byte) {
				if failed == nil {
					failed = writeBatch(batch, key, value)
				}
			})
			if err := errors.Join(err, failed); err != nil {
				return err
			}
		}
		if err := batch.Flush(); err != nil {
			return err
		}
		if err := db.Sync(); err != nil {
			return err
		}
		return db.Update(func(txn *badger.Txn) error { return txn.Delete([]byte{prefixJournalDone}) })
	})
	if err != nil {
		return fmt.Errorf("finishing a step in the journal: %w", err)
	}
	if err := deletePrefix(db, []byte{prefixJournal}); err != nil {
		return fmt.Errorf("clearing the journal: %w", err)
	}
	return db.Sync()
}

func writeBatch(batch *badger.WriteBatch, key, value []byte) error {
	key = bytes.Clone(key)
	if value == nil {
		return batch.Delete(key)
	}
	return batch.Set(key, bytes.Clone(value))
}

// deletePrefix deletes every key under prefix, not atomically.
func deletePrefix(db *badger.DB, prefix []byte) error {
	batch := db.NewWriteBatch()
	defer batch.Cancel()
	err := db.View(func(txn *badger.Txn) error {
		it := newIterator(txn, prefix)
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			if err := batch.Delete(it.Item().KeyCopy(nil)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return batch.Flush()
}
