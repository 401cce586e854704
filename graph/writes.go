package graph

import (
	"cmp"
	"encoding/binary"
	"iter"

	"github.com/gcash/bchd/chaincfg/chainhash"
)

// entry is one write: key and value, or the deletion of key if value is nil.
type entry struct{ key, value []byte }

// writes is one step in the making: what it writes, in the order in which it must
// become durable. Not safe for concurrent use.
//
// What lies above the tip does not count, so a step that adds blocks names the
// new tip last, and one that takes a block back names it first; between those, a
// killed process leaves something that nobody reads, and that sweep removes. For
// that, a block's undo record is the first of it to be written and the last to be
// deleted.
//
// That is also why a step need not be held until it is complete. It is written in
// stages: whenever a block has come to stageBytes, what there is goes out, and before it
// the part of the undo record that lists it. Where a block is cut follows from the block
// alone, so that the same chain leaves the same records.
type writes struct {
	entries []entry
	held    int    // bytes of entries, with what they take besides keys and values
	space   []byte // where keys and values are made

	// out takes a stage; nil: all of it is kept.
	out        func(stage []entry) error
	err        error // the first of out; the rest was dropped
	stageBytes int   // 0: stageBytes

	height uint32 // of the block under way
	block  int    // entries before those of that block
	staged int    // held before those of that block, or of its stage
	undo   []byte // keys that it added, but for those in earlier stages
	chunks uint32 // of its undo record in earlier stages

	finished []undoRecord // of the step's blocks
}

// undoRecord is how many chunks a block's undo record has.
type undoRecord struct{ height, chunks uint32 }

// stageBytes is how large a stage of a block is, in bytes of entries.
const stageBytes = 8 << 20

// entryBytes is what an entry takes besides its key and value.
const entryBytes = 48

// make returns what fill appends to a slice.
func (w *writes) make(fill func(b []byte) []byte) []byte {
	const page, most = 256 << 10, 4 << 10
	if cap(w.space)-len(w.space) < most {
		w.space = make([]byte, 0, page)
	}
	at := len(w.space)
	w.space = fill(w.space)
	return w.space[at:len(w.space):len(w.space)]
}

// set writes what taking a block back derives from its height alone.
func (w *writes) set(key, value []byte) {
	w.entries = append(w.entries, entry{key, value})
	w.held += len(key) + len(value) + entryBytes
	if w.held-w.staged >= cmp.Or(w.stageBytes, stageBytes) {
		w.stage()
	}
}

// add writes something that was not there before the block, and notes its key
// for undo.
func (w *writes) add(key, value []byte) {
	w.undo = append(append(w.undo, byte(len(key))), key...)
	w.set(key, value)
}

// setChunks stores a long value of a height, cut in chunks.
func (w *writes) setChunks(prefix byte, height uint32, value []byte) {
	for n := uint32(0); len(value) > 0; n++ {
		chunk := value[:min(len(value), chunkSize)]
		w.set(chunkKey(prefix, height, n), chunk)
		value = value[len(chunk):]
	}
}

// beginBlock begins what the block at height writes.
func (w *writes) beginBlock(height uint32) {
	w.height, w.block, w.staged, w.chunks = height, len(w.entries), w.held, 0
}

// stage ends a stage of the block under way.
func (w *writes) stage() {
	w.orderUndo()
	w.flush()
}

// finishBlock ends what the block under way writes.
func (w *writes) finishBlock() {
	w.orderUndo()
	w.finished = append(w.finished, undoRecord{w.height, w.chunks})
	if w.held >= cmp.Or(w.stageBytes, stageBytes) {
		w.flush()
	}
}

// orderUndo puts what there is of the block's undo record before the rest of it. The
// first part is always there: it says that the block may not be there as a whole.
func (w *writes) orderUndo() {
	if len(w.undo) > 0 || w.chunks == 0 {
		rest := w.entries[w.block:]
		undo := undoEntries(w.height, w.chunks, w.undo)
		ordered := append(make([]entry, 0, len(rest)+len(undo)), undo...)
		w.entries = append(w.entries[:w.block], append(ordered, rest...)...)
		w.chunks += uint32(len(undo))
		w.held += len(w.undo)
		w.undo = nil
	}
	w.block, w.staged = len(w.entries), w.held
}

// flush gives away what there is.
func (w *writes) flush() {
	if w.out == nil || len(w.entries) == 0 {
		return
	}
	if w.err == nil {
		w.err = w.out(w.entries)
	}
	w.entries, w.space, w.held, w.block, w.staged = nil, nil, 0, 0, 0
}

// undoEntries cuts a list of keys in chunks, none of which depends on another, from a
// number on. There is always one.
func undoEntries(height, from uint32, keys []byte) (entries []entry) {
	if keys == nil {
		keys = []byte{}
	}
	for len(entries) == 0 || len(keys) > 0 {
		end := 0
		for end < len(keys) && end < chunkSize {
			end += 1 + int(keys[end])
		}
		entries = append(entries, entry{chunkKey(prefixUndo, height, from+uint32(len(entries))), keys[:end:end]})
		keys = keys[end:]
	}
	return entries
}

// undoKeys lists the keys in a chunk of an undo record.
func undoKeys(chunk []byte) (keys [][]byte, err error) {
	d := decoder{rest: chunk}
	for len(d.rest) > 0 {
		keys = append(keys, d.take(int(d.byte())))
	}
	return keys, d.finish("chunk of an undo record")
}

// setTip names the tip.
func (w *writes) setTip(height uint32, block chainhash.Hash) {
	w.set([]byte{prefixTip}, append(binary.BigEndian.AppendUint32(nil, height), block[:]...))
}

// setNoTip says that there is no block.
func (w *writes) setNoTip() { w.set([]byte{prefixTip}, []byte{}) }

// size is about how many bytes the step has.
func size(entries []entry) (n uint64) {
	for _, e := range entries {
		n += uint64(len(e.key) + len(e.value))
	}
	return n
}

// pieces cuts entries into as few as can be written at once: less than maxCount
// entries and maxSize bytes each.
func pieces(entries []entry, maxCount, maxSize int64) iter.Seq[[]entry] {
	const overhead = 64 // bytes per entry at most that Badger counts besides
	return func(yield func([]entry) bool) {
		for len(entries) > 0 {
			n, bytes := 0, int64(0)
			for n < len(entries) && int64(n) < maxCount-4 {
				bytes += int64(len(entries[n].key)+len(entries[n].value)) + overhead
				if n > 0 && bytes > maxSize*9/10 {
					break
				}
				n++
			}
			if !yield(entries[:n]) {
				return
			}
			entries = entries[n:]
		}
	}
}
