package store

import (
	"cmp"
	"encoding/binary"
	"iter"

	"github.com/gcash/bchd/chaincfg/chainhash"
)

// Entry is one write: a value for a key, or the deletion of the key if Value is nil.
type Entry struct{ Key, Value []byte }

// Writes is one step in the making: what it writes, in the order in which it must
// become durable. Not safe for concurrent use.
//
// What lies above the tip does not count, so a step that adds blocks names the
// new tip last, and one that takes a block back names it first; between those, a
// killed process leaves something that nobody reads, and that sweep removes. For
// that, a block's undo record is the first of it to be written and the last to be
// deleted.
//
// That is also why a step need not be held until it is complete. It is written in
// stages: whenever a block has come to StageBytes, what there is goes out, and before it
// the part of the undo record that lists it. Where a block is cut follows from the block
// alone, so that the same chain leaves the same records.
type Writes struct {
	Entries []Entry // but for the stages that are out
	held    int     // bytes of entries, with what they take besides keys and values
	space   []byte  // where keys and values are made

	// Out takes a stage; nil: all of it is kept.
	Out        func(stage []Entry) error
	Err        error // the first of Out; the rest was dropped
	StageBytes int   // how large a stage is, in bytes of entries; 0: DefaultStageBytes

	height uint32 // of the block under way
	block  int    // entries before those of that block
	staged int    // held before those of that block, or of its stage
	undo   []byte // keys that it added, but for those in earlier stages
	chunks uint32 // of its undo record in earlier stages

	Finished []UndoRecord // of the step's blocks
}

// UndoRecord is how many chunks a block's undo record has.
type UndoRecord struct{ Height, Chunks uint32 }

// DefaultStageBytes is how large a stage of a block is, in bytes of entries.
const DefaultStageBytes = 8 << 20

// entryBytes is what an entry takes besides its key and value.
const entryBytes = 48

// Make returns what fill appends to a slice.
func (w *Writes) Make(fill func(b []byte) []byte) []byte {
	const page, most = 256 << 10, 8 << 10
	if cap(w.space)-len(w.space) < most {
		w.space = make([]byte, 0, page)
	}
	at := len(w.space)
	w.space = fill(w.space)
	return w.space[at:len(w.space):len(w.space)]
}

// Set writes what taking a block back derives from its height alone.
func (w *Writes) Set(key, value []byte) {
	w.Entries = append(w.Entries, Entry{key, value})
	w.held += len(key) + len(value) + entryBytes
	if w.held-w.staged >= cmp.Or(w.StageBytes, DefaultStageBytes) {
		w.stage()
	}
}

// Add writes something that was not there before the block, and notes its key
// for undo.
func (w *Writes) Add(key, value []byte) {
	w.undo = append(append(w.undo, byte(len(key))), key...)
	w.Set(key, value)
}

// SetChunks stores a long value of a height, cut in chunks.
func (w *Writes) SetChunks(prefix byte, height uint32, value []byte) {
	for n := uint32(0); len(value) > 0; n++ {
		chunk := value[:min(len(value), ChunkSize)]
		w.Set(ChunkKey(prefix, height, n), chunk)
		value = value[len(chunk):]
	}
}

// BeginBlock begins what the block at height writes.
func (w *Writes) BeginBlock(height uint32) {
	w.height, w.block, w.staged, w.chunks = height, len(w.Entries), w.held, 0
}

// stage ends a stage of the block under way.
func (w *Writes) stage() {
	w.orderUndo()
	w.Flush()
}

// FinishBlock ends what the block under way writes.
func (w *Writes) FinishBlock() {
	w.orderUndo()
	w.Finished = append(w.Finished, UndoRecord{w.height, w.chunks})
	if w.held >= cmp.Or(w.StageBytes, DefaultStageBytes) {
		w.Flush()
	}
}

// orderUndo puts what there is of the block's undo record before the rest of it. The
// first part is always there: it says that the block may not be there as a whole.
func (w *Writes) orderUndo() {
	if len(w.undo) > 0 || w.chunks == 0 {
		rest := w.Entries[w.block:]
		undo := undoEntries(w.height, w.chunks, w.undo)
		ordered := append(make([]Entry, 0, len(rest)+len(undo)), undo...)
		w.Entries = append(w.Entries[:w.block], append(ordered, rest...)...)
		w.chunks += uint32(len(undo))
		w.held += len(w.undo)
		w.undo = nil
	}
	w.block, w.staged = len(w.Entries), w.held
}

// Flush gives away what there is.
func (w *Writes) Flush() {
	if w.Out == nil || len(w.Entries) == 0 {
		return
	}
	if w.Err == nil {
		w.Err = w.Out(w.Entries)
	}
	w.Entries, w.space, w.held, w.block, w.staged = nil, nil, 0, 0, 0
}

// undoEntries cuts a list of keys in chunks, none of which depends on another, from a
// number on. There is always one.
func undoEntries(height, from uint32, keys []byte) (entries []Entry) {
	if keys == nil {
		keys = []byte{}
	}
	for len(entries) == 0 || len(keys) > 0 {
		end := 0
		for end < len(keys) && end < ChunkSize {
			end += 1 + int(keys[end])
		}
		entries = append(entries, Entry{ChunkKey(PrefixUndo, height, from+uint32(len(entries))), keys[:end:end]})
		keys = keys[end:]
	}
	return entries
}

// undoKeys lists the keys in a chunk of an undo record.
func undoKeys(chunk []byte) (keys [][]byte, err error) {
	d := Decoder{Rest: chunk}
	for len(d.Rest) > 0 {
		keys = append(keys, d.Take(int(d.Byte())))
	}
	return keys, d.Finish("chunk of an undo record")
}

// SetTip names the tip.
func (w *Writes) SetTip(height uint32, block chainhash.Hash) {
	w.Set([]byte{PrefixTip}, append(binary.BigEndian.AppendUint32(nil, height), block[:]...))
}

// SetNoTip says that there is no block.
func (w *Writes) SetNoTip() { w.Set([]byte{PrefixTip}, []byte{}) }

// Size is about how many bytes the step has.
func Size(entries []Entry) (n uint64) {
	for _, e := range entries {
		n += uint64(len(e.Key) + len(e.Value))
	}
	return n
}

// pieces cuts entries into as few as can be written at once: less than maxCount
// entries and maxSize bytes each.
func pieces(entries []Entry, maxCount, maxSize int64) iter.Seq[[]Entry] {
	const overhead = 64 // bytes per entry at most that Badger counts besides
	return func(yield func([]Entry) bool) {
		for len(entries) > 0 {
			n, bytes := 0, int64(0)
			for n < len(entries) && int64(n) < maxCount-4 {
				bytes += int64(len(entries[n].Key)+len(entries[n].Value)) + overhead
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
