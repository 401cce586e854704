package blockfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"golang.org/x/sync/errgroup"

	"github.com/keytree-bch/keytree/protocol"
)

// Errors of Open and Read, to be matched with errors.Is.
var (
	// ErrNoChain says that the folder does not hold a chain of the network from
	// its genesis block on. The message names what is there.
	ErrNoChain = errors.New("no chain in these files")
	// ErrDamaged says that a block is not what it was when Open saw its header. The
	// message names the file and the place.
	ErrDamaged = errors.New("block file damaged")
)

// Chain is the best chain in a folder of block files. All methods but Close may
// be called concurrently.
type Chain struct {
	files   []*file
	blocks  []block    // by height
	at      []location // by height
	largest int
	found   Found
}

// block is what is kept of a header.
type block struct {
	hash       chainhash.Hash
	time, bits uint32
}

// Found is what is in the files besides the best chain.
type Found struct {
	Files int
	Bytes int64 // of the files
	// Blocks counts those that differ, Stale those of them that lead to genesis
	// but are not on the best chain.
	Blocks, Stale int
	Duplicates    int // records of a block that was there before
	// Unlinked counts the blocks that do not lead to the genesis block, because
	// the parent of one of them, Missing, is not there.
	Unlinked int
	Missing  chainhash.Hash
	// Foreign counts the blocks that break a rule of the network's chain
	// (protocol.HeaderChain), and those after them. Broken says what the first of
	// them breaks.
	Foreign int
	Broken  error
	// Unproven counts the blocks behind the chain's last that may be another coin's,
	// since the files do not get to the network's last pin (protocol.ProvenHeight).
	// They are not on the chain until the files do.
	Unproven int
	// Bad counts the records that are torn, or whose header does not carry the work
	// that it claims. Named says of some of them what is wrong, and where.
	Bad   int
	Named []error
}

// file is opened when a block is first read from it, and stays open.
type file struct {
	path string

	once sync.Once
	f    *os.File // set by once
	err  error    // set by once
}

func (f *file) open() (*os.File, error) {
	f.once.Do(func() { f.f, f.err = os.Open(f.path) })
	return f.f, f.err
}

// Open finds the best chain of net in the block files of dir, as far as it cannot be
// another coin's. It looks at the header of every block, and calls progress, if not
// nil, with the bytes of the files done and of all, one call at a time. Close the
// chain.
//
// ErrNoChain says that there is none. It comes with protocol.ErrOtherChain, or
// another error of protocol.HeaderChain, if the blocks are another coin's.
//
// The chain takes some 50 bytes of memory for each block, four times as much
// meanwhile.
func Open(ctx context.Context, dir string, net *chaincfg.Params, progress func(done, all int64)) (*Chain, error) {
	paths, checksum, err := list(dir)
	if err != nil {
		return nil, err
	}
	c := &Chain{found: Found{Files: len(paths)}}
	for _, path := range paths {
		c.files = append(c.files, &file{path: path})
	}
	scans, err := c.scan(ctx, net, checksum, progress)
	if err != nil {
		return nil, err
	}
	if err := c.choose(scans, net); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", dir, err), c.Close())
	}
	return c, nil
}

var (
	datName = regexp.MustCompile(`^blk([0-9]{5,9})\.dat$`)
	fdbName = regexp.MustCompile(`^([0-9]{9})\.fdb$`)
)

// list returns the block files of dir, in the order of their numbers, and how
// many bytes follow each block.
func list(dir string) (paths []string, checksum int64, err error) {
	if err := refuseObfuscated(dir); err != nil {
		return nil, 0, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, 0, err
	}
	pattern := datName
	if slices.ContainsFunc(entries, func(e os.DirEntry) bool { return fdbName.MatchString(e.Name()) }) {
		pattern, checksum = fdbName, checksumSize
	}
	numbers := make(map[string]int)
	for _, entry := range entries {
		if match := pattern.FindStringSubmatch(entry.Name()); match != nil {
			path := filepath.Join(dir, entry.Name())
			paths = append(paths, path)
			if numbers[path], err = strconv.Atoi(match[1]); err != nil {
				return nil, 0, err
			}
		}
	}
	if len(paths) == 0 {
		return nil, 0, fmt.Errorf("%w: %s has neither blk*.dat nor *.fdb: expected the folder that the node keeps its blocks in "+
			"(BCHN: blocks, in its data folder; bchd: blocks_ffldb)", ErrNoChain, dir)
	}
	slices.SortFunc(paths, func(a, b string) int { return numbers[a] - numbers[b] })
	return paths, checksum, nil
}

