// Package proof is what anybody can check offline, without trusting whoever sent it: the proof
// bundle, a file format that shows that transactions are in blocks and follow each other as a chain
// of anchors (protocol/ANCHORS.md §4); and the state proof, which shows what an index has of keys and
// ids as of a block, and that no later revocation up to that block exists (protocol/SPEC.md §13).
//
//	bundle.go      proof bundles
//	state.go       the form of state proofs
//	statetree.go   the part of the map that one shows
//	stateverify.go what it shows, and whether that is so
//
// What never belongs here: a check of what the items of a bundle say about a keyserver,
// which is the auditor's (package keyserver/audit); the network; files.
//
// # The format of a proof bundle
//
// A bundle is a header, items, and a trailer, without anything between or behind
// them. Integers are little-endian, hashes in the order in which they are hashed.
//
//	header   magic     8  "KHCPROOF"
//	         version   1  1
//	         network   1  length of the name that follows, 1 to 32
//	                   …  as in chaincfg.Params.Name: mainnet, testnet3, …
//	         chain    32  txid of the genesis anchor
//	         first     4  number of the anchor that is the first item; 0 is the
//	                      genesis anchor
//	item     mark      1  01
//	         height    4  of the block
//	         header   80  of the block
//	         index     4  of the transaction in the block
//	         branch    1  how many hashes follow, at most 32
//	                   …  the merkle branch, from the bottom, 32 bytes each
//	         size      4  of the transaction in bytes, 65 to 1,000,000
//	         raw       …  the serialized transaction
//	trailer  mark      1  00
//	         count     8  of the items
//	         sum      32  SHA-256 of everything before it
//
// The items are the anchors of a chain in its order: each begins where the one
// before it ended. If the chain is broken by a transaction that is not an anchor
// of it, that one follows as the last item. The trailer lets a file that was cut
// short be told from a whole one. It is no signature: whoever changes an item can
// write a trailer that fits.
//
// A bundle is written and read as a stream, one item in memory at a time.
package proof

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
)

const (
	magic      = "KHCPROOF"
	version    = 1
	maxNetwork = 32

	markItem    = 1
	markTrailer = 0
)

var (
	// ErrTruncated says that a bundle ends before its trailer does: get it again.
	ErrTruncated = errors.New("proof bundle is cut short")
	// ErrFormat says that something is not a proof bundle, or is of a later version.
	ErrFormat = errors.New("not a proof bundle")
	// ErrSum says that a bundle was damaged on its way: get it again.
	ErrSum = errors.New("proof bundle is damaged")
)

// BundleHeader is what a bundle says of itself.
type BundleHeader struct {
	Network string         // as in chaincfg.Params.Name
	Chain   chainhash.Hash // txid of the genesis anchor
	First   uint32         // number in the chain of the first item; 0 is the genesis anchor
}

// BundleItem shows that a transaction is in a block.
type BundleItem struct {
	Height uint32
	Header [protocol.HeaderSize]byte // of the block
	Index  uint32                    // of the tx in the block
	Branch []chainhash.Hash          // protocol.CheckMerkleBranch
	Raw    []byte                    // the serialized transaction
}

// Append appends the item as a bundle has it. ErrFormat if it cannot be in one.
func (it *BundleItem) Append(b []byte) ([]byte, error) {
	return it.appendUnmarked(append(b, markItem))
}

func (it *BundleItem) appendUnmarked(b []byte) ([]byte, error) {
	if len(it.Branch) > protocol.MaxBranch {
		return b, fmt.Errorf("%w: a branch has at most %d hashes, got %d", ErrFormat, protocol.MaxBranch, len(it.Branch))
	}
	if err := checkSize(uint64(len(it.Raw))); err != nil {
		return b, err
	}
	b = binary.LittleEndian.AppendUint32(b, it.Height)
	b = append(b, it.Header[:]...)
	b = binary.LittleEndian.AppendUint32(b, it.Index)
	b = append(b, byte(len(it.Branch)))
	for i := range it.Branch {
		b = append(b, it.Branch[i][:]...)
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(len(it.Raw)))
	return append(b, it.Raw...), nil
}

func checkSize(size uint64) error {
	if size < protocol.MinTxSize || size > protocol.MaxTxSize {
		return fmt.Errorf("%w: a transaction has %d to %d bytes, got %d", ErrFormat, protocol.MinTxSize, protocol.MaxTxSize, size)
	}
	return nil
}

