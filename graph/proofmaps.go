package graph

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/graph/statemap"
	"github.com/keytree-bch/keytree/graph/store"
)

// proofMaps are the maps under the state root as of some blocks, for proofs: those of the last steps, which share with each
// other what no step has changed, and some that were made again as somebody asked for them. What they take beside that of
// the tip is bounded by Options.ProofMemory, and gives way to blocks: a proof makes again what it needs.
type proofMaps struct {
	budget int64

	// making is held by the one who makes a map again, with its place in this channel: it may take seconds, and as much
	// memory as the tip's.
	making chan struct{}

	mu       sync.Mutex
	recent   []mapVersion       // mu; of the last steps, the oldest first; the last one is the tip's
	again    []mapVersion       // mu; made again, the one asked for last at the end
	reserved int64              // mu; bytes of the one that is being made
	stop     context.CancelFunc // mu; ends the making of it; nil: none is
}

const (
	mostRecent = 1000 // maps of the last steps that are kept: one without actions takes nothing
	mostAgain  = 4    // of those that were made again
)

// mapVersion is the map as of a block.
type mapVersion struct {
	height uint32
	block  chainhash.Hash
	*statemap.Map
	// base is the map of a step from which it was made, perhaps through others: it shares nodes with that. It is the map
	// itself of a step, and nil if it was made of all that is stored.
	base *statemap.Map
}

func ofStep(s *snapshot) mapVersion {
	m := s.state.Links.RecordMap()
	return mapVersion{s.tip.Height, s.tip.Hash, m, m}
}

// beside is about what it takes to hold a version that was made again beside the tip's.
func (v *mapVersion) beside(tip *statemap.Map) int64 {
	if v.base == nil {
		return v.Bytes()
	}
	return min(v.Bytes(), v.Beside(v.base)+tip.Beside(v.base))
}

func newProofMaps(budget int64) *proofMaps {
	return &proofMaps{budget: budget, making: make(chan struct{}, 1)}
}

// published notes that a snapshot is the current one. Maps of blocks that it does not have go.
func (m *proofMaps) published(s *snapshot) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.tip == nil || !s.state.Links.KeepsRecords() {
		m.recent, m.again = nil, nil
		return
	}
	above := func(v mapVersion) bool { return v.height >= s.tip.Height }
	m.recent = append(slices.DeleteFunc(m.recent, above), ofStep(s))
	m.again = slices.DeleteFunc(m.again, above)
	m.trim()
}

// trim drops what is beyond the budget: the oldest of the last steps, and what nobody has asked for longest of those made
// again. These have half of it at least; the one asked for last stays, since there was room to make it. Called with mu held.
func (m *proofMaps) trim() {
	for m.ofRecent()+m.ofAgain() > m.budget || len(m.again) > mostAgain || len(m.recent) > mostRecent {
		switch {
		case len(m.recent) > mostRecent:
			m.recent = slices.Delete(m.recent, 0, 1)
		case len(m.again) > mostAgain, len(m.again) > 1 && m.ofRecent() <= m.budget/2:
			m.again = slices.Delete(m.again, 0, 1)
		case len(m.recent) > 1:
			m.recent = slices.Delete(m.recent, 0, 1)
		case len(m.again) > 1:
			m.again = slices.Delete(m.again, 0, 1)
		default:
			return
		}
	}
}

// ofRecent is what the maps of the last steps take beside that of the tip. Called with mu held.
func (m *proofMaps) ofRecent() (n int64) {
	for i := 1; i < len(m.recent); i++ {
		n += m.recent[i].Beside(m.recent[i-1].Map)
	}
	return n
}

// ofAgain is what those made again take. Called with mu held.
func (m *proofMaps) ofAgain() (n int64) {
	for i := range m.again {
		n += m.again[i].beside(m.recent[len(m.recent)-1].Map)
	}
	return n
}

// bytes is what is held beside the tip's map, with what is being made.
func (m *proofMaps) bytes() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ofRecent() + m.ofAgain() + m.reserved
}

// giveWay drops all but the tip's map, and ends the making of another.
func (m *proofMaps) giveWay() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.recent = slices.Delete(m.recent, 0, max(0, len(m.recent)-1)); m.stop != nil {
		m.stop()
	}
	m.again, m.reserved = nil, 0
}

// find returns the map as of the block of a snapshot at a height, nil if it is not held; and the nearest newer one of the
// snapshot's chain.
func (m *proofMaps) find(s *snapshot, height uint32, block chainhash.Hash) (at *statemap.Map, newer mapVersion, err error) {
	newer = ofStep(s)
	if height == newer.height {
		return newer.Map, newer, nil
	}
	m.mu.Lock()
	held := slices.Concat(m.again, m.recent)
	m.mu.Unlock()
	held = slices.DeleteFunc(held, func(v mapVersion) bool { return v.height < height || v.height >= newer.height })
	slices.SortStableFunc(held, func(a, b mapVersion) int { return cmp.Compare(a.height, b.height) })
	for _, v := range held {
		if v.height == height && v.block == block {
			m.asked(v)
			return v.Map, v, nil
		}
		record, err := store.ReadBlock(s.txn, v.height)
		if err != nil {
			return nil, newer, err
		}
		if record.Hash == v.block {
			return nil, v, nil
		}
	}
	return nil, newer, nil
}

