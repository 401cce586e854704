package tlog_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	xtlog "golang.org/x/mod/sumdb/tlog"

	"github.com/keytree-bch/keytree/keyserver/tlog"
	"github.com/keytree-bch/keytree/keyserver/tlog/tlogtest"
	format "github.com/keytree-bch/keytree/protocol/tlog"
)

// folder is a log as files, which golang.org/x/mod reads.
type folder string

func (f folder) Height() int                      { return format.TileHeight }
func (f folder) SaveTiles([]xtlog.Tile, [][]byte) {}
func (f folder) ReadTiles(tiles []xtlog.Tile) (data [][]byte, err error) {
	for _, t := range tiles {
		b, err := os.ReadFile(filepath.Join(string(f), format.Path(t)))
		if err != nil {
			return nil, err
		}
		data = append(data, b)
	}
	return data, nil
}

// check verifies that a folder has the log of a chain, with all entries.
func (f folder) check(t *testing.T, l *tlog.Log, chain *tlogtest.Chain) {
	t.Helper()
	signed, err := os.ReadFile(filepath.Join(string(f), "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := format.Open(signed, l.Key())
	if err != nil || c.Root != rootOf(chain) {
		t.Fatalf("the checkpoint is %v (%v)", c, err)
	}
	reader := xtlog.TileHashReader(xtlog.Tree{N: int64(c.Size), Hash: c.Root}, f)
	for at := 0; at < int(c.Size); at++ {
		if at%256 == 0 {
			width := min(256, int(c.Size)-at)
			bundle, err := os.ReadFile(filepath.Join(string(f), format.Path(format.NewTile(-1, int64(at/256), width))))
			if err != nil {
				t.Fatal(err)
			}
			entries, err := format.ParseBundle(bundle, width)
			if err != nil {
				t.Fatal(err)
			}
			for i, e := range entries {
				if want := chain.Entry(at + i); !bytes.Equal(e, want[:]) {
					t.Fatalf("entry %d is another", at+i)
				}
			}
			proof, err := xtlog.ProveRecord(int64(c.Size), int64(at), reader)
			if err == nil {
				err = format.CheckInclusion(c, uint64(at), entries[0], proof)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// failing is a log whose n-th tile cannot be read.
type failing struct {
	*tlog.Log
	n atomic.Int64
}

var errGone = errors.New("gone")

func (f *failing) Tile(ctx context.Context, t format.Tile) ([]byte, error) {
	if f.n.Add(-1) < 0 {
		return nil, errGone
	}
	return f.Log.Tile(ctx, t)
}

// TestExport exports a log that grows, is interrupted, and goes on.
func TestExport(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		chain := tlogtest.New(t, 1)
		l, stop := run(t, options(dir, chain))
		defer stop()
		to := folder(filepath.Join(dir, "www"))
		if _, _, err := tlog.Export(t.Context(), l, string(to)); !errors.Is(err, tlog.ErrNone) {
			t.Errorf("before there is anything: %v", err)
		}
		was := uint64(0)
		for _, n := range []int{1, 254, 1, 1, 400, 0} {
			chain.Grow(n)
			time.Sleep(time.Second)
			synctest.Wait()
			size, before, err := tlog.Export(t.Context(), l, string(to))
			if err != nil || size != was+uint64(n) || before != was {
				t.Fatalf("%d more: got %d, %d before (%v)", n, size, before, err)
			}
			was = size
			to.check(t, l, chain)
		}
		chain.Grow(1000)
		time.Sleep(time.Second)
		synctest.Wait()
		signed, err := os.ReadFile(filepath.Join(string(to), "checkpoint"))
		if err != nil {
			t.Fatal(err)
		}
		broken := &failing{Log: l}
		broken.n.Store(5)
		if _, _, err := tlog.Export(t.Context(), broken, string(to)); !errors.Is(err, errGone) {
			t.Errorf("interrupted: %v", err)
		}
		if now, err := os.ReadFile(filepath.Join(string(to), "checkpoint")); err != nil || !bytes.Equal(now, signed) {
			t.Errorf("interrupted, the checkpoint is %q (%v)", now, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		var sizes []uint64
		if err := tlog.Follow(ctx, l, string(to), func(size, _ uint64) { sizes = append(sizes, size); chain.Grow(3) }); err != nil || len(sizes) < 3 {
			t.Errorf("following: %v (%v)", sizes, err)
		}
		// The log signs what the last call let the chain grow by.
		time.Sleep(time.Second)
		synctest.Wait()
		if _, _, err := tlog.Export(t.Context(), l, string(to)); err != nil {
			t.Error(err)
		}
		signed, err = l.Newest(t.Context())
		if c, _ := format.Open(signed, l.Key()); err == nil {
			to.check(t, l, chain.Fork(int(c.Size), 9))
		}
	})
	other := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		l, stop := run(t, options(other, tlogtest.New(t, 2).Grow(3)))
		defer stop()
		synctest.Wait()
		if _, _, err := tlog.Export(t.Context(), l, filepath.Join(dir, "www")); !errors.Is(err, tlog.ErrMismatch) {
			t.Errorf("over another log: %v", err)
		}
	})
}
