// Package fsck says whether everything stored in a graph is what the rules make of its actions
// and anchors: it applies them once more, in memory, and compares what that would write with
// what is stored, byte by byte. It mends nothing.
package fsck

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"os"

	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/graph/anchors"
	"github.com/keytree-bch/keytree/graph/badgerdb"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/graph/state"
	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/graph/txids"
)

// MaxFindings is how many findings a report lists at most.
const MaxFindings = 100

// Report is what Check found.
type Report struct {
	Tip      *store.Tip // as stored; nil without a block
	Blocks   uint32     // compared
	Records  uint64     // in the database
	Findings []Finding  // none: the graph is sound
	Omitted  uint64     // findings beyond MaxFindings
}

// Finding is one thing that is wrong, and where.
type Finding struct {
	File    string  // in the graph's folder, if it is about a file
	Key     []byte  // of the record, if it is about one (schema.go)
	Height  *uint32 // of the block that it belongs to, if known
	Problem string
}

// String returns the finding in one line.
func (f Finding) String() string {
	s := ""
	switch {
	case f.File != "":
		s = "file " + f.File
	case len(f.Key) > 0:
		s = fmt.Sprintf("%s record %c %x", store.RecordName(f.Key[0]), f.Key[0], f.Key[1:])
	default:
		s = "graph"
	}
	if f.Height != nil {
		s += fmt.Sprintf(" of block %d", *f.Height)
	}
	return s + ": " + f.Problem
}

// Options are how a graph's database is opened.
type Options struct {
	Memory     int64 // what the process may take, in bytes; graph.DefaultMemory if that is not known
	StageBytes int   // as the graph was written with (store.Writes.StageBytes); 0: the default
	Log        zerolog.Logger
}

// Check compares everything in the graph in dir, which nobody must have open, with everything else
// in it: the files with their checksums; the effects of each block with the chain of state hashes
// and with what the rules make of its actions and anchors; anchors with the proof that their block
// has them; and every other record, byte by byte, with what applying those again would write.
//
// It changes nothing: the folder may be on a file system that is mounted to be read, and somebody
// else's (see badgerdb.OpenReadOnly). What a killed process has left half done, which graph.Open would
// remove, is passed over; for that, its keys are held in memory, with about 150 bytes each.
//
// What cannot be compared with anything but its checksum: messages, the places of
// actions in their block as far as they stay in the same order, what else was in
// an action that is malformed or has no author, what was taken off the chain, the
// hash above the first block, whether a block without a state root came while none was kept, and whether the
// blocks are the node's.
//
// progress, if not nil, is called after each block with how many of all are
// done. Damage is in the report; errors are those of graph.Open but for store.ErrDamaged,
// and the context's.
func Check(ctx context.Context, dir string, params store.Params, opt Options, progress func(done, all uint32)) (*Report, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("no graph to check: %w", err)
	}
	r := &Report{}
	sound := true
	db, err := badgerdb.OpenReadOnly(ctx, badgerdb.Options{Badger: store.Options(dir, store.MemTable(opt.Memory), store.BlockCache(opt.Memory)), MaxValue: store.MaxValue, Free: badgerdb.FreeSpace, Log: opt.Log},
		func(db *badgerdb.DB, remove func([][]byte) error) (err error) {
			sound, err = r.sweep(db, passedOver{remove})
			return err
		})
	var damage *badgerdb.DamageError
	if errors.As(err, &damage) {
		for _, d := range damage.Found {
			r.add(Finding{File: d.File, Problem: d.Problem})
		}
		return r, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the graph in %s: %w", dir, err)
	}
	if sound {
		err = r.checkStore(ctx, db, params, opt, progress)
	}
	return r, errors.Join(err, db.Close())
}

// passedOver is a store that removes records only from what is read.
type passedOver struct{ remove func(keys [][]byte) error }

// Commit implements store.Committer, for entries that delete.
func (p passedOver) Commit(entries []store.Entry) error {
	keys := make([][]byte, len(entries))
	for n := range entries {
		keys[n] = entries[n].Key
	}
	return p.remove(keys)
}

// Limits implements store.Committer: there are none.
func (passedOver) Limits() (entries, bytes int64) { return math.MaxInt64, math.MaxInt64 }

func (r *Report) add(f Finding) {
	if len(r.Findings) == MaxFindings {
		r.Omitted++
		return
	}
	r.Findings = append(r.Findings, f)
}

