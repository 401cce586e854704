package audit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strconv"
	"strings"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
)

// Checkpoint is a block that the user knows to be on the best chain.
type Checkpoint struct {
	Height uint32
	Hash   chainhash.Hash
}

// ParseCheckpoint reads HEIGHT:HASH, the hash as it is displayed.
func ParseCheckpoint(s string) (Checkpoint, error) {
	height, hash, ok := strings.Cut(s, ":")
	n, err := strconv.ParseUint(height, 10, 32)
	if !ok || err != nil || len(hash) != chainhash.MaxHashStringSize {
		return Checkpoint{}, fmt.Errorf("expected a block as HEIGHT:HASH, the hash in %d hex characters, got %.100q", chainhash.MaxHashStringSize, s)
	}
	h, err := chainhash.NewHashFromStr(hash)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("expected a block as HEIGHT:HASH: %w", err)
	}
	return Checkpoint{uint32(n), *h}, nil
}

func (c Checkpoint) String() string { return fmt.Sprintf("%d:%v", c.Height, c.Hash) }

// ErrHeaders says that a file does not hold the headers of a chain behind the
// checkpoint: the message says what is wrong. Make it again, from one's own node.
var ErrHeaders = errors.New("not a chain of headers")

const (
	// maxAhead is how far ahead of the clock the time in a header may be: what nodes
	// allow.
	maxAhead = 2 * time.Hour
	// maxLag is by how much a chain of headers may lag behind one block every ten
	// minutes since its checkpoint. ASERT halves the difficulty for each two days of
	// that, so that a chain within it is at most some hundred times easier to make than
	// the real one, however long it is: a lag that would take the network to lose
	// all but a hundredth of its hash rate.
	maxLag = 14 * 24 * time.Hour
)

// HeaderFile is block headers in a file, 80 bytes each, one behind the other,
// without gaps. The first is the checkpoint's. They have been verified: each names
// the one before it and carries the work that it claims, which is at least the
// least that the network allows.
//
// Where the network's rule for difficulty is ASERT, on mainnet since November 2020,
// each target is the one that it asks for, no time is ahead of the clock, and a
// chain for mainnet does not lag so far behind its schedule that the rule makes it
// easy (maxLag). So whoever forges headers must spend a good part of a hundredth of
// what the real ones took since the checkpoint: pin one that is not too recent.
//
// Not checked are the rules for difficulty before that, and that a time is not
// before those of the eleven headers before it. Test networks let anybody make easy
// blocks after a pause, and regtest at any time: there a file proves nothing.
//
// It may be used concurrently.
type HeaderFile struct {
	in    io.ReaderAt
	first uint32 // height of the first header
	count uint32
	last  protocol.Header
	work  *big.Int
}

// ReadHeaders verifies a file of size bytes, which must stay as it is, at a time.
// The error wraps ErrHeaders, or protocol.ErrWork for a header without the work that
// it needs, or is the file's.
func ReadHeaders(ctx context.Context, in io.ReaderAt, size int64, net *chaincfg.Params, at Checkpoint, now time.Time) (*HeaderFile, error) {
	f := &HeaderFile{in: in, first: at.Height, work: new(big.Int)}
	if size == 0 || size%protocol.HeaderSize != 0 {
		return nil, fmt.Errorf("%w: expected a multiple of %d bytes, got %d: is the file cut short?", ErrHeaders, protocol.HeaderSize, size)
	}
	if n := size / protocol.HeaderSize; n > 1<<31 {
		return nil, fmt.Errorf("%w: %d headers are more than there are", ErrHeaders, n)
	}
	var begin uint32 // time of the first header
	lines := bufio.NewReaderSize(io.NewSectionReader(in, 0, size), 1<<16)
	for n := range uint32(size / protocol.HeaderSize) {
		if n%10_000 == 0 && ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		var raw [protocol.HeaderSize]byte
		if _, err := io.ReadFull(lines, raw[:]); err != nil {
			return nil, fmt.Errorf("header %d: %w", n, err)
		}
		h, err := protocol.ParseHeader(raw[:])
		if err != nil {
			return nil, err
		}
		if n == 0 && h.Hash != at.Hash {
			return nil, fmt.Errorf("%w: it begins with block %v, expected the checkpoint %v", ErrHeaders, h.Hash, at)
		}
		if n > 0 && h.PrevBlock != f.last.Hash {
			return nil, fmt.Errorf("%w: header %d, %v, follows block %v, expected %v: one is missing or the file was put together", ErrHeaders, n, h.Hash, h.PrevBlock, f.last.Hash)
		}
		err = h.CheckWork(net.PowLimit)
		if err == nil && n > 0 {
			err = protocol.CheckDifficulty(net, f.Height(), &f.last, &h)
		}
		if err != nil {
			return nil, fmt.Errorf("header %d, height %d: %w", n, f.first+n, err)
		}
		if n == 0 {
			begin = h.Time
		}
		if err := checkTimes(net, f.first+n, n, begin, &h, now); err != nil {
			return nil, err
		}
		work, err := h.Work()
		if err != nil {
			return nil, err
		}
		f.work.Add(f.work, work)
		f.last = h
		f.count++
	}
	return f, nil
}

// checkTimes checks the time of the n-th header behind the one of time begin.
func checkTimes(net *chaincfg.Params, height, n, begin uint32, h *protocol.Header, now time.Time) error {
	at := time.Unix(int64(h.Time), 0)
	if at.After(now.Add(maxAhead)) {
		return fmt.Errorf("%w: block %d, %v, is of %v, after the present: is the clock right?", ErrHeaders, height, h.Hash, at.UTC())
	}
	due := time.Unix(int64(begin), 0).Add(time.Duration(n) * net.TargetTimePerBlock)
	if protocol.HasASERT(net, height) && !net.ReduceMinDifficulty && at.After(due.Add(maxLag)) {
		return fmt.Errorf("%w: block %d, %v, of %v comes %v later after the checkpoint than it should: so few blocks are easy to make, and not what the network made", ErrHeaders, height, h.Hash, at.UTC(), at.Sub(due))
	}
	return nil
}

// Height is that of the last header.
func (f *HeaderFile) Height() uint32 { return f.first + f.count - 1 }

// Work is how many hashes it takes on average to find all of these headers.
func (f *HeaderFile) Work() *big.Int { return new(big.Int).Set(f.work) }

// OnBestChain implements Headers.
func (f *HeaderFile) OnBestChain(_ context.Context, height uint32, block chainhash.Hash) error {
	if height < f.first || height > f.Height() {
		return fmt.Errorf("%w: the file has the headers of blocks %d to %d", ErrNoHeader, f.first, f.Height())
	}
	var raw [protocol.HeaderSize]byte
	if _, err := f.in.ReadAt(raw[:], int64(height-f.first)*protocol.HeaderSize); err != nil {
		return err
	}
	want, err := protocol.ParseHeader(raw[:])
	if err != nil {
		return err
	}
	if want.Hash != block {
		return fmt.Errorf("%w: the header file has block %v, asked for was %v", ErrNotOnBestChain, want.Hash, block)
	}
	return nil
}
