package snapshot

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/keytree-bch/keytree/protocol"
)

// Writer writes a snapshot, block by block. It belongs to one goroutine.
type Writer struct {
	out    io.Writer // what is packed, and its checksum
	sum    hash.Hash // of all that out got
	packer *zstd.Encoder
	w      *bufio.Writer // what is to be packed; its errors come with endPart
}

// NewWriter begins a snapshot on out. Close it when it has all blocks.
func NewWriter(out io.Writer, head *Head) (*Writer, error) {
	if len(head.Network) > maxNetwork || len(head.Proof) > maxProof {
		return nil, fmt.Errorf("snapshot: expected a network's name of at most %d bytes and a proof of at most %d", maxNetwork, maxProof)
	}
	s := &Writer{sum: sha256.New()}
	s.out = io.MultiWriter(out, s.sum)
	if _, err := io.WriteString(s.out, magic); err != nil {
		return nil, err
	}
	var err error
	if s.packer, err = zstd.NewWriter(s.out, zstd.WithWindowSize(maxWindow), zstd.WithEncoderConcurrency(2)); err != nil {
		return nil, err
	}
	s.w = bufio.NewWriterSize(s.packer, 1<<16)
	s.w.WriteByte(byte(len(head.Network)))
	s.w.WriteString(head.Network)
	s.w.WriteByte(protocol.RulesVersion)
	s.uint32(head.Start)
	s.w.Write(head.Before[:])
	s.uint32(head.State.Height)
	s.w.Write(head.State.Block[:])
	s.w.Write(head.State.StateHash[:])
	s.w.Write(head.State.StateRoot[:])
	s.uint32(uint32(len(head.Proof)))
	s.w.Write(head.Proof)
	if err := s.endPart(); err != nil {
		s.Abandon()
		return nil, err
	}
	return s, nil
}

// endPart has what was written be unpacked without what follows, so that who reads a damaged file can tell where.
func (s *Writer) endPart() error {
	if err := s.w.Flush(); err != nil {
		return err
	}
	return s.packer.Flush()
}

// Add adds the next block. protocol.ErrMerkleRoot if its tree is not that of its transactions.
func (s *Writer) Add(b *Block) error {
	header := serialized(&b.Header)
	s.w.Write(header[:4])
	s.w.Write(header[4+32:])
	s.uvarint(uint64(len(b.Txs)))
	next := uint32(0) // lowest index that can follow
	for i := range b.Txs {
		t := &b.Txs[i]
		s.uvarint(uint64(t.Index - next))
		next = t.Index + 1
		s.tx(t)
	}
	if len(b.Txs) > 0 {
		s.w.WriteByte(byte(b.Merkle.Levels()))
		beside, err := b.Merkle.Beside(b.indices()...)
		if err != nil {
			return fmt.Errorf("block %v at height %d: %w", b.Header.Hash, b.Height, err)
		}
		for i := range beside {
			s.w.Write(beside[i][:])
		}
	}
	s.w.Write(b.StateHash[:])
	return s.endPart()
}

func (s *Writer) tx(t *Tx) {
	var flags byte
	if t.Acted {
		flags |= flagActed
	}
	if t.Anchors {
		flags |= flagAnchors
	}
	if len(t.Spent) > 0 {
		flags |= flagSpent
	}
	s.w.WriteByte(flags)
	s.bytes(t.Raw)
	if len(t.Spent) == 0 {
		return
	}
	s.uvarint(uint64(len(t.Spent)))
	for _, o := range t.Spent {
		s.w.Write(binary.LittleEndian.AppendUint64(nil, uint64(o.Value)))
		s.bytes(o.Script)
	}
}

func (s *Writer) uint32(n uint32) { s.w.Write(binary.LittleEndian.AppendUint32(nil, n)) }

func (s *Writer) uvarint(n uint64) { s.w.Write(binary.AppendUvarint(nil, n)) }

func (s *Writer) bytes(b []byte) {
	s.uvarint(uint64(len(b)))
	s.w.Write(b)
}

// Close ends the snapshot. It is not whole before that has returned nil.
func (s *Writer) Close() error {
	if err := s.packer.Close(); err != nil {
		return err
	}
	_, err := s.out.Write(s.sum.Sum(nil))
	return err
}

// Abandon gives up a snapshot that is not to be ended.
func (s *Writer) Abandon() {
	s.packer.Reset(io.Discard)
	s.packer.Close() // ends its goroutines; there is nothing to be written
}