// BundleWriter writes a bundle. One goroutine uses it at a time.
type BundleWriter struct {
	out   io.Writer
	sum   hash.Hash
	count uint64
	buf   []byte
}

// NewBundleWriter begins a bundle on out, which is written to once for the header, each
// item, and the trailer.
func NewBundleWriter(out io.Writer, h BundleHeader) (*BundleWriter, error) {
	if len(h.Network) == 0 || len(h.Network) > maxNetwork {
		return nil, fmt.Errorf("%w: the name of a network has 1 to %d bytes, got %d", ErrFormat, maxNetwork, len(h.Network))
	}
	w := &BundleWriter{out: out, sum: sha256.New()}
	b := append([]byte(magic), version, byte(len(h.Network)))
	b = append(b, h.Network...)
	b = append(b, h.Chain[:]...)
	return w, w.write(binary.LittleEndian.AppendUint32(b, h.First))
}

func (w *BundleWriter) write(b []byte) error {
	w.sum.Write(b)
	_, err := w.out.Write(b)
	return err
}

// Write adds an item. ErrFormat if it cannot be in a bundle: then nothing was
// written.
func (w *BundleWriter) Write(it *BundleItem) error {
	var err error
	if w.buf, err = it.Append(w.buf[:0]); err != nil {
		return err
	}
	w.count++
	return w.write(w.buf)
}

// Close writes the trailer. It does not close what the bundle is written to.
func (w *BundleWriter) Close() error {
	if err := w.write(binary.LittleEndian.AppendUint64([]byte{markTrailer}, w.count)); err != nil {
		return err
	}
	_, err := w.out.Write(w.sum.Sum(nil))
	return err
}

// BundleReader reads a bundle. One goroutine uses it at a time.
type BundleReader struct {
	BundleHeader
	in scanner
}

// NewBundleReader reads the beginning of a bundle. The error wraps ErrTruncated,
// ErrFormat, or what in returned.
func NewBundleReader(in io.Reader) (*BundleReader, error) {
	r := &BundleReader{in: scanner{in: bufio.NewReader(in), sum: sha256.New()}}
	start := make([]byte, len(magic)+2)
	if err := r.in.read(start, "header"); err != nil {
		return nil, err
	}
	if string(start[:len(magic)]) != magic {
		return nil, fmt.Errorf("%w: expected it to begin with %q, got %q", ErrFormat, magic, start[:len(magic)])
	}
	if v := start[len(magic)]; v != version {
		return nil, fmt.Errorf("%w: expected version %d, got %d: is this keytree too old?", ErrFormat, version, v)
	}
	size := int(start[len(magic)+1])
	if size == 0 || size > maxNetwork {
		return nil, fmt.Errorf("%w: the name of a network has 1 to %d bytes, got %d", ErrFormat, maxNetwork, size)
	}
	rest := make([]byte, size+chainhash.HashSize+4)
	if err := r.in.read(rest, "header"); err != nil {
		return nil, err
	}
	r.Network = string(rest[:size])
	copy(r.Chain[:], rest[size:])
	r.First = binary.LittleEndian.Uint32(rest[size+chainhash.HashSize:])
	return r, nil
}

// Items iterates over the items, once. Those that come before an error are as
// they were in the file, but only when the iteration ends without one is the
// bundle known to be whole. The error, with which the iteration ends, wraps
// ErrTruncated, ErrFormat, ErrSum or what the underlying reader returned, and
// says at which item and byte. Each item has memory of its own.
func (r *BundleReader) Items() iter.Seq2[*BundleItem, error] {
	return func(yield func(*BundleItem, error) bool) {
		for n := uint64(0); ; n++ {
			it, err := r.in.item(fmt.Sprintf("item %d", n))
			if err == nil && it == nil {
				err = r.in.trailer(n)
				if err == nil {
					return
				}
			}
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(it, nil) {
				return
			}
		}
	}
}

// CopyBundle copies a bundle and returns how many items it has. The copy is whole if there
// is no error; the error is one of NewBundleReader and Items, or of out.
func CopyBundle(out io.Writer, in io.Reader) (items int, err error) {
	r, err := NewBundleReader(io.TeeReader(in, out))
	if err != nil {
		return 0, err
	}
	for _, err := range r.Items() {
		if err != nil {
			return items, err
		}
		items++
	}
	return items, nil
}

