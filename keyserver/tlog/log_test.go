package tlog_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	xtlog "golang.org/x/mod/sumdb/tlog"

	"github.com/keytree-bch/keytree/graph/durable"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/tlog"
	"github.com/keytree-bch/keytree/keyserver/tlog/tlogtest"
	format "github.com/keytree-bch/keytree/protocol/tlog"
)

const origin = "example.org/keytree"

func options(dir string, source tlog.Source) tlog.Options {
	return tlog.Options{
		Source: source, Origin: tlog.Origin("example.org"),
		KeyFile: filepath.Join(dir, "log.key"), StateFile: filepath.Join(dir, "log.json"),
	}
}

func open(t *testing.T, opt tlog.Options) *tlog.Log {
	t.Helper()
	l, err := tlog.Open(opt)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// run runs a log until the test, or stop, ends it. It is for a bubble of synctest.
func run(t *testing.T, opt tlog.Options) (l *tlog.Log, stop func()) {
	t.Helper()
	l = open(t, opt)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { l.Run(ctx); close(done) }()
	return l, func() {
		cancel()
		<-done
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

// served is the checkpoint that readers get.
func served(t *testing.T, l *tlog.Log) format.Checkpoint {
	t.Helper()
	signed, _, err := l.Checkpoint()
	if err != nil {
		t.Fatal(err)
	}
	c, err := format.Open(signed, l.Key())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func rootOf(c *tlogtest.Chain) format.Hash {
	state := c.Chain()
	return format.Hash(state.Root())
}

// TestSigns grows a chain: each second there is one checkpoint, of all that is there.
func TestSigns(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		chain := tlogtest.New(t, 1)
		l, stop := run(t, options(dir, chain))
		synctest.Wait()
		if _, _, err := l.Checkpoint(); !errors.Is(err, tlog.ErrNone) {
			t.Errorf("of an empty chain: %v", err)
		}
		size := uint64(0)
		for _, n := range []int{1, 300, 0, 5} {
			chain.Grow(n)
			if size > 0 {
				if got := served(t, l); got.Size != size {
					t.Errorf("at once the size is %d, want %d", got.Size, size)
				}
			}
			time.Sleep(tlog.DefaultInterval)
			synctest.Wait()
			size += uint64(n)
			if got := served(t, l); got.Size != size || got.Root != rootOf(chain) || got.Origin != origin {
				t.Errorf("after %d more: got %v, want size %d", n, got, size)
			}
		}
		chain.Wait(errors.New("held"))
		chain.Grow(1)
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := served(t, l); got.Size != size {
			t.Errorf("while the keyserver is held, %d entries were signed", got.Size)
		}
		before, _, _ := l.Checkpoint()
		key := l.Key().String()
		stop()
		again, stop := run(t, options(dir, chain))
		defer stop()
		if got, _, err := again.Checkpoint(); err != nil || !bytes.Equal(got, before) || again.Key().String() != key {
			t.Errorf("after a restart: %q (%v), key %s", got, err, again.Key())
		}
	})
}

// TestOldDatabase restores a database that is older than what was signed, and another.
func TestOldDatabase(t *testing.T) {
	for name, test := range map[string]struct {
		after func(*tlogtest.Chain) *tlogtest.Chain
		want  error
	}{
		"the same":           {func(c *tlogtest.Chain) *tlogtest.Chain { return c }, nil},
		"older":              {func(c *tlogtest.Chain) *tlogtest.Chain { return c.Fork(7, 2) }, tlog.ErrBehind},
		"older, and grown":   {func(c *tlogtest.Chain) *tlogtest.Chain { return c.Fork(7, 2).Grow(20) }, tlog.ErrForked},
		"of the same length": {func(c *tlogtest.Chain) *tlogtest.Chain { return c.Fork(9, 2).Grow(1) }, tlog.ErrForked},
		"newer":              {func(c *tlogtest.Chain) *tlogtest.Chain { return c.Fork(10, 2).Grow(1) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				chain := tlogtest.New(t, 1).Grow(10)
				_, stop := run(t, options(dir, chain))
				synctest.Wait()
				stop()
				state, err := os.ReadFile(filepath.Join(dir, "log.json"))
				if err != nil {
					t.Fatal(err)
				}
				chain = test.after(chain)
				l, stop := run(t, options(dir, chain))
				defer stop()
				synctest.Wait()
				for range 2 {
					if err := l.Err(); !errors.Is(err, test.want) {
						t.Fatalf("got %v, want %v", err, test.want)
					}
					if test.want == nil {
						if got := served(t, l); got.Size != chain.Chain().Size {
							t.Errorf("signed are %d entries", got.Size)
						}
						return
					}
					if _, _, err := l.Checkpoint(); !errors.Is(err, test.want) {
						t.Errorf("a checkpoint is served: %v", err)
					}
					if now, err := os.ReadFile(filepath.Join(dir, "log.json")); err != nil || !bytes.Equal(now, state) {
						t.Errorf("the state is %s (%v)", now, err)
					}
					chain.Grow(5) // which changes nothing
					time.Sleep(time.Minute)
					synctest.Wait()
				}
			})
		})
	}
}

