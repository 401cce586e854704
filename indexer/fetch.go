package indexer

import (
	"context"
	"errors"
	"fmt"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/protocol"
)

// fetch reads the blocks of the node's best chain from height from to height to,
// takes out what matters, establishes the authors, and delivers the blocks in
// order. The channel is closed after the last one, or soon after ctx ends.
func (p *pipeline) fetch(ctx context.Context, from, to uint32) <-chan *flight {
	heights := make(chan *flight)
	p.running.Go(func() {
		defer close(heights)
		for h := int64(from); h <= int64(to); h++ {
			select {
			case heights <- &flight{height: uint32(h)}:
			case <-ctx.Done():
				return
			}
		}
	})
	named := (<-chan *flight)(heights)
	if _, ok := p.node.(byHeight); !ok {
		named = inOrder(ctx, &p.running, named, hashCalls,
			func(**flight) bool { return true },
			func(f *flight) *flight { f.err = p.lookUp(ctx, f); return f })
	}
	walked := inOrder(ctx, &p.running, named, blocksAhead,
		func(f **flight) bool { return p.admit(ctx, *f) },
		func(f *flight) *flight { f.err = p.read(ctx, f); return f })
	return inOrder(ctx, &p.running, walked, blocksAhead,
		func(f **flight) bool { (*f).err = p.inTurn(*f); return true },
		func(f *flight) *flight { f.err = p.authors(ctx, f); return f })
}

// byHeight is a node that is spared one of two questions: bchd reads and decodes
// a whole block to tell its hash.
type byHeight interface {
	// BlockAt returns the serialized block of the best chain at height, or
	// node.ErrNotFound if the best chain is shorter. Nothing about it has been
	// checked. The caller owns the bytes.
	BlockAt(ctx context.Context, height uint32) ([]byte, error)
}

// lookUp asks which block is at the flight's height.
func (p *pipeline) lookUp(ctx context.Context, f *flight) (err error) {
	f.hash, err = p.node.BlockHash(ctx, f.height)
	return movedIfNotFound(err)
}

// admit waits for a share of the budget, and until few enough blocks are being
// downloaded. It reports false if ctx ended before.
func (p *pipeline) admit(ctx context.Context, f *flight) bool {
	if f.err != nil {
		return true // read passes it on
	}
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
func (p *pipeline) read(ctx context.Context, f *flight) (err error) {
	if f.err != nil {
		return f.err
	}
	f.raw, err = p.download(ctx, f)
	<-p.blocks
	if err != nil {
		return err
	}
	f.size = int64(len(f.raw))
	p.budget.learn(f.size)
	p.resize(f, f.size)
	return p.walk(f)
}

func (p *pipeline) walk(f *flight) (err error) {
	if f.block, err = extract(int64(f.height), f.raw, p.net, p.verify, p.batons); err != nil {
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
	p.resize(f, f.block.memory())
	return nil
}

// download asks for the flight's block, and checks that it is the one that the
// node named before, if it did.
func (p *pipeline) download(ctx context.Context, f *flight) ([]byte, error) {
	n, ok := p.node.(byHeight)
	if !ok {
		raw, err := p.node.Block(ctx, f.hash)
		if err != nil {
			return nil, movedIfNotFound(err)
		}
		if header, err := protocol.ParseHeader(raw); err != nil || header.Hash != f.hash {
			return nil, p.invalid(f, fmt.Errorf("it sent block %v, of %d bytes", header.Hash, len(raw)))
		}
		return raw, nil
	}
	raw, err := n.BlockAt(ctx, f.height)
	if err != nil {
		return nil, movedIfNotFound(err)
	}
	header, err := protocol.ParseHeader(raw)
	if err != nil {
		return nil, p.invalid(f, err)
	}
	f.hash = header.Hash
	return raw, nil
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
