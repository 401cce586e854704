package tlog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keytree-bch/keytree/graph/durable"
	"github.com/keytree-bch/keytree/protocol/tlog"
)

// exportAtOnce is how many tiles are read and written at once.
const exportAtOnce = 16

// Reader is what a log is copied from: a Log, or a server that has one open.
type Reader interface {
	// Newest returns the checkpoint that readers get.
	Newest(ctx context.Context) ([]byte, error)
	// Tile returns a tile or an entry bundle.
	Tile(ctx context.Context, t tlog.Tile) ([]byte, error)
}

// Export writes what a log serves as files below a folder, as a static host offers them: what
// has come since the last export to that folder, or all. It returns how many entries that are
// in all, and how many were there before.
//
// Tiles are on disk before the checkpoint that covers them is there. So a reader sees a whole log at any time, and
// an export that was interrupted is made again from the last checkpoint on. A folder that has a
// checkpoint of another log, or a larger one, is left as it is: ErrMismatch.
func Export(ctx context.Context, from Reader, dir string) (size, before uint64, err error) {
	signed, err := from.Newest(ctx)
	if err != nil {
		return 0, 0, err
	}
	c, err := tlog.Stated(signed)
	if err != nil {
		return 0, 0, err
	}
	path := filepath.Join(dir, "checkpoint")
	old, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return 0, 0, err
	default:
		last, err := tlog.Stated(old)
		if err != nil || last.Origin != c.Origin || last.Size > c.Size || last.Size == c.Size && last.Root != c.Root {
			return 0, 0, fmt.Errorf("%w: %s is not an earlier checkpoint of %s with %d entries: name another folder", ErrMismatch, path, c.Origin, c.Size)
		}
		before = last.Size
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, 0, err
	}
	if err := exportTiles(ctx, from, dir, before, c.Size); err != nil {
		return 0, 0, err
	}
	if string(old) == string(signed) {
		return c.Size, before, nil
	}
	return c.Size, before, durable.Replace(path, 0o644, func(w io.Writer) error { _, err := w.Write(signed); return err })
}

// followEvery is how long Follow waits for a new checkpoint.
const followEvery = time.Second

// Follow exports again and again, until ctx ends, which is no error, or an export fails. tell hears of each
// that had new entries.
func Follow(ctx context.Context, from Reader, dir string, tell func(size, before uint64)) error {
	again := time.NewTicker(followEvery)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-again.C:
		}
		size, before, err := Export(ctx, from, dir)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if size > before {
			tell(size, before)
		}
	}
}

// exportTiles puts on disk what a log of size entries has and one of before has not.
func exportTiles(ctx context.Context, from Reader, dir string, before, size uint64) error {
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(exportAtOnce)
	folders := map[string]bool{dir: true}
	tiles := tlog.Tiles(before, size)
	for _, t := range tiles {
		path := filepath.Join(dir, filepath.FromSlash(tlog.Path(t)))
		if folder := filepath.Dir(path); !folders[folder] {
			if err := os.MkdirAll(folder, 0o755); err != nil {
				return errors.Join(err, all.Wait())
			}
			for up := folder; !folders[up]; up = filepath.Dir(up) {
				folders[up] = true
			}
		}
		all.Go(func() error {
			content, err := from.Tile(ctx, t)
			if err != nil {
				return err
			}
			// No checkpoint covers it yet: what a killed process has left of it is overwritten.
			return os.WriteFile(path, content, 0o644)
		})
	}
	if err := all.Wait(); err != nil {
		return err
	}
	if size == before {
		return nil
	}
	// All were handed to the system before the first is waited for, so that it writes many at once.
	synced := new(errgroup.Group)
	synced.SetLimit(exportAtOnce)
	for _, t := range tiles {
		synced.Go(func() error { return syncFile(filepath.Join(dir, filepath.FromSlash(tlog.Path(t)))) })
	}
	err := synced.Wait()
	for folder := range folders {
		err = errors.Join(err, durable.SyncFolder(folder))
	}
	return err
}

// syncFile has what was written to a file put on disk.
func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
