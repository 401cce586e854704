package graph

import (
	"fmt"

	"github.com/keytree-bch/keytree/graph/state"
	"github.com/keytree-bch/keytree/graph/store"
)

// What is held takes about so many bytes.
const (
	keyMemory    = 140 // a key that is or was in a link
	recordMemory = 60  // a record of the state root: one for each key, and one for each id
	// recordsPerTwoKeys is how many there are of a link alone.
	recordsPerTwoKeys = 3
	wantedMemory      = 24 // what somebody waits for
	batonMemory       = 48 // an open chain of anchors
	spanMemory        = 16 // a block with actions
	// stepMemory is what an action takes while its step is made, what is given with it
	// included, but not its message.
	stepMemory = 600
	// anchorMemory is the same of an anchor, without its transaction.
	anchorMemory = 900
	// copiedMemory is what an action copies at most of what is held of links, while the version
	// before is held as well.
	copiedMemory = 8 << 10
	// stagesMemory is what a stage takes until Badger has it.
	stagesMemory = 4 * store.DefaultStageBytes
)

// Usable is how much of the memory that a process may take, in bytes, can be used: Go keeps some
// of it mapped without using it.
func Usable(memory int64) int64 { return memory - memory/4 }

// MemoryUse is what a graph takes of memory, about, and what it may, in bytes.
type MemoryUse struct {
	Links   int64 // keys that are or were in links, and what the state root is made of, which nothing but memory bounds
	Waiting int64 // what actions wait for, and open chains of anchors
	Pending int64 // what is supposed of the next block; it gives way to blocks
	Proofs  int64 // maps as of older blocks, for proofs (Options.ProofMemory); they give way to all else
	// Followed is what is followed (Graph.Follow), and what is noted of it: a fourth of Most at most.
	Followed int64
	Fixed    int64 // memtables, caches, and filters of txids, whatever there is
	Most     int64 // all of it, with a step under way

	key int64 // what one more key in links takes, with its records
}

// Left is about how many more keys have room, 0 at least.
func (m MemoryUse) Left() int64 {
	return max(0, m.Most-(m.all()-m.Proofs)-stagesMemory) / m.key
}

// Memory returns what the graph takes of memory.
func (g *Graph) Memory() MemoryUse { return g.current.Load().memory(g) }

func (s *snapshot) memory(g *Graph) MemoryUse {
	m := g.memoryOf(s.state)
	m.Pending, m.Followed, m.Proofs = s.pending.Load().bytes, g.followers.bytes.Load(), g.proofMaps.bytes()
	return m
}

func (g *Graph) memoryOf(s *state.State) MemoryUse {
	key := int64(keyMemory)
	if s.Links.KeepsRecords() {
		key += recordsPerTwoKeys * recordMemory / 2
	}
	return MemoryUse{
		key:     key,
		Links:   keyMemory*int64(s.Links.Keys()) + recordMemory*int64(s.Links.Records()),
		Waiting: wantedMemory*int64(s.Links.Waits()) + batonMemory*int64(s.Anchors.Open()) + spanMemory*int64(s.Links.Blocks()),
		Fixed:   store.MemTables*g.opt.MemTable + g.opt.BlockCache + g.opt.BlockCache/2 + store.Filters(g.opt.Memory),
		Most:    Usable(g.opt.Memory),
	}
}

// stepNeeds is what a step that applies blocks takes, in bytes.
func stepNeeds(blocks []Block) int64 {
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
	return need
}

// copiedRecords is what a step of so many actions copies of what the state root is made of, which is held
// as it was as well: a page and the way to it for each of four records, and all at most.
func copiedRecords(s *state.State, actions int) int64 {
	const change = 1500 // a page of package statemap, and what is above it
	return min(recordMemory*int64(s.Links.Records()), 4*change*int64(actions))
}

// memoryWith is base.memory, once maps for proofs have given way to what needs so much, if they have to.
func (g *Graph) memoryWith(base *snapshot, need int64) MemoryUse {
	m := base.memory(g)
	if m.all()+need > m.Most && m.Proofs > 0 {
		g.proofMaps.giveWay()
		m.Proofs = 0
	}
	return m
}

// hasMemory returns ErrMemory if there is no room for a step that connects blocks to a snapshot. Maps for proofs, and then
// what is pending, give way to them.
func (g *Graph) hasMemory(base *snapshot, blocks []Block) error {
	need := stepNeeds(blocks) + copiedRecords(base.state, workOf(blocks).actions)
	m := g.memoryWith(base, need)
	if m.all()+need > m.Most && m.Pending > 0 && g.setPending(base, nothingPending()) == nil {
		m.Pending = 0
	}
	if all := m.all() + need; all > m.Most {
		const mib = 1 << 20
		return fmt.Errorf("%w: blocks %d to %d need %d MiB for a while, %d keys in links hold %d MiB, what waits %d MiB, what is followed %d MiB, tables and caches %d MiB, together more than the %d MiB that can be used of %d MiB: allow %d MiB",
			store.ErrMemory, blocks[0].Height, blocks[len(blocks)-1].Height, need/mib, base.state.Links.Keys(), m.Links/mib, m.Waiting/mib, m.Followed/mib, m.Fixed/mib, m.Most/mib, g.opt.Memory/mib, (all*4/3+mib-1)/mib)
	}
	return nil
}

// all is what is taken.
func (m MemoryUse) all() int64 {
	return m.Links + m.Waiting + m.Pending + m.Proofs + m.Followed + m.Fixed
}

// pendingNeeds returns what a block takes that is supposed to follow a snapshot, in bytes, or ErrMemory if
// there is no room for it beside what is pending.
func (g *Graph) pendingNeeds(base *snapshot, b *Block) (int64, error) {
	m := base.memory(g)
	need := stepNeeds([]Block{*b}) - stagesMemory + min(m.Links, copiedMemory*int64(len(b.Actions)))
	m = g.memoryWith(base, need)
	if all := m.all() + need; all > m.Most {
		const mib = 1 << 20
		return 0, fmt.Errorf("%w: %d pending actions and %d pending anchors need %d MiB, all else %d MiB, together more than the %d MiB that can be used of %d MiB: suppose fewer, or allow %d MiB",
			store.ErrMemory, len(b.Actions), len(b.Anchors.Txs), need/mib, m.all()/mib, m.Most/mib, g.opt.Memory/mib, (all*4/3+mib-1)/mib)
	}
	return need, nil
}
