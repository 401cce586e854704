package badgerdb

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/table"
)

// check reads the files of the database in dir.
type check struct {
	dir      string
	maxValue int // the longest value that is written, in bytes
	// live: the database is open, so that the logs and whatever is newest are in
	// motion; only what is at rest is checked.
	live bool

	mu     sync.Mutex
	damage []Damage // mu
}

// Check checks every file of the database in dir, which nobody must have open, and
// returns what is wrong. maxValue is the longest value that is ever written, in
// bytes. A folder without a database is sound.
func Check(ctx context.Context, dir string, maxValue int) ([]Damage, error) {
	c := &check{dir: dir, maxValue: maxValue}
	err := c.all(ctx)
	return c.damage, err
}

func (c *check) report(file, format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.damage = append(c.damage, Damage{file, fmt.Sprintf(format, args...)})
}

func (c *check) all(ctx context.Context) error {
	names, err := c.names()
	if err != nil {
		return err
	}
	tables, err := c.manifest(names)
	if err != nil || len(c.damage) > 0 {
		return err
	}
	newest, err := c.tables(ctx, tables)
	if err != nil || len(c.damage) > 0 || c.live {
		return err
	}
	logs, err := c.logs(names, newest)
	if err != nil {
		return err
	}
	return c.rest(names, len(tables) > 0 || logs)
}

