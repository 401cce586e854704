package graph

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sync/errgroup"

	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/graph/state"
	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/graph/txids"
)

// load derives the snapshot of the database as it is, from the checkpoint if that is of use.
// ErrMemory if there is no room for its keys.
func (g *Graph) load() (*snapshot, error) {
	txn := store.NewTxn(g.db.NewTransaction(false))
	s, err := snapshotOf(txn, g.params)
	if err == nil {
		err = g.loadState(s)
	}
	if err != nil {
		txn.Discard()
		return nil, err
	}
	return s, nil
}

func (g *Graph) loadState(s *snapshot) error {
	room := g.room()
	if s.tip != nil {
		err := g.loadCheckpoint(s, room)
		if err == nil || errors.Is(err, ErrMemory) {
			return err
		}
		if !errors.Is(err, fs.ErrNotExist) {
			g.opt.Log.Warn().Err(err).Msg("the checkpoint is of no use: reading the database instead")
		}
	}
	g.checkpoint = noCheckpoint()
	var err error
	if s.state, err = state.Load(s.txn, room, !g.opt.NoStateRoot); err == nil && s.tip != nil {
		err = s.state.CheckRoot(&s.block)
	}
	return err
}

// loadCheckpoint derives the state from the checkpoint, and the blocks since.
func (g *Graph) loadCheckpoint(s *snapshot, room links.Room) error {
	var (
		loaded *state.State
		height uint32
		index  txids.Index
	)
	reading, ctx := errgroup.WithContext(context.Background())
	reading.Go(func() (err error) {
		loaded, height, err = state.ReadCheckpoint(ctx, g.db.Dir(), s.txn, g.params, room)
		return err
	})
	reading.Go(func() (err error) {
		index, err = txids.Load(s.txn, room.Filters)
		return err
	})
	if err := reading.Wait(); err != nil {
		return err
	}
	if g.opt.NoStateRoot {
		loaded.Links.DropRecords()
	} else if !loaded.Links.KeepsRecords() {
		return fmt.Errorf("%w: it was written without the state root", state.ErrCheckpoint)
	}
	if err := loaded.Links.SetIndex(s.txn, index); err != nil {
		return err
	}
	found := checkpointed{height: height}
	record, err := store.ReadBlock(s.txn, height)
	for err == nil && height < s.tip.Height {
		height++
		var actions int
		record, actions, err = loaded.Again(s.txn, height, record)
		found.since = found.since.plus(work{1, actions})
	}
	if keys := loaded.Links.Keys(); err == nil && keys > room.Keys {
		err = fmt.Errorf("%w: there is room for %d keys in links, there are %d", ErrMemory, room.Keys, keys)
	}
	s.state, g.checkpoint = loaded, found
	return err
}

// snapshotOf derives the snapshot that a transaction sees, which reads by it from then on, but for
// its state.
func snapshotOf(txn *store.Txn, params Params) (*snapshot, error) {
	s := newSnapshot()
	s.undoFrom, s.txn = params.StartHeight, txn
	height, err := store.TipHeight(txn)
	if err != nil {
		return nil, err
	}
	if height != nil {
		record, err := store.ReadBlock(txn, *height)
		if err != nil {
			return nil, err
		}
		s.setBlock(*height, record)
	}
	if from, ok, err := store.UndoFrom(txn); err != nil {
		return nil, err
	} else if ok {
		s.undoFrom = from
	}
	return s, nil
}

// room is what of a state may be held: all the memory that is left, by keys or by records.
func (g *Graph) room() links.Room {
	empty := g.memoryOf(state.New(!g.opt.NoStateRoot))
	return links.Room{Keys: int(empty.Left()), Records: int(empty.Left() * empty.key / recordMemory), Filters: int(store.Filters(g.opt.Memory))}
}