// CheckOpen is Check of a database that is open, but for its files.
func CheckOpen(ctx context.Context, db *badgerdb.DB, params store.Params, opt Options, progress func(done, all uint32)) (*Report, error) {
	r := &Report{}
	sound, err := r.sweep(db, store.Badger{DB: db})
	if err == nil && sound {
		err = r.checkStore(ctx, db, params, opt, progress)
	}
	return r, err
}

// checkStore checks all records.
func (r *Report) checkStore(ctx context.Context, db *badgerdb.DB, params store.Params, opt Options, progress func(done, all uint32)) error {
	txn := store.NewTxn(db.NewTransaction(false))
	defer txn.Discard()
	if isEmpty(txn) {
		return nil // made, but not begun
	}
	first := &inspection{Report: r, txn: txn, params: params, stageBytes: opt.StageBytes, filters: int(store.Filters(opt.Memory))}
	if err := first.format(); err != nil {
		return err
	}
	if err := first.readCheckpoint(ctx, db.Dir()); err != nil {
		return err
	}
	if err := first.run(ctx, progress); err != nil {
		return err
	}
	extra, err := first.totals(ctx)
	if err != nil || first.stopped || len(extra) == 0 {
		return err
	}
	// Some records should not be there. To name them takes all keys that should.
	second := &inspection{Report: &Report{}, txn: txn, params: params, stageBytes: opt.StageBytes, filters: first.filters, keys: make(map[uint64]struct{}), seed: maphash.MakeSeed()}
	if err := second.run(ctx, nil); err != nil {
		return err
	}
	for _, prefix := range extra {
		if err := r.nameExtra(ctx, second, prefix); err != nil {
			return err
		}
	}
	return nil
}

// sweep removes what lies above the tip. It reports whether there is one to tell.
func (r *Report) sweep(db *badgerdb.DB, from store.Committer) (sound bool, err error) {
	txn := store.NewTxn(db.NewTransaction(false))
	defer txn.Discard()
	if isEmpty(txn) {
		return true, nil
	}
	tip, err := store.TipHeight(txn)
	if err == nil {
		err = store.Sweep(db, from, tip, anchors.EachPlace)
	}
	if err == nil {
		err = sweepRuns(txn, from)
	}
	if errors.Is(err, store.ErrDamaged) {
		r.add(Finding{Key: []byte{store.PrefixTip}, Problem: err.Error() + "; nothing else was compared"})
		if tip != nil {
			r.add(Finding{Key: store.HeightKey(store.PrefixBlock, *tip), Height: tip, Problem: err.Error()})
		}
		return false, nil
	}
	return err == nil, err
}

// sweepRuns removes chunks of txids that are of no run. If the list of runs is damaged, it removes
// nothing.
func sweepRuns(txn *store.Txn, from store.Committer) error {
	index, err := txids.Load(txn, 0)
	if errors.Is(err, store.ErrDamaged) {
		return nil // the check names it
	} else if err != nil {
		return err
	}
	var entries []store.Entry
	err = index.EachLeftover(txn, func(key []byte) error {
		entries = append(entries, store.Entry{Key: key})
		return nil
	})
	if err != nil {
		return err
	}
	return store.Commit(from, entries)
}

func isEmpty(txn *store.Txn) bool {
	it := store.NewIterator(txn, nil)
	defer it.Close()
	it.Rewind()
	return !it.Valid()
}

// inspection applies the stored actions of all blocks once more, in memory, and
// compares what that would write with what is stored.
type inspection struct {
	*Report
	txn    *store.Txn
	params store.Params
	// stageBytes is store.Writes.StageBytes.
	stageBytes int
	filters    int // how many bytes those of txids may take

	// checkpoint is the one beside the database, which is of the block at checkpointHeight;
	// nil if there is none that can be compared.
	checkpoint       *state.State
	checkpointHeight uint32

	height   uint32 // of the block under way
	undoFrom uint32
	state    *state.State
	stopped  bool // the chain cannot be followed any further

	expected [256]uint64 // records that must be there, and are, by prefix

	keys map[uint64]struct{} // hashes of all keys expected, if they are collected
	seed maphash.Seed
}

// find reports something about the record of key.
func (i *inspection) find(key []byte, format string, args ...any) {
	height := i.height
	i.add(Finding{Key: key, Height: &height, Problem: fmt.Sprintf(format, args...)})
}

// exists counts a record that must be there.
func (i *inspection) exists(key []byte) {
	i.expected[key[0]]++
	if i.keys != nil {
		i.keys[maphash.Bytes(i.seed, key)] = struct{}{}
	}
}

