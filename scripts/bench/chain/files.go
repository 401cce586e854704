package chain

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// diskMagic begins each block in a regtest node's files. Unlike on the wire, BCHN
// writes the bytes of the original Bitcoin network's.
var diskMagic = []byte{0xfa, 0xbf, 0xb5, 0xda}

// fileSize is what a node lets a block file have at most, in bytes.
const fileSize = 128 << 20

// FileWriter writes blocks the way a node keeps them: blk00000.dat and so on in
// one folder, each record the network's magic (4 bytes), the length (4 bytes,
// little-endian) and the block. A BCHN takes such files with -loadblock=FILE, or
// in its own folder with -reindex.
type FileWriter struct {
	dir   string
	file  *os.File // nil before the first block
	files int      // begun
	size  int64    // of the file
}

// NewFileWriter returns a writer into dir, which must exist and have no block
// files yet.
func NewFileWriter(dir string) (*FileWriter, error) {
	found, err := filepath.Glob(filepath.Join(dir, "blk*.dat"))
	if err != nil {
		return nil, fmt.Errorf("folder for block files: %w", err)
	}
	if len(found) > 0 {
		return nil, fmt.Errorf("expected a folder without block files, %s has %d; remove them or choose another", dir, len(found))
	}
	return &FileWriter{dir: dir}, nil
}

// Write appends a block.
func (w *FileWriter) Write(raw []byte) error {
	const head = 8
	if w.file == nil || w.size+head+int64(len(raw)) > fileSize {
		if err := w.Close(); err != nil {
			return err
		}
		file, err := os.OpenFile(filepath.Join(w.dir, fmt.Sprintf("blk%05d.dat", w.files)), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			return fmt.Errorf("block file: %w", err)
		}
		w.file, w.size = file, 0
		w.files++
	}
	record := binary.LittleEndian.AppendUint32(diskMagic[:len(diskMagic):len(diskMagic)], uint32(len(raw)))
	for _, part := range [][]byte{record, raw} {
		n, err := w.file.Write(part)
		w.size += int64(n)
		if err != nil {
			return fmt.Errorf("block file: %w", err)
		}
	}
	return nil
}

// Close closes the last file. Nothing is synced: what a power cut takes can be
// made again.
func (w *FileWriter) Close() error {
	if w.file == nil {
		return nil
	}
	file := w.file
	w.file = nil
	if err := file.Close(); err != nil {
		return errors.Join(err, fmt.Errorf("block file %s is incomplete", file.Name()))
	}
	return nil
}
