package tlog

import (
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// Hash is a SHA-256 hash: of an entry, a node, or a whole tree (RFC 6962 §2.1).
type Hash = tlog.Hash

// TileHeight is the height of all tiles. A full one has 1<<TileHeight hashes.
const TileHeight = 8

// TileWidth is how many hashes a full tile has, and how many entries a full bundle.
const TileWidth = 1 << TileHeight

// maxSize is more entries than any log has. golang.org/x/mod counts the hashes of a tree in an
// int64.
const maxSize = 1 << 61

// Tile names a tile or an entry bundle: L is its level, -1 for a bundle; N counts those of a
// level from 0 on; W is how many hashes or entries it has, 1 to TileWidth. H is TileHeight.
type Tile = tlog.Tile

// NewTile names a tile; an entry bundle if level is -1.
func NewTile(level int, n int64, width int) Tile {
	return Tile{H: TileHeight, L: level, N: n, W: width}
}

// Path is where a tile is below a log's prefix, as tile/0/x001/234 or tile/entries/000.p/7.
func Path(t Tile) string {
	// golang.org/x/mod writes the height, too, and has another word for entries.
	path := strings.TrimPrefix(t.Path(), fmt.Sprintf("tile/%d/", TileHeight))
	if data, ok := strings.CutPrefix(path, "data/"); ok {
		path = "entries/" + data
	}
	return "tile/" + path
}

// maxPath is more bytes than the path of any tile has.
const maxPath = 64

// ParsePath is the inverse of Path. ErrFormat for anything that Path does not write.
func ParsePath(path string) (Tile, error) {
	below, ok := strings.CutPrefix(path, "tile/")
	if entries, is := strings.CutPrefix(below, "entries/"); is {
		below = "data/" + entries
	}
	t, err := tlog.ParseTilePath(fmt.Sprintf("tile/%d/%s", TileHeight, below))
	if !ok || len(path) > maxPath || err != nil || t.L > maxLevel || Path(t) != path {
		return Tile{}, fmt.Errorf("%w: expected a path such as tile/0/x001/234, tile/1/000.p/7 or tile/entries/000, got %.80q", ErrFormat, path)
	}
	return t, nil
}

// maxLevel is the highest level of a tile in a log of fewer than 1<<64 entries.
const maxLevel = 63 / TileHeight

// Within tells whether a tile is in a log of size entries: whether all that it has is there.
func Within(t Tile, size uint64) bool {
	level := max(t.L, 0)
	return uint64(t.N) <= size && uint64(t.N)*TileWidth+uint64(t.W) <= size>>(TileHeight*level)
}

// Tiles are the tiles and bundles that a log has with its first size entries, but not with its
// first before ones, in the order in which a reader may need them: bundles before the hashes
// of their entries, level by level. Partial ones have the width that size gives them.
func Tiles(before, size uint64) []Tile {
	hashes := tlog.NewTiles(TileHeight, int64(before), int64(size))
	var tiles []Tile
	for _, t := range hashes {
		if t.L == 0 {
			tiles = append(tiles, NewTile(-1, t.N, t.W))
		}
	}
	return append(tiles, hashes...)
}