// get reads a record that must be there, and reports if it is not.
func (i *inspection) get(key []byte) ([]byte, error) {
	value, err := store.Read(i.txn, key)
	if err != nil {
		return nil, err
	}
	if value == nil {
		i.find(key, "missing")
		return nil, nil
	}
	i.exists(key)
	return value, nil
}

// compare reads a record whose value is known.
func (i *inspection) compare(key, want []byte) error {
	if i.keys != nil {
		i.exists(key)
		return nil
	}
	value, err := i.get(key)
	if err == nil && value != nil && string(value) != string(want) {
		i.find(key, "holds %s, expected %s", shown(value), shown(want))
	}
	return err
}

func shown(value []byte) string {
	const most = 80
	switch {
	case value == nil:
		return "nothing"
	case len(value) == 0:
		return "an empty value"
	case len(value) > most:
		return fmt.Sprintf("%x... (%d bytes)", value[:most], len(value))
	}
	return fmt.Sprintf("%x", value)
}

// format checks the format record. ErrMismatch if it is another's.
func (i *inspection) format() error {
	key := []byte{store.PrefixFormat}
	value, err := store.Read(i.txn, key)
	if err != nil {
		return err
	}
	if value == nil {
		i.add(Finding{Key: key, Problem: "missing"})
		return nil
	}
	have, err := store.ParseFormat(value)
	if err != nil {
		i.add(Finding{Key: key, Problem: err.Error()})
		return nil
	}
	if again := have.Encode(); string(again) != string(value) {
		i.add(Finding{Key: key, Problem: fmt.Sprintf("holds %q, what is in it would be %q", value, again)})
		return nil
	}
	return have.Matches(i.params)
}

// readCheckpoint reads the checkpoint, and reports it if it is damaged. One of another database or
// branch is of no use, and does no harm.
func (i *inspection) readCheckpoint(ctx context.Context, dir string) (err error) {
	i.checkpoint, i.checkpointHeight, err = state.ReadCheckpoint(ctx, dir, i.txn, i.params, links.Room{Keys: math.MaxInt, Records: math.MaxInt})
	switch {
	case errors.Is(err, store.ErrDamaged):
		i.add(Finding{File: state.CheckpointFile, Problem: err.Error()})
		return nil
	case errors.Is(err, state.ErrCheckpoint):
		return nil
	}
	return err
}

// run follows the chain from its start to the tip, and then looks at the numbers by which it found
// actions.
func (i *inspection) run(ctx context.Context, progress func(done, all uint32)) error {
	if i.state = state.New(true); i.checkpoint != nil {
		i.state = i.checkpoint.Empty()
		i.state.Links.KeepRecords()
	}
	err := i.state.Links.LoadIndex(i.txn, i.filters)
	if errors.Is(err, store.ErrDamaged) { // fewer filters let it find the chunk
		err = i.state.Links.LoadIndex(i.txn, 0)
	}
	if errors.Is(err, store.ErrDamaged) {
		i.add(Finding{Key: []byte{store.PrefixRuns}, Problem: err.Error() + "; nothing else was compared"})
		i.stopped = true
		return nil
	}
	if err == nil {
		err = i.follow(ctx, progress)
	}
	if err != nil {
		return err
	}
	of := i.state.Links
	return of.Index().Check(i.txn, of.Actions(), of.Hashes(i.txn), i.exists,
		func(key []byte, problem string) { i.add(Finding{Key: key, Problem: problem}) })
}

// follow follows the chain from its start to the tip.
func (i *inspection) follow(ctx context.Context, progress func(done, all uint32)) error {
	i.undoFrom = i.params.StartHeight
	if value, err := store.Read(i.txn, []byte{store.PrefixFormat}); err != nil {
		return err
	} else if value != nil {
		i.exists([]byte{store.PrefixFormat})
	}
	tip, err := store.TipHeight(i.txn)
	if err != nil {
		return err
	}
	i.exists([]byte{store.PrefixTip})
	if above := store.BlockAbove(i.txn, tip); above != nil {
		i.add(Finding{Key: []byte{store.PrefixTip}, Problem: fmt.Sprintf("there is a block record above it, %d; what follows the tip was not compared", *above)})
		defer func() { i.stopped = true }()
	}
	if tip == nil {
		return nil
	}
	if err := i.horizon(); err != nil {
		return err
	}
	if i.undoFrom < i.params.StartHeight || uint64(i.undoFrom) > uint64(*tip)+1 {
		i.add(Finding{Key: []byte{store.PrefixUndoFrom}, Problem: fmt.Sprintf("%d is not between the start height and the tip, %d", i.undoFrom, *tip)})
	}
	if *tip < i.params.StartHeight {
		i.add(Finding{Key: []byte{store.PrefixTip}, Problem: fmt.Sprintf("%d is below the start height, %d", *tip, i.params.StartHeight)})
		i.stopped = true
		return nil
	}
	var above store.Block // of the block before
	var hash [32]byte     // the state hash that follows from it
	for i.height = i.params.StartHeight; ; i.height++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		record, err := i.block(above, &hash)
		if err != nil {
			return err
		}
		if record == nil {
			i.stop()
			return nil
		}
		above = *record
		i.Blocks++
		i.Tip = record.Tip(i.height)
		if progress != nil {
			progress(i.Blocks, *tip-i.params.StartHeight+1)
		}
		if i.checkpoint != nil && i.height == i.checkpointHeight {
			if what := i.state.Differs(i.checkpoint); what != "" {
				i.add(Finding{File: state.CheckpointFile, Problem: "it has other " + what + " than the rules give"})
			}
			i.checkpoint = nil
		}
		if i.height == *tip {
			return i.compareMemory()
		}
	}
}