// TestFiles has key and state that do not belong together.
func TestFiles(t *testing.T) {
	other := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		_, stop := run(t, options(other, tlogtest.New(t, 2).Grow(3)))
		synctest.Wait()
		stop()
	})
	for name, test := range map[string]struct {
		change func(opt *tlog.Options) error
		want   error
	}{
		"nothing":               {func(*tlog.Options) error { return nil }, nil},
		"no key":                {func(opt *tlog.Options) error { return os.Remove(opt.KeyFile) }, tlog.ErrMismatch},
		"no state":              {func(opt *tlog.Options) error { return os.Remove(opt.StateFile) }, tlog.ErrMismatch},
		"another's key":         {func(opt *tlog.Options) error { return os.Rename(filepath.Join(other, "log.key"), opt.KeyFile) }, tlog.ErrMismatch},
		"another domain":        {func(opt *tlog.Options) error { opt.Origin = "example.net/keytree"; return nil }, tlog.ErrMismatch},
		"a state that is none":  {func(opt *tlog.Options) error { return os.WriteFile(opt.StateFile, []byte("{"), 0o600) }, tlog.ErrMismatch},
		"a state of later":      {func(opt *tlog.Options) error { return os.WriteFile(opt.StateFile, []byte(`{"version":2}`), 0o600) }, tlog.ErrMismatch},
		"a key that others see": {func(opt *tlog.Options) error { return os.Chmod(opt.KeyFile, 0o644) }, durable.ErrReadable},
		"neither":               {func(opt *tlog.Options) error { return errors.Join(os.Remove(opt.KeyFile), os.Remove(opt.StateFile)) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			opt := options(dir, nil)
			synctest.Test(t, func(t *testing.T) {
				_, stop := run(t, options(dir, tlogtest.New(t, 1).Grow(3)))
				synctest.Wait()
				stop()
			})
			if err := test.change(&opt); err != nil {
				t.Fatal(err)
			}
			l, err := tlog.Open(opt)
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			if err == nil {
				if _, err := tlog.Open(opt); !errors.Is(err, tlog.ErrLocked) {
					t.Errorf("opened twice: %v", err)
				}
				l.Close()
			}
		})
	}
	t.Run("only to be read", func(t *testing.T) {
		opt := options(t.TempDir(), nil)
		opt.ReadOnly = true
		if _, err := tlog.Open(opt); !errors.Is(err, tlog.ErrMismatch) && !errors.Is(err, tlog.ErrNone) {
			t.Errorf("got %v", err)
		}
		if _, err := os.Stat(opt.StateFile); !errors.Is(err, fs.ErrNotExist) {
			t.Error("a file was made")
		}
	})
}

// TestStateNotStored cannot write what was signed: nobody gets it.
func TestStateNotStored(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		chain := tlogtest.New(t, 1).Grow(10)
		opt := options(dir, chain)
		l, stop := run(t, opt)
		defer stop()
		synctest.Wait()
		// A folder in the place of the file that is written first stops root, too.
		if err := os.MkdirAll(filepath.Join(opt.StateFile+".tmp", "x"), 0o700); err != nil {
			t.Fatal(err)
		}
		chain.Grow(1)
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := served(t, l); got.Size != 10 {
			t.Errorf("%d entries are served, which are not stored", got.Size)
		}
		if err := os.RemoveAll(opt.StateFile + ".tmp"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got := served(t, l); got.Size != 11 {
			t.Errorf("%d entries are served when it can be stored again", got.Size)
		}
	})
}