// refuseObfuscated refuses a folder whose files are written through a key, as
// Bitcoin Core does since release 28. No node of this network is known to.
func refuseObfuscated(dir string) error {
	path := filepath.Join(dir, "xor.dat")
	key, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(bytes.Trim(key, "\x00")) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("%w: the block files are obfuscated with the key in %s, which keytree does not read: "+
		"let the node write them with -blocksxor=0", ErrNoChain, path)
}

// scan reads the headers in all files, on all processors.
func (c *Chain) scan(ctx context.Context, net *chaincfg.Params, checksum int64, progress func(done, all int64)) ([]scanned, error) {
	var all int64
	for _, f := range c.files {
		info, err := os.Stat(f.path)
		if err != nil {
			return nil, err
		}
		all += info.Size()
	}
	scans := make([]scanned, len(c.files))
	var next atomic.Int64
	var mu sync.Mutex // guards done, and the calls of progress
	var done int64
	group, ctx := errgroup.WithContext(ctx)
	for range min(runtime.GOMAXPROCS(0), len(c.files)) {
		group.Go(func() error {
			s := &scanner{magics: magics(net), limit: net.PowLimit, checksum: checksum}
			for i := next.Add(1) - 1; i < int64(len(c.files)); i = next.Add(1) - 1 {
				found, err := s.scan(ctx, c.files[i].path, uint32(i))
				if err != nil {
					return err
				}
				scans[i] = found
				mu.Lock()
				done += found.size
				if progress != nil {
					progress(done, all)
				}
				mu.Unlock()
			}
			return nil
		})
	}
	return scans, group.Wait()
}

// choose finds the best chain among the records.
func (c *Chain) choose(scans []scanned, net *chaincfg.Params) error {
	c.dropTorn(scans)
	var records []record
	byHash := make(map[chainhash.Hash]int32)
	for _, s := range scans {
		c.found.Bytes += s.size
		c.found.Bad += s.count
		c.found.Named = append(c.found.Named, s.named[:min(len(s.named), maxNamed-len(c.found.Named))]...)
		for _, r := range s.records {
			first, ok := byHash[r.hash]
			if !ok {
				byHash[r.hash] = int32(len(records))
				records = append(records, r)
				continue
			}
			c.found.Duplicates++
			// What was searched for may stand in the middle of something else.
			if records[first].sought && !r.sought {
				records[first].at, records[first].sought = r.at, false
			}
		}
	}
	k := &linker{net: net, now: time.Now(), records: records, byHash: byHash}
	l, err := k.link()
	if err != nil {
		return err
	}
	c.found.Blocks, c.found.Unlinked, c.found.Missing = len(records), l.unlinked, l.missing
	c.found.Foreign, c.found.Broken = l.foreign, l.broken
	c.found.Stale = len(records) - l.unlinked - l.foreign - len(l.best)
	if len(l.best) == 0 {
		return fmt.Errorf("%w: none of %d blocks in %d files is the genesis block of %s, %v: "+
			"they are another network's, or those of a node that prunes (%d records are bad)",
			ErrNoChain, len(records), len(c.files), net.Name, net.GenesisHash, c.found.Bad)
	}
	if l.best, err = c.proven(l.best, net); err != nil {
		return err
	}
	c.blocks, c.at = make([]block, len(l.best)), make([]location, len(l.best))
	for height, i := range l.best {
		r := &records[i]
		c.blocks[height], c.at[height] = block{r.hash, r.time, r.bits}, r.at
		c.largest = max(c.largest, int(records[i].at.size))
	}
	return nil
}

