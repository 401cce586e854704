package tlog

import (
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// Prove reads of a log's tiles what joins the tree of its first size entries to that of a
// checkpoint: the root that the checkpoint gives to that size, and the proof of consistency from
// there. The tiles, which read fetches, are checked against the checkpoint: ErrProof if they do not
// have its root. size is at least 1, and at most the checkpoint's.
func Prove(c Checkpoint, size uint64, read func(Tile) ([]byte, error)) (root Hash, proof []Hash, err error) {
	if size == 0 || size > c.Size || c.Size > maxSize {
		return Hash{}, nil, fmt.Errorf("%w: expected 1 to %d entries, got %d", ErrProof, c.Size, size)
	}
	if size == c.Size {
		return c.Root, nil, nil
	}
	reader := &tileReader{read: read}
	hashes := tlog.TileHashReader(tlog.Tree{N: int64(c.Size), Hash: c.Root}, reader)
	if root, err = tlog.TreeHash(int64(size), hashes); err == nil {
		proof, err = tlog.ProveTree(int64(c.Size), int64(size), hashes)
	}
	switch {
	case reader.err != nil:
		return Hash{}, nil, reader.err
	case err != nil:
		return Hash{}, nil, fmt.Errorf("%w: tiles of the checkpoint of %d entries: %w", ErrProof, c.Size, err)
	}
	return root, proof, nil
}

// ProveEntry reads of a log's tiles what shows that the entry at an index, which is below the checkpoint's size, is in
// its tree. It checks them as Prove does.
func ProveEntry(c Checkpoint, index uint64, read func(Tile) ([]byte, error)) (proof []Hash, err error) {
	if index >= c.Size || c.Size > maxSize {
		return nil, fmt.Errorf("%w: there is no entry %d of %d", ErrProof, index, c.Size)
	}
	reader := &tileReader{read: read}
	proof, err = tlog.ProveRecord(int64(c.Size), int64(index), tlog.TileHashReader(tlog.Tree{N: int64(c.Size), Hash: c.Root}, reader))
	switch {
	case reader.err != nil:
		return nil, reader.err
	case err != nil:
		return nil, fmt.Errorf("%w: tiles of the checkpoint of %d entries: %w", ErrProof, c.Size, err)
	}
	return proof, nil
}

// tileReader implements tlog.TileReader for one proof.
type tileReader struct {
	read func(Tile) ([]byte, error)
	err  error // of read
}

func (r *tileReader) Height() int { return TileHeight }

func (r *tileReader) ReadTiles(tiles []Tile) ([][]byte, error) {
	contents := make([][]byte, len(tiles))
	for i, t := range tiles {
		if contents[i], r.err = r.read(t); r.err != nil {
			return nil, r.err
		}
	}
	return contents, nil
}

func (r *tileReader) SaveTiles([]Tile, [][]byte) {}