// tileReader has golang.org/x/mod read a log's tiles, which it checks against a checkpoint.
type tileReader struct {
	tb testing.TB
	l  *tlog.Log
}

func (r tileReader) Height() int                      { return format.TileHeight }
func (r tileReader) SaveTiles([]xtlog.Tile, [][]byte) {}
func (r tileReader) ReadTiles(tiles []xtlog.Tile) (data [][]byte, err error) {
	for _, tile := range tiles {
		b, err := r.l.Tile(r.tb.Context(), tile)
		if err != nil {
			return nil, err
		}
		data = append(data, b)
	}
	return data, nil
}

// TestTiles has golang.org/x/mod check every tile, entry and proof.
func TestTiles(t *testing.T) {
	for _, size := range []int{1, 2, 255, 256, 257, 600, 65_537} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			if size > 1000 && testing.Short() {
				t.Skip("it makes a long chain")
			}
			dir := t.TempDir()
			var l *tlog.Log
			chain := tlogtest.New(t, 1)
			synctest.Test(t, func(t *testing.T) {
				var stop func()
				l, stop = run(t, options(dir, chain.Grow(size)))
				synctest.Wait()
				stop()
			})
			c := served(t, l)
			reader := xtlog.TileHashReader(xtlog.Tree{N: int64(c.Size), Hash: c.Root}, tileReader{t, l})
			for at := 0; at < size; at += max(1, size/23) {
				proof, err := xtlog.ProveRecord(int64(size), int64(at), reader)
				if err != nil {
					t.Fatal(err)
				}
				bundle, err := l.Tile(t.Context(), format.NewTile(-1, int64(at/256), min(256, size-at/256*256)))
				if err != nil {
					t.Fatal(err)
				}
				entries, err := format.ParseBundle(bundle, min(256, size-at/256*256))
				if err != nil {
					t.Fatal(err)
				}
				want := chain.Entry(at)
				if !bytes.Equal(entries[at%256], want[:]) {
					t.Fatalf("entry %d is another", at)
				}
				if err := format.CheckInclusion(c, uint64(at), entries[at%256], proof); err != nil {
					t.Fatal(err)
				}
				ours, err := chain.InclusionProof(t.Context(), uint64(at), uint64(size))
				if err != nil || fmt.Sprint(ours) != fmt.Sprint(hashes(proof)) {
					t.Fatalf("the proof of entry %d is another (%v)", at, err)
				}
			}
			// Every width of the last tiles, as checkpoints before have had them.
			for w := 1; w <= min(size, 256); w++ {
				for _, level := range []int{-1, 0} {
					short, err := l.Tile(t.Context(), format.NewTile(level, 0, w))
					if err != nil {
						t.Fatal(err)
					}
					long, err := l.Tile(t.Context(), format.NewTile(level, 0, min(size, 256)))
					if err != nil || !bytes.HasPrefix(long, short) || w < min(size, 256) && len(short) == len(long) {
						t.Fatalf("the tile of width %d is not how the one of %d begins (%v)", w, min(size, 256), err)
					}
				}
			}
			if _, err := l.Tile(t.Context(), format.NewTile(0, int64(size/256), size%256+1)); !errors.Is(err, tlog.ErrNone) {
				t.Errorf("a tile that is not there yet: %v", err)
			}
		})
	}
}

func hashes(proof []format.Hash) (converted []hashchain.Hash) {
	for _, h := range proof {
		converted = append(converted, hashchain.Hash(h))
	}
	return converted
}

// TestEntryIsLeaf says what others have to know of an entry's hash.
func TestEntryIsLeaf(t *testing.T) {
	e := tlogtest.New(t, 1).Grow(1).Entry(0)
	if got, want := hashchain.LeafHash(&e), sha256.Sum256(append([]byte{0}, e[:]...)); got != want || len(e) > 65535 || xtlog.RecordHash(e[:]) != want {
		t.Errorf("the leaf is %v, want %x", got, want)
	}
}

// copyFolder returns a copy of a folder.
func copyFolder(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(dir, "backup")
	if err := os.Mkdir(to, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"log.key", "log.json"} {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(to, name), content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return to
}
