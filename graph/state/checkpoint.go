package state

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/keytree-bch/keytree/graph/anchors"
	"github.com/keytree-bch/keytree/graph/badgerdb"
	"github.com/keytree-bch/keytree/graph/durable"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/graph/store"
)

// A checkpoint is a state in a file beside the database: with it the graph is opened in the time
// that it takes to read the file, and to apply the blocks since once more. It is a copy of what the
// database says: without it, and if it is of no use, the state is derived from the database.
//
// The file has one line of JSON, which says what it is a state of; the state; and SHA-256 of both.

// CheckpointFile is the name of a checkpoint.
const CheckpointFile = "checkpoint"

// checkpointVersion is raised with every change of what a checkpoint holds.
const checkpointVersion = 3

// checkpointLine is a checkpoint's first line. Hashes are as people write them.
type checkpointLine struct {
	Checkpoint int          `json:"keytree_checkpoint"` // checkpointVersion
	Database   store.Format `json:"database"`
	Height     uint32       `json:"height"`
	Hash       string       `json:"hash"`
	StateHash  string       `json:"state_hash"`
}

func newCheckpointLine(params store.Params, tip *store.Tip) checkpointLine {
	return checkpointLine{checkpointVersion, store.NewFormat(params), tip.Height, tip.Hash.String(), hex.EncodeToString(tip.StateHash[:])}
}

// ErrCheckpoint says that there is no checkpoint that is of use. What it wraps says why:
// fs.ErrNotExist, store.ErrDamaged if it is not what was written, or another if it is of something
// else.
var ErrCheckpoint = errors.New("no checkpoint")

// CheckpointSize is about how many bytes a checkpoint of the state has.
func (s *State) CheckpointSize() int { return s.Links.CheckpointSize() + s.Anchors.CheckpointSize() }

// WriteCheckpoint writes the state, which is that of a block, beside the database, for which there
// must be room. Once it returns nil, the checkpoint is on disk instead of the one before; whenever
// the process is killed before that, it is the one before or none (durable.Replace).
func (s *State) WriteCheckpoint(db *badgerdb.DB, params store.Params, tip *store.Tip) (err error) {
	if err := db.Room(uint64(s.CheckpointSize())); err != nil {
		return err
	}
	return durable.Replace(filepath.Join(db.Dir(), CheckpointFile), 0o600, func(f io.Writer) error { return s.writeTo(f, params, tip) })
}

func (s *State) writeTo(f io.Writer, params store.Params, tip *store.Tip) error {
	sum := sha256.New()
	w := bufio.NewWriterSize(io.MultiWriter(f, sum), 1<<20)
	line, err := json.Marshal(newCheckpointLine(params, tip))
	if err != nil {
		return err
	}
	if _, err := w.Write(append(line, '\n')); err != nil {
		return err
	}
	if err := s.Links.WriteCheckpoint(w); err != nil {
		return err
	}
	if err := s.Anchors.WriteCheckpoint(w); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err = f.Write(sum.Sum(nil))
	return err
}

// ReadCheckpoint reads the checkpoint of the database in dir that txn reads: a state, and the
// height of the block that it is of, which is on the chain. It keeps the state root if it did when it was
// written. ErrCheckpoint; store.ErrMemory if there is no room for it.
func ReadCheckpoint(ctx context.Context, dir string, txn *store.Txn, params store.Params, room links.Room) (*State, uint32, error) {
	f, err := os.Open(filepath.Join(dir, CheckpointFile))
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrCheckpoint, err)
	}
	defer f.Close()
	s, height, err := readFrom(ctx, f, txn, params, room)
	if err != nil && !errors.Is(err, store.ErrMemory) {
		err = fmt.Errorf("%w: %s: %w", ErrCheckpoint, f.Name(), err)
	}
	return s, height, err
}

// readFrom reads the file twice at the same time: one compares its checksum. Nothing that comes of the other, not even an
// error, is believed unless that is right.
func readFrom(ctx context.Context, f *os.File, txn *store.Txn, params store.Params, room links.Room) (*State, uint32, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	size := info.Size() - sha256.Size
	if size < 0 {
		return nil, 0, fmt.Errorf("%w: it has %d bytes", store.ErrDamaged, info.Size())
	}
	reading, stop := context.WithCancel(ctx)
	defer stop()
	sum := make(chan error, 1)
	go func() {
		err := checkSum(f, size)
		if err != nil {
			stop()
		}
		sum <- err
	}()
	s, height, err := readState(reading, io.NewSectionReader(f, 0, size), txn, params, room)
	if err := <-sum; err != nil {
		return nil, 0, err
	}
	return s, height, err
}

