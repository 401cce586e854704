package snapshot

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/klauspost/compress/zstd"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/protocol"
)

// blockShare is the part of the memory that the transactions of one block may take.
const blockShare = 4

// What takes memory besides its bytes, until the graph has it.
const (
	txMemory     = 512 // a transaction
	outputMemory = 64  // an output that it spends
)

// Reader reads a snapshot, block by block. It belongs to one goroutine.
type Reader struct {
	head Head
	net  *chaincfg.Params
	most int // bytes that a block may take

	unpacker *zstd.Decoder
	r        *bufio.Reader // what was packed
	packed   *packed
	sum      [sumSize]byte // that packed should have

	height int64 // of the next block
	last   chainhash.Hash
	state  [32]byte // after the block last
	arena  []byte   // what the current block's transactions are made of
	taken  int      // bytes that the current block takes
}

// packed is a snapshot as it is read: but for its last bytes, which are its checksum.
type packed struct {
	r    io.Reader
	sum  hash.Hash
	read int64
}

func (p *packed) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	p.sum.Write(b[:n])
	p.read += int64(n)
	return n, err
}

// NewReader reads the head of a snapshot of size bytes, in file. memory is what the process may take, in bytes,
// 0 for graph.DefaultMemory: a part of it bounds what a block may take. ErrRefused; other errors are the
// file's. Close the reader.
func NewReader(file io.ReaderAt, size, memory int64) (*Reader, error) {
	var begin [len(magic)]byte
	if size < int64(len(magic)+sumSize) {
		return nil, fmt.Errorf("%w: it has %d bytes: it is cut off, or no snapshot", ErrRefused, size)
	}
	if _, err := file.ReadAt(begin[:], 0); err != nil {
		return nil, err
	}
	if string(begin[:]) != magic {
		return nil, fmt.Errorf("%w: expected it to begin with %x, got %x: it is no snapshot, or of another version", ErrRefused, magic, begin)
	}
	s := &Reader{most: int(min(cmp.Or(memory, graph.DefaultMemory)/blockShare, math.MaxInt32))}
	if _, err := file.ReadAt(s.sum[:], size-sumSize); err != nil {
		return nil, err
	}
	s.packed = &packed{sum: sha256.New(), r: io.NewSectionReader(file, int64(len(magic)), size-int64(len(magic)+sumSize))}
	s.packed.sum.Write(begin[:])
	var err error
	s.unpacker, err = zstd.NewReader(bufio.NewReaderSize(s.packed, 1<<16), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderMaxMemory(maxWindow))
	if err != nil {
		return nil, err
	}
	s.r = bufio.NewReaderSize(s.unpacker, 1<<16)
	if err := s.readHead(); err != nil {
		s.Close()
		return nil, fmt.Errorf("%w: its head: %w", ErrRefused, cutOff(err))
	}
	s.height, s.last = int64(s.head.Start), s.head.Before
	return s, nil
}

