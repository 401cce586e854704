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
type Filter struct{ *graph.Following }

// Bytes is about how much a filter of so many keys and identities takes: here, and in the graph.
func Bytes(keys, ids int) int { return 100*keys + 150*ids }

// NewFilter returns a filter of keys and identities; nil if there are none.
// graph.ErrFollowed if they are too many.
func NewFilter(g *graph.Graph, keys []protocol.KeyHash, ids []chainhash.Hash) (*Filter, error) {
	if len(keys)+len(ids) == 0 {
		return nil, nil
	}
	following, err := g.Follow(keys, ids)
	if err != nil {
		return nil, err
	}
	return &Filter{following}, nil
}

func compareHashes(a, b chainhash.Hash) int { return bytes.Compare(a[:], b[:]) }

// Close ends it. Closing nil does nothing.
func (f *Filter) Close() {
	if f != nil {
		f.Following.Close()
	}
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
		return f.HasKey(e.Child) || f.HasKey(e.Parent) || f.HasID(e.ID)
	case links.IdentityNamed:
		return f.HasKey(e.Root) || f.HasID(e.ID)
	case links.IdentityMerged:
		return f.HasID(e.ID) || f.HasID(e.Into)
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