// readState reads what writeTo wrote, but for the checksum.
func readState(ctx context.Context, from *io.SectionReader, txn *store.Txn, params store.Params, room links.Room) (*State, uint32, error) {
	text, err := bufio.NewReader(from).ReadSlice('\n')
	if err != nil {
		return nil, 0, fmt.Errorf("its first line: %w", err)
	}
	var line checkpointLine
	if err := json.Unmarshal(text, &line); err != nil {
		return nil, 0, fmt.Errorf("its first line: %w", err)
	}
	if tip, err := store.TipHeight(txn); err != nil {
		return nil, 0, err
	} else if tip == nil || *tip < line.Height {
		return nil, 0, fmt.Errorf("it is of a later block than the database: %+v", line)
	}
	record, err := store.ReadBlock(txn, line.Height)
	if err != nil {
		return nil, 0, err
	}
	if want := newCheckpointLine(params, record.Tip(line.Height)); line != want {
		return nil, 0, fmt.Errorf("it is of another version, of another database, or of a block that was taken off the chain: %+v, expected %+v", line, want)
	}
	s := New(false)
	behind := func(at int64) *io.SectionReader { return io.NewSectionReader(from, at, from.Size()-at) }
	at := int64(len(text))
	size, err := s.Links.ReadCheckpoint(ctx, behind(at), txn, record.Counts, room)
	if err != nil {
		return nil, 0, err
	}
	if err := s.CheckRoot(&record); err != nil {
		return nil, 0, err
	}
	r := bufio.NewReader(behind(at + size))
	if err := s.Anchors.ReadCheckpoint(r); err != nil {
		return nil, 0, err
	}
	if _, err := r.ReadByte(); err != io.EOF {
		return nil, 0, errors.New("it goes on behind its end")
	}
	return s, line.Height, nil
}

// checkSum compares the checksum at the end of a checkpoint with what stands before it, so many bytes.
func checkSum(f io.ReaderAt, size int64) error {
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, size)); err != nil {
		return err
	}
	var stored [sha256.Size]byte
	if _, err := f.ReadAt(stored[:], size); err != nil {
		return err
	}
	if !bytes.Equal(sum.Sum(nil), stored[:]) {
		return fmt.Errorf("%w: its checksum is wrong", store.ErrDamaged)
	}
	return nil
}

// Again applies the block at height, which follows the state's, as it is stored. before is the
// record of the block before; record is its own. store.ErrDamaged if that is not what follows. What proves
// the block's anchors is not looked at: the state hash is made of all that they are.
func (s *State) Again(txn *store.Txn, height uint32, before store.Block) (record store.Block, actions int, err error) {
	if record, err = store.ReadBlock(txn, height); err != nil {
		return record, 0, err
	}
	b := Block{Height: height, Hash: record.Hash}
	noMessage := func(store.Position, uint32) ([]byte, error) { return nil, nil } // no rule asks for one
	if b.Actions, err = links.ReadActions(txn, height, noMessage); err != nil {
		return record, 0, err
	}
	if b.Anchors, err = anchors.ReadUnproven(txn, height); err != nil {
		return record, 0, err
	}
	step, err := Apply(s, NewDraft(txn, s, height, len(b.Actions)), &b, before.Counts)
	if err != nil {
		return record, 0, err
	}
	if hash := step.Hash(before.StateHash); hash != record.StateHash {
		return record, 0, fmt.Errorf("%w: block %d has state hash %x, by its actions it is %x", store.ErrDamaged, height, record.StateHash, hash)
	}
	if _, err := step.Root(); err != nil {
		return record, 0, err
	}
	if err := s.CheckRoot(&record); err != nil {
		return record, 0, fmt.Errorf("block %d: %w", height, err)
	}
	return record, len(b.Actions) + len(b.Anchors.Txs), nil
}
