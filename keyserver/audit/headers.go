package audit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
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

// HeaderFile is block headers in a file, 80 bytes each, one behind the other,
// without gaps. The first is the checkpoint's. protocol.HeaderChain has taken them,
// and says what it has checked and what it costs to forge: on mainnet since November
// 2020, a good part of a hundredth of what the real ones took since the checkpoint.
// Pin one that is not too recent.
//
// Not checked are the rules for difficulty before that. Test networks let anybody
// make easy blocks after a pause, and regtest at any time: there a file proves
// nothing.
//
// It may be used concurrently.
type HeaderFile struct {
	in    io.ReaderAt
	first uint32 // height of the first header
	last  uint32 // height of the last one
	time  time.Time
	work  *big.Int
}

// ReadHeaders verifies a file of size bytes, which must stay as it is, at a time.
// The error wraps ErrHeaders, and that of protocol.HeaderChain about a header; or it
// is the file's.
func ReadHeaders(ctx context.Context, in io.ReaderAt, size int64, net *chaincfg.Params, at Checkpoint, now time.Time) (*HeaderFile, error) {
	if size == 0 || size%protocol.HeaderSize != 0 {
		return nil, fmt.Errorf("%w: expected a multiple of %d bytes, got %d: is the file cut short?", ErrHeaders, protocol.HeaderSize, size)
	}
	if n := size / protocol.HeaderSize; n-1 > math.MaxUint32-int64(at.Height) {
		return nil, fmt.Errorf("%w: %d headers from height %d on are more than there are", ErrHeaders, n, at.Height)
	}
	lines := bufio.NewReaderSize(io.NewSectionReader(in, 0, size), 1<<16)
	first, err := readHeader(lines)
	if err != nil {
		return nil, fmt.Errorf("header 0: %w", err)
	}
	if first.Hash != at.Hash {
		return nil, fmt.Errorf("%w: it begins with block %v, expected the checkpoint %v", ErrHeaders, first.Hash, at)
	}
	if err := first.CheckWork(net.PowLimit); err != nil {
		return nil, fmt.Errorf("%w: header 0: %w", ErrHeaders, err)
	}
	chain, last := protocol.NewHeaderChain(net, at.Height, first, nil), first
	for n := range size/protocol.HeaderSize - 1 {
		if n%10_000 == 0 && ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		h, err := readHeader(lines)
		if err != nil {
			return nil, fmt.Errorf("header %d: %w", n+1, err)
		}
		if err := chain.Add(h, now); err != nil {
			return nil, fmt.Errorf("%w: header %d: %w", ErrHeaders, n+1, err)
		}
		last = h
	}
	work, err := first.Work()
	if err != nil {
		return nil, err
	}
	return &HeaderFile{in, at.Height, chain.Height(), time.Unix(int64(last.Time), 0), work.Add(work, chain.Work())}, nil
}

func readHeader(in io.Reader) (protocol.Header, error) {
	var raw [protocol.HeaderSize]byte
	if _, err := io.ReadFull(in, raw[:]); err != nil {
		return protocol.Header{}, err
	}
	return protocol.ParseHeader(raw[:])
}

// Height is that of the last header.
func (f *HeaderFile) Height() uint32 { return f.last }

// Time is that in the last header, as the miner says.
func (f *HeaderFile) Time() time.Time { return f.time }

// Work is how many hashes it takes on average to find all of these headers.
func (f *HeaderFile) Work() *big.Int { return new(big.Int).Set(f.work) }

// WorkFrom is how many hashes it takes on average to find the headers from that at a height on to the last. ErrNoHeader if the file
// does not have that one.
func (f *HeaderFile) WorkFrom(height uint32) (*big.Int, error) {
	if height < f.first || height > f.last {
		return nil, f.noHeader()
	}
	work := new(big.Int)
	at := int64(height-f.first) * protocol.HeaderSize
	in := bufio.NewReaderSize(io.NewSectionReader(f.in, at, int64(f.last-f.first+1)*protocol.HeaderSize-at), 1<<16)
	for range f.last - height + 1 {
		h, err := readHeader(in)
		if err != nil {
			return nil, err
		}
		one, err := h.Work()
		if err != nil {
			return nil, err
		}
		work.Add(work, one)
	}
	return work, nil
}

func (f *HeaderFile) noHeader() error {
	return fmt.Errorf("%w: the file has the headers of blocks %d to %d", ErrNoHeader, f.first, f.last)
}

// OnBestChain implements Headers.
func (f *HeaderFile) OnBestChain(_ context.Context, height uint32, block chainhash.Hash) error {
	if height < f.first || height > f.last {
		return f.noHeader()
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
