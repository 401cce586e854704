package graph

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	"github.com/dgraph-io/badger/v4"
)

// A step that fits goes into one transaction of the store. A larger one is
// written first to a journal, in as many transactions as it takes; one more
// transaction marks the journal complete, and from then on the step counts:
// recoverJournal copies the journal to its place, now or at the next start, as
// often as needed, since writing the same values twice changes nothing.

var journalDoneKey = []byte{prefixJournalDone}

// commit makes the step durable as a whole: when it returns nil, all of it is on
// disk. When it fails or the process dies, recoverJournal has to run before the
// store is read; then all of it or none is found.
func (g *Graph) commit(w *writes) error {
	if err := g.disk.room(0); err != nil {
		return err
	}
	err := g.store.commit(w.entries())
	if errors.Is(err, errTooLarge) {
		// The journal, its copy in place, and both once more in compactions.
		if err = g.disk.room(4 * w.size()); err == nil {
			err = w.commitJournal(g.store)
		}
		if err == nil {
			return recoverJournal(g.db, g.store)
		}
	}
	if err != nil {
		return fmt.Errorf("writing the database: %w", err)
	}
	return nil
}

// size is about how many bytes the step has.
func (w *writes) size() (n uint64) {
	for key, value := range w.entries() {
		n += uint64(len(key) + len(value))
	}
	return n
}

// drain lists what the step writes and lets go of it on the way: the store takes
// memory of its own for a step of this size.
func (w *writes) drain() iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for key, p := range w.pending {
			delete(w.pending, key)
			if !yield(key, p.value) {
				return
			}
		}
		w.pending = nil
	}
}

func (w *writes) commitJournal(st store) error {
	chunks := uint32(0)
	err := st.write(func(yield func(string, []byte) bool) {
		for chunk := range packed(w.drain()) {
			if !yield(string(heightKey(prefixJournal, chunks)), chunk) {
				return
			}
			chunks++
		}
	})
	if err != nil {
		return err
	}
	return st.commit(entry(journalDoneKey, binary.BigEndian.AppendUint32(nil, chunks)))
}

// packed encodes entries into chunks, none of which depends on another.
func packed(entries iter.Seq2[string, []byte]) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		fresh := func() []byte { return make([]byte, 0, chunkSize+1<<10) }
		chunk := fresh()
		for key, value := range entries {
			if chunk = appendEntry(chunk, []byte(key), value); len(chunk) >= chunkSize {
				if !yield(chunk) {
					return
				}
				chunk = fresh() // the store keeps the old one
			}
		}
		if len(chunk) > 0 {
			yield(chunk)
		}
	}
}

// recoverJournal finishes a step whose journal is complete, and drops one whose
// journal is not.
func recoverJournal(db *badger.DB, st store) error {
	if err := finishJournal(db, st); err != nil {
		return fmt.Errorf("finishing a step in the journal: %w", err)
	}
	if err := deletePrefix(db, st, prefixJournal); err != nil {
		return fmt.Errorf("clearing the journal: %w", err)
	}
	return nil
}

func finishJournal(db *badger.DB, st store) error {
	txn := db.NewTransaction(false)
	defer txn.Discard()
	done, err := read(txn, journalDoneKey)
	if err != nil || done == nil {
		return err
	}
	d := decoder{rest: done}
	chunks := d.uint32()
	if err := d.finish("journal mark"); err != nil {
		return err
	}
	var failed error
	err = st.write(func(yield func(string, []byte) bool) {
		for n := range chunks {
			var chunk []byte
			if chunk, failed = read(txn, heightKey(prefixJournal, n)); failed != nil {
				return
			}
			if chunk == nil {
				failed = fmt.Errorf("%w: chunk %d of %d of the journal is missing", ErrDamaged, n, chunks)
				return
			}
			more := true
			failed = eachEntry(chunk, func(key, value []byte) {
				more = more && yield(string(key), value)
			})
			if failed != nil || !more {
				return
			}
		}
	})
	if err := errors.Join(failed, err); err != nil {
		return err
	}
	return st.commit(entry(journalDoneKey, nil))
}

// deletePrefix deletes every key under prefix, not atomically.
func deletePrefix(db *badger.DB, st store, prefix byte) error {
	txn := db.NewTransaction(false)
	defer txn.Discard()
	it := newIterator(txn, []byte{prefix})
	defer it.Close()
	return st.write(func(yield func(string, []byte) bool) {
		for it.Rewind(); it.Valid(); it.Next() {
			if !yield(string(it.Item().Key()), nil) {
				return
			}
		}
	})
}
