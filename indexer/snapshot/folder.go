package snapshot

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/badgerdb"
	"github.com/keytree-bch/keytree/graph/durable"
)

// What stands beside the graph's folder while it is made of a snapshot. The graph is made in a folder of its
// own, which gets the right name when it is whole and checked: whenever the process is killed, there is either
// no graph, or that.
const (
	loadingSuffix  = ".loading"  // a graph in the making
	downloadSuffix = ".download" // the snapshot, as far as it is there
)

// Config is an index that begins with a snapshot.
type Config struct {
	Dir        string // of the graph
	Params     graph.Params
	Graph      graph.Options
	From       string // a file, or an http or https URL
	Expected   Expected
	Log        zerolog.Logger
	OnProgress OnProgress
}

// Open opens the graph in the folder, and makes it of the snapshot first if there is none, or one
// without a block. A graph that is there stays as it is: it has to have the expected state, if that is known, and
// the snapshot is not looked at. So a server can be started again and again with the same
// settings.
//
// Nothing is in the folder before the snapshot has been read to its end, and all of it
// was found right. What an earlier call has begun and not finished is made anew; a download goes on where
// it was. ErrRefused; graph.ErrMismatch and the other errors of graph.Open; the context's.
func Open(ctx context.Context, c Config) (*graph.Graph, error) {
	g, err := c.existing()
	if g != nil || err != nil {
		return g, err
	}
	if err := c.load(ctx); err != nil {
		return nil, err
	}
	return graph.Open(c.Dir, c.Params, c.Graph)
}

// existing opens the graph if there is one with a block; otherwise the graph is nil, and the folder
// is not there.
func (c *Config) existing() (*graph.Graph, error) {
	if _, err := os.Stat(c.Dir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	g, err := graph.Open(c.Dir, c.Params, c.Graph)
	if err != nil {
		return nil, err
	}
	tip, started := g.Tip()
	if !started {
		if err := g.Close(); err != nil {
			return nil, err
		}
		return nil, os.RemoveAll(c.Dir)
	}
	if err := c.agrees(g, tip); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	c.Log.Info().Uint32("height", tip.Height).Hex("state_hash", tip.StateHash[:]).Msg("the data folder has an index already, which goes on; the snapshot is not looked at")
	return g, nil
}

// agrees returns nil if a graph has the state that is expected, or none is.
func (c *Config) agrees(g *graph.Graph, tip graph.Tip) error {
	want := c.Expected.State
	if want == nil {
		return nil
	}
	const do = "remove this folder to begin with the snapshot, or leave out --from-snapshot to go on with what is there"
	if tip.Height < want.Height {
		return fmt.Errorf("the index in %s ends at height %d, below that of the snapshot, %d: %s", c.Dir, tip.Height, want.Height, do)
	}
	if want.Height < c.Params.StartHeight {
		return fmt.Errorf("the index in %s begins at height %d, above that of the state that is expected, %d: %s", c.Dir, c.Params.StartHeight, want.Height, do)
	}
	has, err := tipAt(g, want.Height)
	if err == nil && has.StateHash != want.Hash {
		err = fmt.Errorf("the index in %s has state hash %s at height %d, expected %x: %s", c.Dir, hex.EncodeToString(has.StateHash[:]), want.Height, want.Hash, do)
	}
	return err
}

// load makes the graph's folder of the snapshot. It has the folder in the making locked meanwhile,
// as a graph that is open.
func (c *Config) load(ctx context.Context) (err error) {
	making := c.Dir + loadingSuffix
	if err := badgerdb.InUse(making); errors.Is(err, badgerdb.ErrLocked) {
		return err
	}
	if err := os.RemoveAll(making); err != nil {
		return err
	}
	g, err := graph.Open(making, c.Params, c.Graph)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.Close(), os.RemoveAll(making))
		}
	}()
	file, err := c.open(ctx)
	if err != nil {
		return err
	}
	err = errors.Join(c.fill(ctx, g, file), file.Close())
	if err == nil {
		err = g.Close()
	}
	if err == nil {
		err = durable.Rename(making, c.Dir)
	}
	// What was refused once would be again; what was interrupted goes on with the next call.
	if c.isURL() && (err == nil || errors.Is(err, ErrRefused)) {
		err = errors.Join(err, c.download().remove())
	}
	return err
}

// open opens the file of the snapshot, which is downloaded first if it is somewhere else.
func (c *Config) open(ctx context.Context) (*os.File, error) {
	if !c.isURL() {
		return os.Open(c.From)
	}
	d := c.download()
	if err := d.get(ctx); err != nil {
		return nil, err
	}
	return os.Open(d.path)
}

// fill applies the snapshot in a file to a graph that has no block.
func (c *Config) fill(ctx context.Context, g *graph.Graph, file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	r, err := NewReader(file, info.Size(), c.Graph.Memory)
	if err != nil {
		return err
	}
	defer r.Close()
	head := r.Head()
	if err := c.Expected.Check(&head, c.Params.Network, c.Params.StartHeight); err != nil {
		return err
	}
	m := newMeter(nil, Progress{})
	if err := Load(ctx, r, g, LoadOptions{Memory: c.Graph.Memory, OnProgress: c.OnProgress}); err != nil {
		return err
	}
	c.Log.Info().Uint32("height", head.State.Height).Stringer("block", head.State.Block).Hex("state_hash", head.State.StateHash[:]).
		Stringer("took", m.elapsed()).Int64("bytes", info.Size()).Msg("loaded the snapshot; the index goes on from here")
	return nil
}
