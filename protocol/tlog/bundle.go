package tlog

import (
	"encoding/binary"
	"fmt"
	"math"
)

// AppendEntry appends an entry to a bundle, behind its length. An entry has at most 65,535
// bytes; a longer one is a mistake of the caller, and panics.
func AppendEntry(bundle, entry []byte) []byte {
	if len(entry) > math.MaxUint16 {
		panic(fmt.Sprintf("tlog: an entry of %d bytes", len(entry)))
	}
	return append(binary.BigEndian.AppendUint16(bundle, uint16(len(entry))), entry...)
}

// ParseBundle returns the entries of a bundle, which has width of them. They share memory with
// it. ErrFormat if there are fewer or more.
func ParseBundle(bundle []byte, width int) ([][]byte, error) {
	entries := make([][]byte, 0, TileWidth)
	for rest := bundle; len(rest) > 0; {
		if len(rest) < 2 || len(rest)-2 < int(binary.BigEndian.Uint16(rest)) || len(entries) == width {
			return nil, fmt.Errorf("%w: expected a bundle of %d entries, got %d, and %d bytes that are none", ErrFormat, width, len(entries), len(rest))
		}
		size := int(binary.BigEndian.Uint16(rest))
		entries, rest = append(entries, rest[2:2+size:2+size]), rest[2+size:]
	}
	if len(entries) != width {
		return nil, fmt.Errorf("%w: expected a bundle of %d entries, got %d", ErrFormat, width, len(entries))
	}
	return entries, nil
}
