package graph

import (
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
type writes struct {
	entries []entry
	space   []byte // where keys and values are made

	block int    // entries before those of the block under way
	undo  []byte // keys that it added
}

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
func (w *writes) set(key, value []byte) { w.entries = append(w.entries, entry{key, value}) }

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

// finishBlock puts the undo record of the block at height before the rest of it,
// and starts the next block's.
func (w *writes) finishBlock(height uint32) {
	rest := w.entries[w.block:]
	ordered := append(make([]entry, 0, len(rest)+1+len(w.undo)/chunkSize), undoEntries(height, w.undo)...)
	w.entries = append(w.entries[:w.block], append(ordered, rest...)...)
	w.block, w.undo = len(w.entries), nil
}

// undoEntries cuts a list of keys in chunks, none of which depends on another.
// There is always one: it says that the block may not be there as a whole.
func undoEntries(height uint32, keys []byte) (entries []entry) {
	if keys == nil {
		keys = []byte{}
	}
	for len(entries) == 0 || len(keys) > 0 {
		end := 0
		for end < len(keys) && end < chunkSize {
			end += 1 + int(keys[end])
		}
		entries = append(entries, entry{chunkKey(prefixUndo, height, uint32(len(entries))), keys[:end:end]})
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