// stop notes that what comes after the block under way was not compared.
func (i *inspection) stop() {
	i.stopped = true
	i.find(nil, "the chain cannot be followed from here on, later records were not compared")
}

// horizon reads the undo horizon.
func (i *inspection) horizon() error {
	key := []byte{store.PrefixUndoFrom}
	from, ok, err := store.UndoFrom(i.txn)
	if err != nil && !errors.Is(err, store.ErrDamaged) {
		return err
	}
	if ok {
		i.exists(key)
		i.undoFrom = from
	}
	if err != nil {
		i.add(Finding{Key: key, Problem: err.Error()})
	}
	return nil
}

// totals goes through all records once and returns the prefixes that have more
// of them than there should be.
func (i *inspection) totals(ctx context.Context) (extra []byte, err error) {
	var stored [256]uint64
	sequence := make(map[uint64]bool)
	it := store.NewIterator(i.txn, nil)
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		if i.Records++; i.Records%1024 == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		key := it.Item().Key()
		stored[key[0]]++
		switch key[0] {
		case store.PrefixStale:
			block, seq, err := store.ReadStale(it.Item())
			if errors.Is(err, store.ErrDamaged) {
				i.add(Finding{Key: it.Item().KeyCopy(), Problem: err.Error()})
			} else if err != nil {
				return nil, err
			} else if sequence[seq] {
				i.add(Finding{Key: it.Item().KeyCopy(), Height: &block.Height, Problem: fmt.Sprintf("number %d is taken by another", seq)})
			}
			sequence[seq] = true
			i.expected[store.PrefixStale]++
		case store.PrefixStaleChange:
			var c store.StaleChange
			value, err := store.Value(it.Item())
			if err != nil {
				return nil, err
			}
			if err := c.Decode(key, value); err != nil {
				i.add(Finding{Key: it.Item().KeyCopy(), Problem: err.Error()})
			}
			i.expected[store.PrefixStaleChange]++
		case store.PrefixUndo:
			if len(key) == 9 && binary.BigEndian.Uint32(key[1:]) < i.undoFrom {
				i.expected[store.PrefixUndo]++ // dropped, but not yet removed: the next time, it is
			}
		case store.PrefixStamp:
			i.expected[store.PrefixStamp] = 1
		default:
			if store.RecordName(key[0]) == "" {
				i.add(Finding{Key: it.Item().KeyCopy(), Problem: "there are no records of this kind"})
			}
		}
	}
	if stored[store.PrefixStamp] == 0 {
		i.add(Finding{Key: []byte{badgerdb.Stamp}, Problem: "missing"})
	}
	if i.stopped {
		return nil, nil
	}
	for prefix, n := range stored {
		if store.RecordName(byte(prefix)) != "" && n > i.expected[prefix] {
			extra = append(extra, byte(prefix))
		}
	}
	return extra, nil
}

// nameExtra reports the records under prefix whose keys second did not come
// upon.
func (r *Report) nameExtra(ctx context.Context, second *inspection, prefix byte) error {
	it := store.NewIterator(second.txn, []byte{prefix})
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		if err := ctx.Err(); err != nil {
			return err
		}
		key := it.Item().Key()
		if _, ok := second.keys[maphash.Bytes(second.seed, key)]; !ok {
			r.add(Finding{Key: it.Item().KeyCopy(), Problem: "nothing in the chain accounts for it"})
		}
	}
	return nil
}