// proven returns the part of the best chain that cannot be another coin's. The error
// says that nothing is to be taken from the files: they are another coin's, or too
// short to tell.
func (c *Chain) proven(best []int, net *chaincfg.Params) ([]int, error) {
	tip, pin := uint32(len(best)-1), protocol.LastPin(net)
	height := protocol.ProvenHeight(net, tip)
	switch {
	case tip < pin && c.found.Foreign > 0:
		return nil, fmt.Errorf("%w: %d of %d blocks are not of %s's chain, and the others end at height %d, below the checkpoint at height %d: "+
			"are the files another coin's? %w", ErrNoChain, c.found.Foreign, c.found.Blocks, net.Name, tip, pin, c.found.Broken)
	case height == 0 && tip > 0:
		return nil, fmt.Errorf("%w: they end at height %d, and below the checkpoint of %s at height %d they may be another coin's: "+
			"let the node download more blocks", ErrNoChain, tip, net.Name, net.Checkpoints[0].Height)
	}
	c.found.Unproven = int(tip - height)
	return best[:height+1], nil
}

// dropTorn drops the very last record if a killed node has not written all of it.
// Its header and length are in place then, and zeros behind them.
func (c *Chain) dropTorn(scans []scanned) {
	for i := len(scans) - 1; i >= 0; i-- {
		s := &scans[i]
		if len(s.records) == 0 {
			continue
		}
		r := s.records[len(s.records)-1]
		whole := protocol.Walk{Root: protocol.RootAlways}
		if err := c.lend(r.at, func(raw []byte) error {
			_, err := whole.Read(raw)
			return err
		}); err != nil {
			s.records = s.records[:len(s.records)-1]
			s.add(fmt.Errorf("%v: %w: %w", c.place(r.at), errTorn, err))
		}
		return
	}
}

// Height returns the height of the last block.
func (c *Chain) Height() uint32 { return uint32(len(c.blocks) - 1) }

// Hash returns the hash of the block at height, which must not be above Height.
func (c *Chain) Hash(height uint32) chainhash.Hash { return c.blocks[height].hash }

// Header returns what is kept of the header of the block at height, which must not
// be above Height: Hash, PrevBlock, Time and Bits; the rest is zero.
func (c *Chain) Header(height uint32) protocol.Header {
	b := &c.blocks[height]
	h := protocol.Header{Hash: b.hash, Time: b.time, Bits: b.bits}
	if height > 0 {
		h.PrevBlock = c.blocks[height-1].hash
	}
	return h
}

// Size returns the size in bytes of the block at height, which must not be above
// Height.
func (c *Chain) Size(height uint32) int { return int(c.at[height].size) }

// Largest returns the size of the largest block in bytes.
func (c *Chain) Largest() int { return c.largest }

// Found returns what is in the files besides the chain.
func (c *Chain) Found() Found { return c.found }

// Lend has use look at the block at height, which must not be above Height, and
// returns its error. The bytes are the file's, may not be changed, and are gone when
// use returns. The header is that of Hash; nothing else has been checked. If the
// block cannot be read, now or under way in use, the error names the file; it wraps
// ErrDamaged if another block is there.
func (c *Chain) Lend(height uint32, use func(raw []byte) error) error {
	at := c.at[height]
	return c.lend(at, func(raw []byte) error {
		header, err := protocol.ParseHeader(raw)
		if err != nil {
			return err
		}
		if want := c.Hash(height); header.Hash != want {
			return fmt.Errorf("%w: %s: expected block %v at height %d, got %v", ErrDamaged, c.place(at), want, height, header.Hash)
		}
		return use(raw)
	})
}

// Place says where the block at height is, for people.
func (c *Chain) Place(height uint32) string { return c.place(c.at[height]) }

func (c *Chain) place(at location) string {
	return fmt.Sprintf("%s, byte %d", c.files[at.file].path, at.offset)
}

func (c *Chain) lend(at location, use func(raw []byte) error) error {
	f, err := c.files[at.file].open()
	if err != nil {
		return err
	}
	var used error
	if err := lend(f, at.offset, int(at.size), func(raw []byte) error {
		used = use(raw)
		return nil
	}); err != nil {
		return fmt.Errorf("%s: %w", c.place(at), err)
	}
	return used
}

// Close closes the files. Nothing may be read any more.
func (c *Chain) Close() error {
	var errs []error
	for _, f := range c.files {
		f.once.Do(func() { f.err = fs.ErrClosed })
		if f.f != nil {
			errs = append(errs, f.f.Close())
		}
	}
	return errors.Join(errs...)
}
