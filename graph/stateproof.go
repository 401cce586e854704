package graph

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/graph/statemap"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/proof"
)

var (
	// ErrNoStateRoot says that a block was indexed without the state root, or that the graph does not keep it
	// (Options.NoStateRoot): nothing can be proven as of it. Index again with it, or ask as of a later block.
	ErrNoStateRoot = errors.New("no state root")
	// ErrRebuild says that it would take more work to make the map of an older block again than
	// Options.ProofRebuildKeys allows. Ask as of a later block, or allow more.
	ErrRebuild = errors.New("too many keys for a proof as of an older block")
)

// DefaultProofRebuildKeys is how many keys are read again for a proof as of an older block: it takes a few seconds.
const DefaultProofRebuildKeys = 1_000_000

// ProveState shows what the map under the state root has of some keys and ids as of a height (protocol/SPEC.md §13),
// without transactions, which the caller may add. Paths and chains of merges are followed level by level for all subjects
// together, until proof.MaxStateRecords records are shown: the walks that go on then are cut short, and
// proof.StateProof.Walk tells which. The tree leads to the root that is stored with the block, and each record to its leaf.
//
// As of the last blocks it costs some microseconds a record, and a read of the store for each. The map of an older block
// has to be made again: from the nearest newer one by what the blocks between have changed, or, beyond UndoFrom, from all
// keys that there are; ProofWork says before how much that is. One is made at a time, the last few are kept; a caller who
// waits for another honours ctx.
//
// proof.ErrState if the subjects are not 1 to proof.MaxStateSubjects, each once; ErrEmpty, ErrHeight, ErrReorganised,
// ErrNoStateRoot, ErrRebuild; ErrMemory if there is no room for that map; other errors are ctx's or the store's.
func (g *Graph) ProveState(ctx context.Context, height uint32, subjects []proof.StateSubject) (*proof.StateProof, error) {
	if err := proof.CheckSubjects(subjects); err != nil {
		return nil, err
	}
	v, err := g.At(&height)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	if err := v.hasRoot(); err != nil {
		return nil, err
	}
	past := links.NewPastRecords(v.snapshot.state.Links, v.iterators, height)
	m, err := g.mapAsOf(ctx, v.snapshot, past, height, v.block)
	if err != nil {
		return nil, err
	}
	if m.Root() != v.block.StateRoot {
		return nil, fmt.Errorf("%w: block %d has state root %x, what is stored gives %x", ErrDamaged, height, v.block.StateRoot, m.Root())
	}
	p := &proof.StateProof{
		Entry:    protocol.StateEntry{Height: height, Block: v.block.Hash, StateHash: v.block.StateHash, StateRoot: v.block.StateRoot},
		Subjects: slices.Clone(subjects),
	}
	if p.Tree, err = show(ctx, m, past, subjects, proof.MaxStateRecords); err != nil {
		return nil, err
	}
	return p, v.stillThere()
}

// ProofWork returns about how many records ProveState would have to make again for a height, beside those that it shows: 0
// if the map is at hand. It takes some microseconds for each, and no other caller gets such a map meanwhile: who lets
// others ask makes them pay for it. Errors are those of ProveState.
func (g *Graph) ProofWork(height uint32) (int, error) {
	v, err := g.At(&height)
	if err != nil {
		return 0, err
	}
	defer v.Close()
	if err := v.hasRoot(); err != nil {
		return 0, err
	}
	at, newer, err := g.proofMaps.find(v.snapshot, height, v.block.Hash)
	if err != nil || at != nil {
		return 0, err
	}
	s, all := v.snapshot, v.snapshot.state.Links.Records()
	if height+1 < s.undoFrom {
		return all, nil
	}
	const changed = 4 // records by a link, and two by a cut
	return min(all, changed*(s.state.Links.ActionsAbove(height)-s.state.Links.ActionsAbove(newer.height))+int(newer.height-height)), nil
}

// hasRoot returns ErrNoStateRoot if nothing can be proven as of the view.
func (v *View) hasRoot() error {
	switch {
	case !v.snapshot.state.Links.KeepsRecords():
		return fmt.Errorf("%w: it is not kept, as the graph was opened: index again with it", ErrNoStateRoot)
	case v.block.StateRoot == [32]byte{}:
		return fmt.Errorf("%w: block %d was indexed without: ask as of a later block, or index again with it", ErrNoStateRoot, v.height)
	}
	return nil
}

// show returns the tree that shows the walks of subjects, with up to so many records.
func show(ctx context.Context, m *statemap.Map, past *links.PastRecords, subjects []proof.StateSubject, most int) ([]byte, error) {
	var records []statemap.Shown
	next := make([]protocol.MapKey, len(subjects)) // what is looked up next for each
	for i := range subjects {
		next[i] = subjects[i].MapKey()
	}
	ends := make(map[protocol.MapKey]bool)   // records that are shown
	looked := make(map[protocol.MapKey]bool) // what was looked up: a second walk goes on as the first one
	for len(next) > 0 {
		level := next
		next = nil
		for _, key := range level {
			if looked[key] {
				continue
			}
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			found, ok, err := past.Find(m, key)
			if err != nil {
				return nil, err
			}
			if !ok {
				break // of an empty map
			}
			if !ends[found.Key] {
				if len(records) == most {
					continue // another may end at one that is shown
				}
				ends[found.Key], records = true, append(records, found.Shown)
			}
			if looked[key] = true; found.Key == key && found.Next != nil {
				next = append(next, *found.Next)
			}
		}
	}
	slices.SortFunc(records, func(a, b statemap.Shown) int { return bytes.Compare(a.Key[:], b.Key[:]) })
	var t proof.StateTree
	if err := past.Show(m, &t, records); err != nil {
		return nil, err
	}
	return t.Bytes(), nil
}
