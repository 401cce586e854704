// Package onchain joins a publisher of anchors with what it asks: the graph, which tells
// what anchors are confirmed, and a source of coins, which tells what can be spent and
// takes transactions. The publisher knows neither of them, nor they it: each error and
// each answer of theirs gets the meaning here that it has for the publisher.
//
// What never belongs here: a decision about anchors, and how a node is reached.
package onchain

import (
	"errors"
	"time"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/keyserver/anchor"
)

// Index is an anchor.Chain: what the graph says of anchors, as far as it stands at the end
// of the node's chain.
type Index struct {
	// Graph is nil if it could not be opened: then Synced must say that it is not.
	Graph *graph.Graph
	// Synced reports whether the graph was compared with the node and has caught up. It
	// may be called concurrently.
	Synced func() bool
}

var _ anchor.Chain = Index{}

// View implements anchor.Chain.
func (i Index) View() (anchor.View, error) {
	if !i.Synced() {
		return nil, anchor.ErrBehind
	}
	v, err := i.Graph.At(nil)
	if errors.Is(err, graph.ErrEmpty) {
		return nil, anchor.ErrBehind
	}
	if err != nil {
		return nil, err
	}
	header, err := i.Graph.BlockHeader(v.Height())
	if err == nil && header.Hash != v.Hash() {
		err = anchor.ErrBehind // a reorganisation came in between
	}
	if err != nil {
		v.Close()
		return nil, err
	}
	return view{v, time.Unix(int64(header.Time), 0)}, nil
}

// view is a view with the time of its last block.
type view struct {
	*graph.View
	time time.Time
}

// Time implements anchor.View.
func (v view) Time() time.Time { return v.time }

// Changed implements anchor.Chain.
func (i Index) Changed() <-chan struct{} {
	if i.Graph == nil {
		return nil // nothing ever does
	}
	return i.Graph.Changed()
}