// ReadBundleItem reads one item as Append writes it: from a file that holds items one
// behind the other. io.EOF if in ends before it.
func ReadBundleItem(in *bufio.Reader) (*BundleItem, error) {
	if _, err := in.Peek(1); err != nil {
		return nil, err
	}
	s := scanner{in: in}
	it, err := s.item("item")
	if err == nil && it == nil {
		err = fmt.Errorf("%w: expected an item, got a trailer", ErrFormat)
	}
	return it, err
}

// scanner reads the parts of a bundle.
type scanner struct {
	in  *bufio.Reader
	sum hash.Hash // of what was read; nil if nobody asks
	off int64     // bytes read
}

// read fills b, a part of what is named.
func (s *scanner) read(b []byte, what string) error {
	n, err := io.ReadFull(s.in, b)
	s.off += int64(n)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ends at byte %d, within the %s", ErrTruncated, s.off, what)
	}
	if err != nil {
		return fmt.Errorf("reading a proof bundle, byte %d, %s: %w", s.off, what, err)
	}
	if s.sum != nil {
		s.sum.Write(b)
	}
	return nil
}

// item reads an item; nil if a trailer begins instead.
func (s *scanner) item(what string) (*BundleItem, error) {
	var mark [1]byte
	if err := s.read(mark[:], what+" or trailer"); err != nil {
		return nil, err
	}
	switch mark[0] {
	case markTrailer:
		return nil, nil
	case markItem:
	default:
		return nil, fmt.Errorf("%w: %s, byte %d: expected an item (%02x) or the trailer (%02x), got %02x", ErrFormat, what, s.off-1, markItem, markTrailer, mark[0])
	}
	var it BundleItem
	var fixed [4 + protocol.HeaderSize + 4 + 1]byte
	if err := s.read(fixed[:], what); err != nil {
		return nil, err
	}
	it.Height = binary.LittleEndian.Uint32(fixed[:])
	it.Header = [protocol.HeaderSize]byte(fixed[4:])
	it.Index = binary.LittleEndian.Uint32(fixed[4+protocol.HeaderSize:])
	hashes := int(fixed[len(fixed)-1])
	if hashes > protocol.MaxBranch {
		return nil, fmt.Errorf("%w: %s: a branch has at most %d hashes, got %d", ErrFormat, what, protocol.MaxBranch, hashes)
	}
	it.Branch = make([]chainhash.Hash, hashes)
	for i := range it.Branch {
		if err := s.read(it.Branch[i][:], what); err != nil {
			return nil, err
		}
	}
	var length [4]byte
	if err := s.read(length[:], what); err != nil {
		return nil, err
	}
	size := uint64(binary.LittleEndian.Uint32(length[:]))
	if err := checkSize(size); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	for got := 0; got < int(size); { // in pieces: as much memory as was received
		piece := min(int(size)-got, 1<<14)
		it.Raw = append(it.Raw, make([]byte, piece)...)
		if err := s.read(it.Raw[got:], what); err != nil {
			return nil, err
		}
		got += piece
	}
	return &it, nil
}

// trailer reads what is behind the trailer's mark, to the end.
func (s *scanner) trailer(count uint64) error {
	var b [8]byte
	if err := s.read(b[:], "trailer"); err != nil {
		return err
	}
	want := s.sum.Sum(nil)
	if announced := binary.LittleEndian.Uint64(b[:]); announced != count {
		return fmt.Errorf("%w: the trailer counts %d items, the bundle has %d", ErrSum, announced, count)
	}
	var sum [sha256.Size]byte
	if err := s.read(sum[:], "trailer"); err != nil {
		return err
	}
	if string(want) != string(sum[:]) {
		return fmt.Errorf("%w: SHA-256 is %x, the trailer says %x", ErrSum, want, sum)
	}
	if _, err := s.in.ReadByte(); err == nil {
		return fmt.Errorf("%w: bytes follow the trailer, which ends at byte %d", ErrFormat, s.off)
	} else if !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading a proof bundle, byte %d, behind the trailer: %w", s.off, err)
	}
	return nil
}
