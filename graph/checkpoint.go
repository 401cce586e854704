package graph

import "github.com/keytree-bch/keytree/graph/state"

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
func noCheckpoint() checkpointed { return checkpointed{since: work{blocks: checkpointBlocks}} }

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
			g.checkpoint = noCheckpoint()
		}
		return // what comes instead is on its way
	}
	g.checkpoint.since = g.checkpoint.since.plus(c.adds)
	if g.checkpointDue(c.next.state) {
		g.writeCheckpoint()
	}
}

// writeCheckpoint writes one of the current snapshot. Called with writer held. A failure costs
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
