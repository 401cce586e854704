package indexer

import (
	"context"
	"errors"
	"fmt"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/protocol"
)

// fetch downloads the blocks of a branch, takes out what matters, establishes the
// authors, and delivers the blocks in order. The channel is closed after the last
// one, or soon after ctx ends.
func (p *pipeline) fetch(ctx context.Context, b *branch) <-chan *flight {
	named := make(chan *flight)
	p.running.Go(func() {
		defer close(named)
		for i, hash := range b.hashes {
			select {
			case named <- &flight{height: b.first + uint32(i), hash: hash}:
			case <-ctx.Done():
				return
			}
		}
	})
	walked := inOrder(ctx, &p.running, named, blocksAhead,
		func(f **flight) bool { return p.admit(ctx, *f) },
		func(f *flight) *flight { f.err = p.read(ctx, f); return f })
	return inOrder(ctx, &p.running, walked, blocksAhead,
		func(f **flight) bool { (*f).err = p.inTurn(*f); return true },
		func(f *flight) *flight { f.err = p.authors(ctx, f); return f })
}

// admit waits for a share of the budget, and until few enough blocks are being
// downloaded. It reports false if ctx ended before.
func (p *pipeline) admit(ctx context.Context, f *flight) bool {
	var err error
	if f.share, err = p.budget.reserve(ctx); err != nil {
		return false
	}
	select {
	case p.blocks <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// read downloads a block that was admitted and walks over it.
func (p *pipeline) read(ctx context.Context, f *flight) error {
	raw, err := p.node.Block(ctx, f.hash)
	<-p.blocks
	if err != nil {
		return movedIfNotFound(err)
	}
	if header, err := protocol.ParseHeader(raw); err != nil || header.Hash != f.hash {
		return p.invalid(f, fmt.Errorf("it sent block %v, of %d bytes", header.Hash, len(raw)))
	}
	f.raw, f.size = raw, int64(len(raw))
	p.budget.learn(f.size)
	p.resize(f, f.size)
	return p.walk(f)
}

func (p *pipeline) walk(f *flight) (err error) {
	if f.block, err = extract(int64(f.height), f.raw, p.net, VerifyFull, p.batons, p.recent); err != nil {
		return p.invalid(f, err)
	}
	return nil
}

// inTurn walks over the block once more if there was a baton to look out for that
// was not known yet, and lets go of it. It is called in order.
func (p *pipeline) inTurn(f *flight) error {
	if f.err != nil {
		return f.err
	}
	if !p.batons.inTurn(f.block.anchors(), f.block.batons) {
		if err := p.walk(f); err != nil {
			return err
		}
	}
	f.raw = nil
	p.recent.add(f.block.Coins)
	f.block.Coins = nil
	p.resize(f, f.block.memory())
	return nil
}

// resize makes the flight's share of the budget as large as it is now.
func (p *pipeline) resize(f *flight, size int64) {
	p.budget.change(size - f.share)
	f.share = size
}

// invalid says that the node gave us a block that fails a check.
func (p *pipeline) invalid(f *flight, err error) error {
	return fmt.Errorf("node %s: %w: block %v at height %d: %w", p.name, node.ErrInvalid, f.hash, f.height, err)
}

// movedIfNotFound takes it that what the node named a moment ago and does not
// know now has left its best chain.
func movedIfNotFound(err error) error {
	if errors.Is(err, node.ErrNotFound) {
		return fmt.Errorf("%w: %w", errMoved, err)
	}
	return err
}