// asked notes that a version was asked for.
func (m *proofMaps) asked(v mapVersion) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if i := slices.Index(m.again, v); i >= 0 {
		m.again = append(slices.Delete(m.again, i, i+1), v)
	}
}

// begin reserves memory for a map that is to be made, and returns the context of making it; end keeps the map, if it is
// not nil, and has to be called.
func (m *proofMaps) begin(ctx context.Context, bytes int64) (making context.Context, end func(*mapVersion)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	making, cancel := context.WithCancel(ctx)
	m.reserved, m.stop = bytes, cancel
	return making, func(v *mapVersion) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if v != nil && making.Err() == nil && len(m.recent) > 0 { // if its block is on the chain no more, nobody finds it
			m.again = append(m.again, *v)
			m.trim()
		}
		m.reserved, m.stop = 0, nil
		cancel()
	}
}

// mapAsOf returns the map as of the block of a snapshot at a height, which has a state root.
func (g *Graph) mapAsOf(ctx context.Context, s *snapshot, past *links.PastRecords, height uint32, block store.Block) (*statemap.Map, error) {
	at, _, err := g.proofMaps.find(s, height, block.Hash)
	if at != nil || err != nil {
		return at, err
	}
	select {
	case g.proofMaps.making <- struct{}{}:
		defer func() { <-g.proofMaps.making }()
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for another map of the state root to be made: %w", ctx.Err())
	}
	at, newer, err := g.proofMaps.find(s, height, block.Hash) // it may have been that one
	if at != nil || err != nil {
		return at, err
	}
	return g.makeMap(ctx, s, past, mapVersion{height: height, block: block.Hash}, newer)
}

// makeMap makes a map that is not held, from the nearest newer one. Called with making held.
func (g *Graph) makeMap(ctx context.Context, s *snapshot, past *links.PastRecords, v, newer mapVersion) (*statemap.Map, error) {
	need, err := g.roomForMap(s)
	if err != nil {
		return nil, err
	}
	making, end := g.proofMaps.begin(ctx, need)
	var made *mapVersion
	defer func() { end(made) }()
	m, fromNewer, err := g.remake(making, s, past, v.height, newer)
	switch {
	case err == nil:
	case ctx.Err() == nil && making.Err() != nil:
		return nil, fmt.Errorf("%w: blocks have come that need the memory in which the records as of block %d were made: ask again", ErrMemory, v.height)
	default:
		return nil, fmt.Errorf("the records as of block %d: %w", v.height, err)
	}
	if v.Map = &m; fromNewer {
		v.base = newer.base
	}
	made = &v
	return v.Map, nil
}

// remake makes the map as of a height: from a newer one, as long as there are undo records, if that is less work than
// from all that is stored.
func (g *Graph) remake(ctx context.Context, s *snapshot, past *links.PastRecords, height uint32, newer mapVersion) (m statemap.Map, fromNewer bool, err error) {
	most, keys := g.opt.ProofRebuildKeys, s.state.Links.Keys()
	if height+1 >= s.undoFrom {
		limit := most
		if keys <= most { // else there is no other way
			const few, dear = 10_000, 8 // to look for a record takes so many times as long as to pass it
			limit = min(most, max(few, newer.Len()/dear))
		}
		m, done, err := past.Back(ctx, newer.Map, newer.height, limit)
		if done || err != nil {
			return m, true, err
		}
	}
	if keys > most {
		return m, false, fmt.Errorf("%w: %d keys would have to be read again, at most %d are: ask as of a later block, or allow more (Options.ProofRebuildKeys)", ErrRebuild, keys, most)
	}
	m, err = past.Rebuild(ctx)
	return m, false, err
}

// roomForMap returns what a map takes while it is made, or ErrMemory if there is no room for it: those that are held give
// way to it.
func (g *Graph) roomForMap(s *snapshot) (need int64, err error) {
	const leaf = 44 + 72 // statemap.Builder's, or a change of one
	need = s.state.Links.RecordMap().Bytes() + leaf*int64(s.state.Links.Records())
	m := g.memoryWith(g.current.Load(), need)
	if all := m.all() + need; all > m.Most {
		const mib = 1 << 20
		return 0, fmt.Errorf("%w: the records as of an older block need %d MiB, all else %d MiB, together more than the %d MiB that can be used of %d MiB: ask as of a later block, or allow %d MiB",
			ErrMemory, need/mib, m.all()/mib, m.Most/mib, g.opt.Memory/mib, (all*4/3+mib-1)/mib)
	}
	return need, nil
}
