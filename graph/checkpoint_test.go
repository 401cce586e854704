package graph

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"go.uber.org/goleak"

	"github.com/keytree-bch/keytree/graph/fsck"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/graph/state"
	"github.com/keytree-bch/keytree/graph/statemap"
	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/graph/txids"
)

// checkpointGraph is a graph that writes few checkpoints of itself, in a folder.
func checkpointGraph(t *testing.T, dir string, actions int) *Graph {
	t.Helper()
	opt := faultOptions()
	opt.checkpointActions = actions
	g, err := Open(dir, testParams, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	return g
}

// connectRandom connects so many blocks of so many actions. Blocks with an odd number of actions have anchors now and then.
func connectRandom(t *testing.T, g *Graph, r *randomBlocks, blocks, actions int) {
	t.Helper()
	for range blocks {
		height, prev := uint32(0), chainhash.Hash{}
		if tip, ok := g.Tip(); ok {
			height, prev = tip.Height+1, tip.Hash
		}
		if err := g.Connect(r.next(t, height, prev, actions)); err != nil {
			t.Fatal(err)
		}
	}
}

// killed returns a copy of the folder of an open graph: what a killed process leaves.
func killed(t *testing.T, g *Graph) (dir string) {
	t.Helper()
	return copyFolder(t, g.db.Opts().Dir)
}

// wantCheckpoint opens a graph and checks that it is as it was, and whether the checkpoint of a
// height was of use; none: -1.
func wantCheckpoint(t *testing.T, what, dir string, height int, was outcome) {
	t.Helper()
	g := checkpointGraph(t, dir, 1<<30)
	defer g.Close()
	have := int(g.checkpoint.height)
	if g.checkpoint == noCheckpoint() {
		have = -1
	}
	if have != height {
		t.Errorf("%s: the checkpoint of %d was used, want %d", what, have, height)
	}
	if have := g.outcome(t); have != was {
		t.Errorf("%s: the graph has tip %+v, want %+v", what, have.tip, was.tip)
	}
	g.checkMemory(t)
	connectRandom(t, g, newRandomBlocks(99), 3, 20) // those have no anchors
	for range 4 {
		if err := g.Disconnect(); err != nil {
			t.Fatal(err)
		}
	}
	g.checkMemory(t)
}

// TestCheckpoint opens graphs from checkpoints of the tip and of blocks before it, which
// were closed, or killed, or came back to blocks before the checkpoint.
func TestCheckpoint(t *testing.T) {
	inMemory(t)
	g := checkpointGraph(t, t.TempDir(), 130)
	r := newRandomBlocks(21)
	connectRandom(t, g, r, 1, 21)
	wantCheckpoint(t, "after the first block", killed(t, g), 0, g.outcome(t))
	connectRandom(t, g, r, 20, 21)
	height := int(g.checkpoint.height)
	if height < 10 || g.checkpoint.since.blocks == 0 {
		t.Fatalf("the last checkpoint is of %d", height)
	}
	wantCheckpoint(t, "killed", killed(t, g), height, g.outcome(t))
	g.wantSound(t)

	for tip, _ := g.Tip(); int(tip.Height) > height-1; tip, _ = g.Tip() {
		if err := g.Disconnect(); err != nil {
			t.Fatal(err)
		}
	}
	wantCheckpoint(t, "of a later block", killed(t, g), -1, g.outcome(t))
	connectRandom(t, g, r, 1, 21)
	wantCheckpoint(t, "of the other branch", killed(t, g), height, g.outcome(t))
	connectRandom(t, g, r, 2, 21)
	was := g.outcome(t)
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	wantCheckpoint(t, "closed", copyFolder(t, g.db.Opts().Dir), int(was.tip.Height), was)
}

// TestCheckpointOfNoUse gives a graph what is no checkpoint of it.
func TestCheckpointOfNoUse(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	inMemory(t)
	const blocks = 12
	make := func(seed uint64) (dir string, was outcome) {
		g := checkpointGraph(t, t.TempDir(), 1<<30)
		connectRandom(t, g, newRandomBlocks(seed), blocks, 21)
		was = g.outcome(t)
		if err := g.Close(); err != nil {
			t.Fatal(err)
		}
		return g.db.Opts().Dir, was
	}
	dir, was := make(31)
	another, _ := make(32)
	file := filepath.Join(dir, state.CheckpointFile)
	right := content(t, file)
	try := func(what string, put []byte, height int, damaged bool) {
		t.Helper()
		dir := copyFolder(t, dir)
		file := filepath.Join(dir, state.CheckpointFile)
		err := os.Remove(file)
		if put != nil {
			err = errors.Join(err, os.WriteFile(file, put, 0o600))
		}
		if err != nil {
			t.Fatal(err)
		}
		report, err := fsck.Check(t.Context(), dir, testParams, faultOptions().fsck(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if found := len(report.Findings) > 0; found != damaged || found && report.Findings[0].File != state.CheckpointFile {
			t.Errorf("%s: fsck finds %v", what, lines(report))
		}
		wantCheckpoint(t, what, dir, height, was)
		os.RemoveAll(dir)
	}
	try("its own", right, blocks-1, false)
	try("none", nil, -1, false)
	try("another database's", content(t, filepath.Join(another, state.CheckpointFile)), -1, false)
	try("nothing in it", []byte{}, -1, true)
	every := 1 + len(right)/12
	if exhaustive() {
		every = 1
	}
	for at := 0; at < len(right); at += every {
		try(fmt.Sprintf("cut at %d", at), right[:at], -1, true)
		changed := append([]byte(nil), right...)
		changed[at] ^= 1 << (at % 8)
		try(fmt.Sprintf("byte %d changed", at), changed, -1, true)
	}
	// One that says something else, with a checksum that is right, is believed until fsck looks
	// at it: here the secret of what is waited for is another.
	forged := append([]byte(nil), right[:len(right)-sha256.Size]...)
	forged[bytes.IndexByte(forged, '\n')+1+7*4] ^= 1
	sum := sha256.Sum256(forged)
	if err := os.WriteFile(file, append(forged, sum[:]...), 0o600); err != nil {
		t.Fatal(err)
	}
	report, err := fsck.Check(t.Context(), dir, testParams, faultOptions().fsck(), nil)
	if err != nil || len(report.Findings) != 1 || report.Findings[0].File != state.CheckpointFile {
		t.Errorf("forged: fsck finds %v, %v", lines(report), err)
	}
	if err := os.WriteFile(file, right, 0o600); err != nil {
		t.Fatal(err)
	}
	// One that is being written when the process is killed is not looked at.
	for at := 0; at <= len(right); at += every {
		part := file + ".tmp"
		if err := os.WriteFile(part, right[:at], 0o600); err != nil {
			t.Fatal(err)
		}
		wantCheckpoint(t, fmt.Sprintf("killed at byte %d", at), copyFolder(t, dir), blocks-1, was)
	}
}

func content(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestCheckpointLies reads checkpoints whose checksum is right, and which are not what was written: they are of no use, or
// say what a checkpoint could. None is the end of the process, and nothing of it goes on.
func TestCheckpointLies(t *testing.T) {
	if testing.Short() {
		t.Skip("it reads thousands of checkpoints")
	}
	inMemory(t)
	g := checkpointGraph(t, t.TempDir(), 1)
	connectRandom(t, g, newRandomBlocks(41), 12, 21)
	txn := store.NewTxn(g.db.NewTransaction(false))
	defer txn.Discard()
	right := content(t, filepath.Join(g.db.Dir(), state.CheckpointFile))
	right = right[:len(right)-sha256.Size]
	dir := t.TempDir()
	room := g.room()
	put := func(b []byte) {
		t.Helper()
		sum := sha256.Sum256(b)
		if err := os.WriteFile(filepath.Join(dir, state.CheckpointFile), append(b, sum[:]...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	read := func(b []byte) (*state.State, error) {
		t.Helper()
		put(b)
		s, _, err := state.ReadCheckpoint(t.Context(), dir, txn, testParams, room)
		if err != nil && !errors.Is(err, state.ErrCheckpoint) && !errors.Is(err, ErrMemory) {
			t.Fatal(err)
		}
		return s, err
	}
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	if _, err := read(bytes.Clone(right)); err != nil {
		t.Fatal(err)
	}

	// Counts. That of versions is compared with nothing that is read again.
	head := bytes.IndexByte(right, '\n') + 1
	for n, what := range []string{"keys", "blocks", "actions", "blocks with versions", "versions", "waits", "records"} {
		at := head + 4*n
		count := binary.BigEndian.Uint32(right[at:])
		for _, lie := range []uint32{0, 1, count - 1, count + 1, 2 * count, math.MaxInt32, 1 << 31, math.MaxUint32} {
			if lie == count {
				continue
			}
			b := bytes.Clone(right)
			binary.BigEndian.PutUint32(b[at:], lie)
			s, err := read(b)
			if err == nil {
				var index txids.Index
				if index, err = txids.Load(txn, room.Filters); err == nil {
					err = s.Links.SetIndex(txn, index)
				}
			}
			if err == nil && (what != "versions" || lie < count) {
				t.Errorf("%d %s instead of %d are believed", lie, what, count)
			}
		}
	}

	// Records whose map keys seem to begin alike: then keys, and actions, are looked up while they are read.
	of := g.current.Load().state
	end := len(right) - of.Anchors.CheckpointSize()
	begin := end - statemap.LeafSize*of.Links.Records()
	if of.Links.Records() < 20 || begin <= head {
		t.Fatalf("there are %d records, at %d", of.Links.Records(), begin)
	}
	for at := begin; at+statemap.LeafSize < end; at += statemap.LeafSize {
		b := bytes.Clone(right)
		copy(b[at+statemap.LeafSize:], b[at:at+8])
		if _, err := read(b); !errors.Is(err, ErrDamaged) {
			t.Fatalf("two records are alike: %v", err)
		}
		for _, ref := range []uint32{math.MaxInt32, 1 << 31} {
			binary.BigEndian.PutUint32(b[at+8:], ref)
			if _, err := read(b); !errors.Is(err, ErrDamaged) {
				t.Fatalf("record %#x: %v", ref, err)
			}
		}
	}

	// Anything anywhere.
	r := rand.New(rand.NewPCG(1, 1))
	rounds := 3000
	if exhaustive() {
		rounds *= 100
	}
	for range rounds {
		b := bytes.Clone(right)
		at := head + r.IntN(len(b)-head-4)
		binary.BigEndian.PutUint32(b[at:], []uint32{0, 1, r.Uint32(), r.Uint32N(100), math.MaxUint32, 1 << 31, math.MaxInt32}[r.IntN(7)])
		read(b)
	}

	// An error that comes of damage is not believed: not even that there is no room.
	room = links.Room{}
	if _, err := read(bytes.Clone(right)); !errors.Is(err, ErrMemory) {
		t.Errorf("without room: %v", err)
	}
	put(bytes.Clone(right))
	flip(t, filepath.Join(dir, state.CheckpointFile), int64(len(right)))
	if _, _, err := state.ReadCheckpoint(t.Context(), dir, txn, testParams, room); !errors.Is(err, ErrDamaged) || errors.Is(err, ErrMemory) {
		t.Errorf("without room, damaged: %v", err)
	}
	over, stop := context.WithCancel(t.Context())
	stop()
	if _, _, err := state.ReadCheckpoint(over, g.db.Dir(), txn, testParams, g.room()); !errors.Is(err, context.Canceled) {
		t.Errorf("nobody waits for it any more: %v", err)
	}
}
