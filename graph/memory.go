package graph

import (
	"fmt"

	"github.com/keytree-bch/keytree/graph/state"
	"github.com/keytree-bch/keytree/graph/store"
)

// What is held takes about so many bytes.
const (
	keyMemory    = 150 // a key that is or was in a link
	wantedMemory = 24  // what somebody waits for
	batonMemory  = 48  // an open chain of anchors
	spanMemory   = 8   // a block with actions
	// stepMemory is what an action takes while its step is made, what is given with it
	// included, but not its message.
	stepMemory = 550
	// anchorMemory is the same of an anchor, without its transaction.
	anchorMemory = 900
	// stagesMemory is what a stage takes until Badger has it.
	stagesMemory = 4 * store.DefaultStageBytes
)

// Usable is how much of the memory that a process may take, in bytes, can be used: Go keeps some
// of it mapped without using it.
func Usable(memory int64) int64 { return memory - memory/4 }

// MemoryUse is what a graph takes of memory, about, and what it may, in bytes.
type MemoryUse struct {
	Links   int64 // keys that are or were in links, which nothing but memory bounds
	Waiting int64 // what actions wait for, and open chains of anchors
	Fixed   int64 // memtables and caches, whatever there is
	Most    int64 // all of it, with a step under way
}

// Left is about how many more keys have room, 0 at least.
func (m MemoryUse) Left() int64 {
	return max(0, m.Most-m.Fixed-m.Links-m.Waiting-stagesMemory) / keyMemory
}

// Memory returns what the graph takes of memory.
func (g *Graph) Memory() MemoryUse { return g.memoryOf(g.current.Load().state) }

func (g *Graph) memoryOf(s *state.State) MemoryUse {
	return MemoryUse{
		Links:   keyMemory * int64(s.Links.Keys()),
		Waiting: wantedMemory*int64(s.Links.Waits()) + batonMemory*int64(s.Anchors.Open()) + spanMemory*int64(s.Links.Blocks()),
		Fixed:   store.MemTables*g.opt.MemTable + g.opt.BlockCache + g.opt.BlockCache/2,
		Most:    Usable(g.opt.Memory),
	}
}

// hasMemory returns ErrMemory if there is no room for a step that connects blocks.
func (g *Graph) hasMemory(s *state.State, blocks []Block) error {
	need := int64(stagesMemory)
	for i := range blocks {
		b := &blocks[i]
		need += stepMemory*int64(len(b.Actions)) + anchorMemory*int64(len(b.Anchors.Txs))
		for n := range b.Actions {
			need += int64(len(b.Actions[n].Message))
		}
		for n := range b.Anchors.Txs {
			need += int64(len(b.Anchors.Txs[n].Raw))
		}
	}
	m := g.memoryOf(s)
	if all := m.Links + m.Waiting + m.Fixed + need; all > m.Most {
		const mib = 1 << 20
		return fmt.Errorf("%w: blocks %d to %d need %d MiB for a while, %d keys in links hold %d MiB, what waits %d MiB, tables and caches %d MiB, together more than the %d MiB that can be used of %d MiB: allow %d MiB",
			store.ErrMemory, blocks[0].Height, blocks[len(blocks)-1].Height, need/mib, s.Links.Keys(), m.Links/mib, m.Waiting/mib, m.Fixed/mib, m.Most/mib, g.opt.Memory/mib, (all*4/3+mib-1)/mib)
	}
	return nil
}
