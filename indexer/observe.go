package indexer

import (
	"context"
	"errors"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/protocol"
)

// Observer hears what an Indexer does, for whoever counts it. It is called concurrently and
// must not block.
type Observer interface {
	// Connected says that a step of the graph has connected so many blocks, and how long
	// that took.
	Connected(blocks int, took time.Duration)
	// Reorganised says that so many blocks, at least one, are taken back for a branch with
	// more work.
	Reorganised(depth int)
	// NodeFailed says that the node has not answered one of the Questions as it should have.
	NodeFailed(question string)
}

// Questions are the names of what a node is asked.
func Questions() []string { return []string{"tip", "hash", "headers", "block", "spent", "previous"} }

// unobserved is an Observer that nobody looks at.
type unobserved struct{}

func (unobserved) Connected(int, time.Duration) {}
func (unobserved) Reorganised(int)              {}
func (unobserved) NodeFailed(string)            {}

// observed is the indexer's node, of which it notes whether it answers.
type observed struct {
	node.Node
	ix *Indexer
}

// note notes what came of a question. It is an answer, too, that something is not known.
func (o *observed) note(ctx context.Context, question string, err error) {
	switch {
	case err == nil, errors.Is(err, node.ErrNotFound):
		o.ix.mu.Lock()
		defer o.ix.mu.Unlock()
		o.ix.status.NodeAnswered = time.Now()
	case ctx.Err() == nil: // else it was not waited for
		o.ix.opt.Observer.NodeFailed(question)
	}
}

// Tip implements node.Node.
func (o *observed) Tip(ctx context.Context) (node.Tip, error) {
	tip, err := o.Node.Tip(ctx)
	o.note(ctx, "tip", err)
	return tip, err
}

// BlockHash implements node.Node.
func (o *observed) BlockHash(ctx context.Context, height uint32) (chainhash.Hash, error) {
	hash, err := o.Node.BlockHash(ctx, height)
	o.note(ctx, "hash", err)
	return hash, err
}

// Headers implements node.Node.
func (o *observed) Headers(ctx context.Context, after chainhash.Hash, height, want uint32) ([]protocol.Header, error) {
	headers, err := o.Node.Headers(ctx, after, height, want)
	o.note(ctx, "headers", err)
	return headers, err
}

// Block implements node.Node.
func (o *observed) Block(ctx context.Context, hash chainhash.Hash) ([]byte, error) {
	block, err := o.Node.Block(ctx, hash)
	o.note(ctx, "block", err)
	return block, err
}

// Spent implements node.Node.
func (o *observed) Spent(ctx context.Context, block chainhash.Hash, by []node.Spender) ([]node.Spent, error) {
	spent, err := o.Node.Spent(ctx, block, by)
	o.note(ctx, "spent", err)
	return spent, err
}

// Previous implements node.Node.
func (o *observed) Previous(ctx context.Context, block, spender chainhash.Hash, out wire.OutPoint) (protocol.Tx, error) {
	tx, err := o.Node.Previous(ctx, block, spender, out)
	o.note(ctx, "previous", err)
	return tx, err
}
