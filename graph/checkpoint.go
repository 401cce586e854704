package graph

import (
	"errors"
	"io/fs"

	"github.com/keytree-bch/keytree/graph/state"
	"github.com/keytree-bch/keytree/graph/store"
)

// A checkpoint is written whenever so many actions and anchors, or blocks, have come since the
// last one, and when the graph is closed: opening reads the checkpoint and applies what came since
// once more. A larger state is written less often, so that it costs an action at most so many
// bytes, whoever has made it large.
const (
	checkpointActions = 100_000
	checkpointBytes   = 400 // per action, if the state is that large
	checkpointBlocks  = 20_000
)

// work is what blocks have that take time to be applied.
type work struct{ blocks, actions int } // anchors count as actions

func workOf(blocks []Block) work {
	w := work{blocks: len(blocks)}
	for i := range blocks {
		w.actions += len(blocks[i].Actions) + len(blocks[i].Anchors.Txs)
	}
	return w
}

func (w work) plus(more work) work { return work{w.blocks + more.blocks, w.actions + more.actions} }

// checkpointed is what is known of the checkpoint.
type checkpointed struct {
	height uint32 // of its block
	since  work   // what has been connected since, at least
}

// noCheckpoint stands for one that is not there, or of no use: it is due.
var noCheckpoint = checkpointed{since: work{blocks: checkpointBlocks}}

// checkpointDue reports whether another checkpoint, of a state, is to be written.
func (g *Graph) checkpointDue(s *state.State) bool {
	most := max(checkpointActions, s.CheckpointSize()/checkpointBytes)
	if g.opt.checkpointActions > 0 {
		most = g.opt.checkpointActions
	}
	return g.checkpoint.since.actions >= most || g.checkpoint.since.blocks >= checkpointBlocks
}

// keepCheckpoint notes that a change has been taken, and writes a checkpoint when it is due.
// Called with writer held.
func (g *Graph) keepCheckpoint(c *change) {
	if c.takesBack {
		if c.next.tip == nil || c.next.tip.Height < g.checkpoint.height {
			g.checkpoint = noCheckpoint
		}
		return // what comes instead is on its way
	}
	g.checkpoint.since = g.checkpoint.since.plus(c.adds)
	if g.checkpointDue(c.next.state) {
		g.writeCheckpoint()
	}
}

// writeCheckpoint writes one of the current snapshot. Called with writer held. That it fails costs
// time at the next start, and nothing else.
func (g *Graph) writeCheckpoint() {
	s := g.current.Load()
	if s.broken != nil || s.tip == nil {
		return
	}
	if err := s.state.WriteCheckpoint(g.db, g.params, s.tip); err != nil {
		g.opt.Log.Warn().Err(err).Uint32("height", s.tip.Height).Msg("no checkpoint could be written: the next start takes longer")
	}
	// Also after an error: it is tried again when the next one is due.
	g.checkpoint = checkpointed{height: s.tip.Height}
}

// load derives the snapshot of the database as it is, from the checkpoint if that is of use.
// ErrMemory if there is no room for its keys.
func (g *Graph) load() (*snapshot, error) {
	txn := g.db.NewTransaction(false)
	s, err := load(txn, g.params)
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
	most := int(g.memoryOf(state.New()).Left())
	if s.tip != nil {
		err := g.loadCheckpoint(s, most)
		if err == nil || errors.Is(err, ErrMemory) {
			return err
		}
		if !errors.Is(err, fs.ErrNotExist) {
			g.opt.Log.Warn().Err(err).Msg("the checkpoint is of no use: reading the database instead")
		}
	}
	g.checkpoint = noCheckpoint
	var err error
	s.state, err = state.Load(s.txn, most)
	return err
}

// loadCheckpoint derives the state from the checkpoint, and the blocks since.
func (g *Graph) loadCheckpoint(s *snapshot, most int) error {
	loaded, height, err := state.ReadCheckpoint(g.db.Opts().Dir, s.txn, g.params, most)
	if err != nil {
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
	if err == nil && loaded.Links.Keys() > most {
		err = ErrMemory
	}
	s.state, g.checkpoint = loaded, found
	return err
}
