package tlog

import (
	"context"
	"fmt"

	xtlog "golang.org/x/mod/sumdb/tlog"

	"github.com/keytree-bch/keytree/protocol/tlog"
)

// Served is the checkpoint that readers get at a time, with what it takes to prove what it covers. It may be used
// concurrently.
type Served struct {
	tlog.Checkpoint
	Signed []byte // the checkpoint with its signatures
	tree   Tree
}

// Served returns the checkpoint that readers get; ErrNone, ErrBehind or ErrForked as Checkpoint has them.
func (l *Log) Served() (*Served, error) {
	signed, _, err := l.Checkpoint()
	if err != nil {
		return nil, err
	}
	c, err := tlog.Stated(signed)
	if err != nil {
		return nil, err
	}
	return &Served{c, signed, l.opt.Tree}, nil
}

// Prove shows that an entry is at an index of the log, counted from 0 on: a proof without extra data. It is made of the
// log's own hashes, and checked. tlog.ErrProof if the checkpoint does not cover the index, or the entry is another there.
func (s *Served) Prove(ctx context.Context, index uint64, entry []byte) (*tlog.Proof, error) {
	p := &tlog.Proof{Index: index, Checkpoint: s.Signed}
	if index < s.Size {
		var err error
		p.Hashes, err = xtlog.ProveRecord(int64(s.Size), int64(index), xtlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
			hashes := make([]tlog.Hash, len(indexes))
			for i, stored := range indexes {
				level, n := xtlog.SplitStoredHashIndex(stored)
				one, err := s.tree.TileHashes(ctx, uint(level), uint64(n), 1)
				if err != nil {
					return nil, err
				}
				hashes[i] = one[0]
			}
			return hashes, nil
		}))
		if err != nil {
			return nil, fmt.Errorf("proving entry %d of %d: %w", index, s.Size, err)
		}
	}
	return p, tlog.CheckInclusion(s.Checkpoint, index, entry, p.Hashes)
}