// names lists the folder.
func (c *check) names() ([]string, error) {
	entries, err := os.ReadDir(c.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

// manifest reads which tables there must be.
func (c *check) manifest(names []string) (map[uint64]badger.TableManifest, error) {
	const name = badger.ManifestFilename
	f, err := os.Open(filepath.Join(c.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		for _, other := range names {
			// Badger makes the manifest first, by way of another name.
			if other != "LOCK" && !strings.HasPrefix(other, name) {
				c.report(name, "missing, although there is %s", other)
				break
			}
		}
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	manifest, end, err := badger.ReplayManifestFile(f, 0, badger.Options{})
	if err != nil {
		c.report(name, "%v", err)
		return nil, nil
	}
	if c.live {
		return manifest.Tables, nil
	}
	content, err := os.ReadFile(f.Name())
	if err != nil {
		return nil, err
	}
	// A crash leaves at most the beginning of one record behind the last whole one.
	for at := int(end) + 1; at+8 <= len(content); at++ {
		length, sum := binary.BigEndian.Uint32(content[at:]), binary.BigEndian.Uint32(content[at+4:])
		rest := content[at+8:]
		if length > 0 && uint64(length) <= uint64(len(rest)) && crc32c(rest[:length]) == sum {
			c.report(name, "the record at offset %d cannot be read, one at %d can", end, at)
			break
		}
	}
	return manifest.Tables, nil
}

// crc32c is the checksum that Badger uses.
func crc32c(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// tables checks each table whole and returns the newest version in them.
func (c *check) tables(ctx context.Context, tables map[uint64]badger.TableManifest) (newest uint64, err error) {
	ids := slices.Sorted(maps.Keys(tables))
	var next atomic.Int64
	versions := make([]uint64, len(ids))
	var working sync.WaitGroup
	for range min(len(ids), runtime.GOMAXPROCS(0)) {
		working.Go(func() {
			var space []byte // one table after the other is read into it
			for ctx.Err() == nil {
				n := int(next.Add(1)) - 1
				if n >= len(ids) {
					return
				}
				version, err := checkTable(c.dir, ids[n], tables[ids[n]].Compression, &space)
				if err != nil && !(c.live && c.gone(ids[n])) {
					c.report(table.IDToFilename(ids[n]), "%v", err)
				}
				versions[n] = version
			}
		})
	}
	working.Wait()
	for _, version := range versions {
		newest = max(newest, version)
	}
	return newest, ctx.Err()
}

// gone reports whether a table is no longer needed by now.
func (c *check) gone(id uint64) bool {
	again := &check{dir: c.dir, live: true}
	tables, err := again.manifest(nil)
	_, needed := tables[id]
	return err == nil && len(again.damage) == 0 && !needed
}

// checkTable reads a table's index and all its blocks, and compares their
// checksums. It returns the newest version in it. The table is read into a space,
// which grows for it.
func checkTable(dir string, id uint64, compression options.CompressionType, space *[]byte) (newest uint64, err error) {
	content, err := readFile(table.NewFilename(id, dir), space)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, errors.New("missing")
	}
	if err != nil {
		return 0, err
	}
	// Badger trusts lengths before it has checked them.
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("cannot be decoded: %v", firstLine(fmt.Sprint(r)))
		}
	}()
	t, err := table.OpenInMemoryTable(content, id, &table.Options{Compression: compression, BlockSize: 4 << 10})
	if err != nil {
		return 0, err
	}
	return t.MaxVersion(), t.VerifyChecksum()
}

// readFile returns what is in a file, in a space, which grows for it.
func readFile(name string, space *[]byte) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	size := int(info.Size())
	*space = slices.Grow((*space)[:0], size)
	content := (*space)[:size]
	_, err = io.ReadFull(f, content)
	return content, err
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	return s
}

// logs checks the logs of the memtables, oldest first: within one and from one
// to the next, no transaction may be missing, nor between the tables, whose
// newest version is given, and the first. It reports whether there are logs.
func (c *check) logs(names []string, newest uint64) (found bool, err error) {
	for _, name := range filesInOrder(names, ".mem") {
		content, err := os.ReadFile(filepath.Join(c.dir, name))
		if err != nil {
			return false, err
		}
		found = true
		l, err := readLog(content, newest, c.maxValue)
		if err == nil && l.first > newest+1 {
			err = fmt.Errorf("starts with transaction %d, what is before it ends with %d", l.first, newest)
		}
		if err != nil {
			c.report(name, "%v", err)
			return true, nil
		}
		newest = max(newest, l.last)
	}
	return found, nil
}

// filesInOrder lists the names with a suffix in the order of their numbers.
func filesInOrder(names []string, suffix string) []string {
	numbers := make(map[string]uint64)
	for _, name := range names {
		if stem, ok := strings.CutSuffix(name, suffix); ok {
			if n, err := strconv.ParseUint(stem, 10, 32); err == nil {
				numbers[name] = n
			}
		}
	}
	return slices.SortedFunc(maps.Keys(numbers), func(a, b string) int { return cmp.Compare(numbers[a], numbers[b]) })
}

// rest checks the files that hold no data. inUse says that there are tables or
// logs: then all files have been made.
func (c *check) rest(names []string, inUse bool) error {
	const registry = badger.KeyRegistryFileName
	// A key registry without keys: 16 random bytes that are not used, and a text.
	content, err := os.ReadFile(filepath.Join(c.dir, registry))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if inUse {
			c.report(registry, "missing")
		}
	case err != nil:
		return err
	case len(content) != 28 || string(content[16:]) != "Hello Badger":
		c.report(registry, "expected 28 bytes with Badger's mark, got %d others", len(content))
	}

	values := filesInOrder(names, ".vlog")
	if len(values) == 0 && slices.ContainsFunc(names, func(name string) bool { return strings.HasSuffix(name, ".sst") }) {
		c.report("000001.vlog", "missing, and no other value log is there")
	}
	for _, name := range values {
		if err := c.valueLog(name); err != nil {
			return err
		}
	}
	return nil
}

// valueLog checks that a value log is empty: all values are in the tables.
func (c *check) valueLog(name string) error {
	f, err := os.Open(filepath.Join(c.dir, name))
	if err != nil {
		return err
	}
	defer f.Close()
	header := make([]byte, logHeader)
	switch n, err := io.ReadFull(f, header); {
	case n == 0 && err == io.EOF:
		return nil // made, but not begun
	case err == io.ErrUnexpectedEOF:
		c.report(name, "expected a header of %d bytes, got %d", logHeader, n)
		return nil
	case err != nil:
		return err
	}
	if !isZero(header[:8]) {
		c.report(name, "the header names a key, keytree uses none")
	}
	buf := make([]byte, 1<<20)
	for at := int64(logHeader); ; {
		n, err := f.Read(buf)
		if !isZero(buf[:n]) {
			c.report(name, "holds something after offset %d, keytree keeps nothing there", at)
			return nil
		}
		at += int64(n)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func isZero(b []byte) bool { return len(bytes.TrimLeft(b, "\x00")) == 0 }

// removeUnbegun removes logs of no bytes: a process killed between making and
// sizing one leaves it, and Badger refuses to open then.
func removeUnbegun(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); ext != ".mem" && ext != ".vlog" {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if info.Size() == 0 {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