// cutOff says of the end of what is read that it comes too early.
func cutOff(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Head is what the snapshot says of itself.
func (s *Reader) Head() Head { return s.head }

// Read is how many bytes of the snapshot have been read, of those before its checksum.
func (s *Reader) Read() int64 { return int64(len(magic)) + s.packed.read }

// Close releases what the reader holds. It does not close the file.
func (s *Reader) Close() { s.unpacker.Close() }

func (s *Reader) readHead() error {
	network, err := s.bytes(1, maxNetwork)
	if err != nil {
		return err
	}
	var fixed [1 + 4 + 32 + 4 + 3*32 + 4]byte
	if _, err := io.ReadFull(s.r, fixed[:]); err != nil {
		return err
	}
	h := &s.head
	h.Network = string(network)
	if fixed[0] != protocol.RulesVersion {
		return fmt.Errorf("it was made by rules of version %d, expected %d", fixed[0], protocol.RulesVersion)
	}
	rest := fixed[1:]
	take := func(to []byte) { rest = rest[copy(to, rest):] }
	h.Start, rest = binary.LittleEndian.Uint32(rest), rest[4:]
	take(h.Before[:])
	h.State.Height, rest = binary.LittleEndian.Uint32(rest), rest[4:]
	take(h.State.Block[:])
	take(h.State.StateHash[:])
	take(h.State.StateRoot[:])
	proof := binary.LittleEndian.Uint32(rest)
	if s.net, err = protocol.Network(h.Network); err != nil {
		return err
	}
	switch {
	case h.State.Height < h.Start:
		return fmt.Errorf("it ends at height %d, before it begins at %d", h.State.Height, h.Start)
	case proof > maxProof:
		return fmt.Errorf("its proof has %d bytes, expected at most %d", proof, maxProof)
	case proof > 0:
		h.Proof = make([]byte, proof)
		_, err = io.ReadFull(s.r, h.Proof)
	}
	return err
}

// bytes reads a length of at most most, and as many bytes. The length is one byte, or a uvarint
// if fixed is 0.
func (s *Reader) bytes(fixed, most int) ([]byte, error) {
	size, err := s.size(fixed, most)
	if err != nil {
		return nil, err
	}
	b := make([]byte, size)
	_, err = io.ReadFull(s.r, b)
	return b, cutOff(err)
}

func (s *Reader) size(fixed, most int) (int, error) {
	var n uint64
	var err error
	if fixed == 1 {
		var b byte
		b, err = s.r.ReadByte()
		n = uint64(b)
	} else {
		n, err = s.uvarint()
	}
	if err != nil {
		return 0, cutOff(err)
	}
	if n > uint64(most) {
		return 0, fmt.Errorf("expected at most %d bytes, got %d", most, n)
	}
	return int(n), nil
}

// uvarint reads a number, which has one form only.
func (s *Reader) uvarint() (n uint64, err error) {
	for shift := 0; ; shift += 7 {
		b, err := s.r.ReadByte()
		if err != nil {
			return 0, cutOff(err)
		}
		if shift == 63 && b > 1 || shift > 0 && b == 0 {
			return 0, errors.New("a number is not in its shortest form")
		}
		if n |= uint64(b&0x7f) << shift; b < 0x80 {
			return n, nil
		}
	}
}

// Next returns the next block, io.EOF if there is none and the snapshot was whole. It has checked
// that the block follows the one before, has the work that it claims, and that its transactions are
// in it, at their indices. What it returns holds until the next call. ErrRefused; graph.ErrMemory.
func (s *Reader) Next() (*Block, error) {
	if s.height > int64(s.head.State.Height) {
		return nil, s.end()
	}
	b := &Block{Height: uint32(s.height)}
	if err := s.block(b); err != nil {
		name := fmt.Sprintf("the block behind %v,", s.last)
		if b.Header.Hash != (chainhash.Hash{}) {
			name = "block " + b.Header.Hash.String()
		}
		why := ErrRefused
		if errors.Is(err, graph.ErrMemory) {
			why = errors.New("snapshot") // whether it is as it should be is not known
		}
		return nil, fmt.Errorf("%w: %s at height %d: %w", why, name, b.Height, err)
	}
	s.last, s.state = b.Header.Hash, b.StateHash
	s.height++
	return b, nil
}

func (s *Reader) block(b *Block) (err error) {
	var raw [protocol.HeaderSize]byte
	copy(raw[4:], s.last[:])
	if _, err := io.ReadFull(s.r, raw[:4]); err != nil {
		return cutOff(err)
	}
	if _, err := io.ReadFull(s.r, raw[36:]); err != nil {
		return cutOff(err)
	}
	if b.Header, err = protocol.ParseHeader(raw[:]); err != nil {
		return err
	}
	if err := b.Header.CheckWork(s.net.PowLimit); err != nil {
		return err
	}
	count, err := s.uvarint()
	if err != nil {
		return err
	}
	if count > 0 {
		if err := s.txs(b, count); err != nil {
			return err
		}
	}
	_, err = io.ReadFull(s.r, b.StateHash[:])
	return cutOff(err)
}

// txs reads the block's transactions, and what shows that they are in it.
func (s *Reader) txs(b *Block, count uint64) error {
	s.arena, s.taken = s.arena[:0], 0
	var ends []int
	next := uint64(0) // lowest index that can follow
	for i := range count {
		gap, err := s.uvarint()
		if err != nil {
			return err
		}
		if gap > math.MaxUint32-next {
			return fmt.Errorf("its transaction %d of those that matter has an index of more than 32 bits", i)
		}
		t := Tx{Index: uint32(next + gap)}
		next += gap + 1
		if err := s.tx(&t); err != nil {
			return fmt.Errorf("transaction %d: %w", t.Index, err)
		}
		b.Txs, ends = append(b.Txs, t), append(ends, len(s.arena))
	}
	leaves := make([]protocol.MerkleNode, len(b.Txs))
	begin := 0
	for i := range b.Txs {
		t := &b.Txs[i]
		raw, err := protocol.ParseTx(s.arena[begin:ends[i]])
		if err == nil && len(raw) < protocol.MinTxSize {
			err = fmt.Errorf("%w: a transaction has at least %d bytes, got %d", protocol.ErrMalformed, protocol.MinTxSize, len(raw))
		}
		if err != nil {
			return fmt.Errorf("transaction %d: %w", t.Index, err)
		}
		t.Raw, begin = raw, ends[i]
		leaves[i] = protocol.MerkleNode{Index: t.Index, Hash: raw.TxID()}
	}
	levels, err := s.size(1, protocol.MaxBranch)
	if err != nil {
		return fmt.Errorf("levels of its merkle tree: %w", err)
	}
	var root chainhash.Hash
	b.Merkle, root, err = protocol.GrowMerkleTree(leaves, levels, func() (hash chainhash.Hash, err error) {
		_, err = io.ReadFull(s.r, hash[:])
		return hash, cutOff(err)
	})
	if err == nil && root != b.Header.MerkleRoot {
		err = fmt.Errorf("%w: its transactions lead to %v, its header has %v", protocol.ErrMerkleRoot, root, b.Header.MerkleRoot)
	}
	return err
}

// tx reads a transaction, whose bytes it appends to the arena.
func (s *Reader) tx(t *Tx) error {
	flags, err := s.r.ReadByte()
	if err != nil {
		return cutOff(err)
	}
	if flags&^flagsKnown != 0 || flags&flagSpent != 0 && flags&flagActed == 0 {
		return fmt.Errorf("it has flags %02x, which this version does not know", flags)
	}
	t.Acted, t.Anchors = flags&flagActed != 0, flags&flagAnchors != 0
	size, err := s.size(0, protocol.MaxTxSize)
	if err != nil {
		return err
	}
	if err := s.takes(txMemory + size); err != nil {
		return err
	}
	begin := len(s.arena)
	s.arena = append(s.arena, make([]byte, size)...)
	if _, err := io.ReadFull(s.r, s.arena[begin:]); err != nil {
		return cutOff(err)
	}
	if flags&flagSpent == 0 {
		return nil
	}
	// As many as it has inputs, of more than 40 bytes each.
	count, err := s.size(0, size/40)
	if err != nil {
		return err
	}
	if count == 0 {
		return errors.New("expected outputs that it spends, got none")
	}
	for range count {
		var value [8]byte
		if _, err := io.ReadFull(s.r, value[:]); err != nil {
			return cutOff(err)
		}
		script, err := s.bytes(0, maxScript)
		if err != nil {
			return err
		}
		if err := s.takes(outputMemory + len(script)); err != nil {
			return err
		}
		t.Spent = append(t.Spent, protocol.Output{Value: int64(binary.LittleEndian.Uint64(value[:])), Script: script})
	}
	return nil
}

// takes notes that the current block takes so many bytes more. graph.ErrMemory.
func (s *Reader) takes(bytes int) error {
	if s.taken += bytes; s.taken > s.most {
		return fmt.Errorf("%w: its block takes more than %d bytes", graph.ErrMemory, s.most)
	}
	return nil
}

// end returns io.EOF if nothing follows the last block, and that is what the head says.
func (s *Reader) end() error {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("%w: behind block %v at height %d: %w", ErrRefused, s.last, s.head.State.Height, fmt.Errorf(format, args...))
	}
	if _, err := s.r.ReadByte(); err != io.EOF {
		return refuse("expected the end, got more (%w)", cmp.Or(err, errors.New("bytes follow")))
	}
	if _, err := io.Copy(io.Discard, s.packed); err != nil {
		return err
	}
	if !bytes.Equal(s.packed.sum.Sum(nil), s.sum[:]) {
		return refuse("the checksum of the file is wrong: it was damaged on its way, get it again")
	}
	switch want := &s.head.State; {
	case s.last != want.Block:
		return refuse("its head says block %v", want.Block)
	case s.state != want.StateHash:
		return refuse("its head says state hash %x, got %x", want.StateHash, s.state)
	}
	return io.EOF
}
