package push

import (
	"bytes"
	"context"
	"slices"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/anchors"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/protocol"
)

// Filter is what concerns a follower: keys and identities. nil is everything. It may be used
// concurrently. Close it.
type Filter struct {
	*graph.Following
	keys []protocol.KeyHash // ascending, each once
	ids  []chainhash.Hash   // likewise
}

// Bytes is about how much a filter of so many keys and identities takes: here, and in the graph.
func Bytes(keys, ids int) int { return 100*keys + 150*ids }

// NewFilter returns a filter of keys and identities, which it keeps; nil if there are none.
// graph.ErrFollowed if they are too many.
func NewFilter(g *graph.Graph, keys []protocol.KeyHash, ids []chainhash.Hash) (*Filter, error) {
	if len(keys)+len(ids) == 0 {
		return nil, nil
	}
	slices.SortFunc(keys, compareKeys)
	slices.SortFunc(ids, compareHashes)
	f := &Filter{keys: slices.Clip(slices.Compact(keys)), ids: slices.Clip(slices.Compact(ids))}
	var err error
	f.Following, err = g.Follow(f.keys, f.ids)
	return f, err
}

func compareKeys(a, b protocol.KeyHash) int { return bytes.Compare(a[:], b[:]) }
func compareHashes(a, b chainhash.Hash) int { return bytes.Compare(a[:], b[:]) }

// Close ends it. Closing nil does nothing.
func (f *Filter) Close() {
	if f != nil {
		f.Following.Close()
	}
}

// HasKey reports whether a key is one of the filter's.
func (f *Filter) HasKey(key protocol.KeyHash) bool {
	_, ok := slices.BinarySearchFunc(f.keys, key, compareKeys)
	return ok
}

func (f *Filter) hasID(id chainhash.Hash) bool {
	_, ok := slices.BinarySearchFunc(f.ids, id, compareHashes)
	return ok
}

// Pick leaves in a block the events that name something of the filter's.
func (f *Filter) Pick(block *graph.BlockEvents) {
	if f == nil {
		return
	}
	block.Effects = slices.DeleteFunc(block.Effects, func(e links.Effect) bool { return !f.names(&e) })
	block.Anchors = slices.DeleteFunc(block.Anchors, func(e anchors.Effect) bool { return e.Author == nil || !f.HasKey(*e.Author) })
}

// names reports whether an effect names something of the filter's.
func (f *Filter) names(e *links.Effect) bool {
	switch e.Type {
	case links.RequestOpened:
		return f.HasKey(e.Child) || f.HasKey(e.Parent)
	case links.LinkFormed, links.LinkCut:
		return f.HasKey(e.Child) || f.HasKey(e.Parent) || f.hasID(e.ID)
	case links.IdentityNamed:
		return f.HasKey(e.Root) || f.hasID(e.ID)
	case links.IdentityMerged:
		return f.hasID(e.ID) || f.hasID(e.Into)
	}
	return e.Author != (protocol.KeyHash{}) && f.HasKey(e.Author)
}

// Connected is what the last part of a block changed, also by what happened far above a key;
// nothing for a nil filter.
func (f *Filter) Connected(ctx context.Context, block *graph.BlockEvents) (graph.Changes, error) {
	if f == nil || block.More {
		return graph.Changes{}, nil
	}
	return f.Following.Connected(ctx, block.Height, block.Hash)
}

// Disconnected is what taking a block back changed; nothing for a nil filter.
func (f *Filter) Disconnected(ctx context.Context, gone *graph.Disconnected) (graph.Changes, error) {
	if f == nil {
		return graph.Changes{}, nil
	}
	return f.Following.Disconnected(ctx, gone.Height, gone.Hash)
}
