package blockfile

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/protocol"
)

// Sizes in bytes.
const (
	prefixSize   = 8 // magic and length
	checksumSize = 4 // in *.fdb
	// minBlock is a header, a transaction count, and a transaction without inputs
	// and outputs.
	minBlock = protocol.HeaderSize + 1 + 10
	// searchStep is how much is read at once where the next record is searched.
	searchStep = 1 << 20
)

// maxNamed is how many bad records are named; the others are only counted.
const maxNamed = 10

// magics returns what a record of net begins with: the magic of its messages
// (bchd), or the one from before the split, which BCHN and its relatives go on
// writing to disk.
func magics(net *chaincfg.Params) [][]byte {
	message := binary.LittleEndian.AppendUint32(nil, uint32(net.Net))
	switch net.Net {
	case wire.MainNet:
		return [][]byte{message, {0xf9, 0xbe, 0xb4, 0xd9}}
	case wire.TestNet3:
		return [][]byte{message, {0x0b, 0x11, 0x09, 0x07}}
	case wire.TestNet4: // also chipnet's
		return [][]byte{message, {0xcd, 0x22, 0xa7, 0x92}}
	case wire.TestNet: // regtest's
		return [][]byte{message, {0xfa, 0xbf, 0xb5, 0xda}}
	}
	return [][]byte{message}
}

// record is a block in a file.
type record struct {
	at     location
	hash   chainhash.Hash
	prev   chainhash.Hash
	bits   uint32
	time   uint32
	sought bool // it was searched for, since it does not follow another record
}

// header is what is kept of the block's.
func (r *record) header() protocol.Header {
	return protocol.Header{Hash: r.hash, PrevBlock: r.prev, Time: r.time, Bits: r.bits}
}

// location is where a block lies, without its prefix.
type location struct {
	offset int64
	file   uint32 // index in Chain.files
	size   uint32 // bytes
}

func (at location) end() int64 { return at.offset + int64(at.size) }

// scanner reads the records of one file after the other. It belongs to one
// goroutine.
type scanner struct {
	magics   [][]byte
	limit    *big.Int // the easiest target
	checksum int64    // bytes behind each block

	file *os.File
	size int64  // of file
	buf  []byte // of search, made when needed
}

// scanned is what is in a file.
type scanned struct {
	records []record
	size    int64
	badRecords
}

// badRecords counts the records that are of no use.
type badRecords struct {
	count int
	named []error // some of them
}

func (b *badRecords) add(err error) {
	b.count++
	if len(b.named) < maxNamed {
		b.named = append(b.named, err)
	}
}

// scan finds the records of a file, which is the one with that index. It reads only the
// header of each. The error is one of reading.
func (s *scanner) scan(ctx context.Context, path string, index uint32) (found scanned, err error) {
	if s.file, err = os.Open(path); err != nil {
		return found, err
	}
	defer func() { err = errors.Join(err, s.file.Close()) }()
	info, err := s.file.Stat()
	if err != nil {
		return found, err
	}
	s.size, found.size = info.Size(), info.Size()

	sought := false
	last := int64(0) // where the search begins if no record follows the last one
	for at := int64(0); at < s.size; {
		if err := ctx.Err(); err != nil {
			return found, err
		}
		r, verdict, err := s.record(at)
		if err != nil {
			return found, err
		}
		if verdict == nil {
			r.at.file, r.sought = index, sought
			found.records = append(found.records, r)
			at, sought, last = r.at.end()+s.checksum, false, r.at.offset
			continue
		}
		if !sought && !errors.Is(verdict, errNoRecord) {
			found.add(fmt.Errorf("%s, byte %d: %w", path, at, verdict))
		}
		if !sought && errors.Is(verdict, protocol.ErrWork) {
			at = r.at.end() + s.checksum
			continue
		}
		// The last record may be a torn one with others over its end.
		from := at + 1
		if !sought && errors.Is(verdict, errNoRecord) && !errors.Is(verdict, errZeros) {
			from = last
		}
		if at, err = s.search(from); err != nil {
			return found, err
		}
		sought = true
	}
	return found, nil
}

// What is wrong with bytes that should be a record.
var (
	errNoRecord = errors.New("no record begins here")
	errZeros    = fmt.Errorf("%w: zeros", errNoRecord)
	errTorn     = errors.New("torn record")
)

// record reads the prefix and the header of the record at an offset. If it is
// none of use, verdict says why: errNoRecord, errTorn or protocol.ErrWork. Only
// with the last of these the record's length is to be believed. Bytes that are
// too few for a record are as good as zeros.
func (s *scanner) record(at int64) (r record, verdict, err error) {
	var raw [prefixSize + protocol.HeaderSize]byte
	n, err := s.file.ReadAt(raw[:], at)
	if err != nil && !errors.Is(err, io.EOF) {
		return r, nil, err
	}
	switch {
	case n < prefixSize || binary.LittleEndian.Uint32(raw[:]) == 0:
		return r, errZeros, nil
	case !s.isMagic(raw[:4]):
		return r, errNoRecord, nil
	}
	r.at = location{offset: at + prefixSize, size: binary.LittleEndian.Uint32(raw[4:])}
	switch {
	case r.at.size < minBlock:
		return r, fmt.Errorf("%w: expected a block of %d bytes at least, got a length of %d", errTorn, minBlock, r.at.size), nil
	case r.at.end() > s.size:
		return r, fmt.Errorf("%w: a block of %d bytes ends behind the file", errTorn, r.at.size), nil
	}
	header, err := protocol.ParseHeader(raw[prefixSize:])
	if err != nil {
		return r, nil, err
	}
	r.hash, r.prev, r.bits, r.time = header.Hash, header.PrevBlock, header.Bits, header.Time
	return r, header.CheckWork(s.limit), nil
}

func (s *scanner) isMagic(b []byte) bool {
	for _, magic := range s.magics {
		if bytes.Equal(b, magic) {
			return true
		}
	}
	return false
}

// search returns the offset of the next magic, at which a record may begin, or
// that of the end of the file.
func (s *scanner) search(from int64) (int64, error) {
	if s.buf == nil {
		s.buf = make([]byte, searchStep)
	}
	for from < s.size {
		n, err := s.file.ReadAt(s.buf, from)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		first := -1
		for _, magic := range s.magics {
			if i := bytes.Index(s.buf[:n], magic); i >= 0 && (first < 0 || i < first) {
				first = i
			}
		}
		switch {
		case first >= 0:
			return from + int64(first), nil
		case n < len(s.buf):
			return s.size, nil
		}
		from += int64(n) - 3 // a magic may begin in the last three bytes
	}
	return s.size, nil
}
