package indexer_test

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/indexer"
)

// TestWaitsForRoom lets the disk of the index fill up, and gives it room again.
func TestWaitsForRoom(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("keytree", dir, "tmpfs", 0, "size=64m"); err != nil {
		t.Skipf("mounting a small file system needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	resize := func(size string) {
		t.Helper()
		if err := syscall.Mount("keytree", dir, "tmpfs", syscall.MS_REMOUNT, "size="+size); err != nil {
			t.Fatal(err)
		}
	}
	g := must(graph.Open(dir, testParams, graph.Options{MemTable: 1 << 20}))(t)
	defer g.Close()
	n := chainWithActions(t, 5)
	ix := indexer.New(n, g, indexer.Options{Poll: time.Millisecond, Log: zerolog.New(zerolog.NewTestWriter(t))})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- ix.Run(ctx) }()
	waitFor(t, "the first blocks", func() bool { return ix.Status().Synced })

	resize("10m") // it wants twelve memtables' room
	n.extend()
	waitFor(t, "the disk", func() bool { s := ix.Status(); return !s.Synced && s.Reason == "the disk of the index is nearly full" })
	if s := ix.Status(); !s.Checked {
		t.Errorf("what is known is not served: %+v", s)
	}
	resize("64m")
	waitFor(t, "room", func() bool { return ix.Status().Synced })
	if tip, _ := g.Tip(); tip.Height != 6 {
		t.Errorf("tip is %d, want 6", tip.Height)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
