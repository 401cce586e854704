package graph

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/fsck"
	"github.com/keytree-bch/keytree/graph/state"
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
