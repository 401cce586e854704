package tlog

import (
	"context"
	"fmt"

	"github.com/keytree-bch/keytree/protocol/tlog"
)

// Tile returns a tile or an entry bundle, of any width up to what was signed last; ErrNone if
// there is no such tile yet.
func (l *Log) Tile(ctx context.Context, t tlog.Tile) ([]byte, error) {
	l.mu.Lock()
	size := l.signed.Size
	l.mu.Unlock()
	if !tlog.Within(t, size) {
		return nil, fmt.Errorf("%w with %s: the log has %d entries", ErrNone, tlog.Path(t), size)
	}
	first, width := uint64(t.N)*tlog.TileWidth, uint64(t.W)
	if t.L >= 0 {
		hashes, err := l.opt.Tree.TileHashes(ctx, uint(tlog.TileHeight*t.L), first, width)
		tile := make([]byte, 0, len(hashes)*len(tlog.Hash{}))
		for i := range hashes {
			tile = append(tile, hashes[i][:]...)
		}
		return tile, err
	}
	return l.opt.Tree.Bundle(ctx, first, width)
}
