package indexer

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/protocol"
)

// branch is what a node's best chain goes on with behind a block that is known, up
// to its tip, or to where it is known to be the network's. Its headers have been
// judged (protocol.HeaderChain).
type branch struct {
	base   uint32           // height of the block behind which chain begins
	parent chainhash.Hash   // of the block below first, or behind which chain begins
	first  uint32           // height of the first block to connect
	hashes []chainhash.Hash // of the blocks from there on
	chain  *protocol.HeaderChain
	// short is why it ends below the node's tip, nil if it does not.
	short error
}

// last is the height of the last block, one below first if there is none.
func (b *branch) last() int64 { return int64(b.first) + int64(len(b.hashes)) - 1 }

// work is that of all headers behind base, in hashes on average.
func (b *branch) work() *big.Int { return b.chain.Work() }

// from returns what is left of a branch that was judged before, if blocks are still to
// be connected behind that block, and the node's chain goes on with it. Otherwise ok
// is false.
func (b *branch) from(f fork, target node.Tip, limit uint32) (ok bool) {
	done := int64(f.next) - int64(b.first)
	switch {
	case done < 0 || done > int64(len(b.hashes)) || b.chain.Height() > limit,
		b.chain.Height() == target.Height && b.chain.Last().Hash != target.Hash,
		done == 0 && f.header.Hash != b.parent,
		done > 0 && f.header.Hash != b.hashes[done-1]:
		return false
	case done > 0:
		b.parent, b.first, b.hashes = f.header.Hash, f.next, b.hashes[done:]
	}
	return true
}

// fork is a block from which a branch is looked at.
type fork struct {
	height uint32
	header protocol.Header
	before []uint32 // times of the headers in front of it, oldest first, as far as they are known
	next   uint32   // height of the first block to connect
}

// beforeStart returns where the headers are looked at from before there is a block
// in the graph: the last one below the start height whose hash everybody knows. So
// what is between it and the first block is known to lead there.
func (ix *Indexer) beforeStart(ctx context.Context) (fork, error) {
	start := ix.graph.Params().StartHeight
	height, want := protocol.PinBelow(ix.net, start-min(start, 1))
	has, err := ix.node.BlockHash(ctx, height)
	if err != nil {
		return fork{}, movedIfNotFound(err)
	}
	if has != want {
		return fork{}, ix.lies(fmt.Errorf("%w: it has block %v at height %d, expected %v of %s: another coin's chain, or a made-up one",
			protocol.ErrOtherChain, has, height, want, ix.net.Name))
	}
	if height == 0 {
		return fork{header: genesis(ix.net), next: start}, nil
	}
	parent, err := ix.node.BlockHash(ctx, height-1)
	if err != nil {
		return fork{}, movedIfNotFound(err)
	}
	headers, err := ix.node.Headers(ctx, parent, height-1, 1)
	if err != nil {
		return fork{}, movedIfNotFound(err)
	}
	if headers[0].Hash != want {
		return fork{}, fmt.Errorf("%w: its block at height %d was %v, now it is %v", errMoved, height, want, headers[0].Hash)
	}
	return fork{height: height, header: headers[0], next: start}, nil
}

func genesis(net *chaincfg.Params) protocol.Header {
	h := &net.GenesisBlock.Header
	return protocol.Header{Hash: *net.GenesisHash, MerkleRoot: h.MerkleRoot, Version: h.Version, Time: uint32(h.Timestamp.Unix()), Bits: h.Bits, Nonce: h.Nonce}
}

// behind returns where the headers behind a height of the graph are looked at from.
func (ix *Indexer) behind(ctx context.Context, height int64) (fork, error) {
	start := int64(ix.graph.Params().StartHeight)
	if height < start {
		return ix.beforeStart(ctx)
	}
	f := fork{height: uint32(height), next: uint32(height) + 1}
	for h := max(start, height-protocol.TimesBefore); h <= height; h++ {
		header, err := ix.graph.BlockHeader(uint32(h))
		if err != nil {
			return f, err
		}
		if f.header = header; h < height {
			f.before = append(f.before, header.Time)
		}
	}
	return f, nil
}

// branch asks for the headers behind a block up to the node's tip, and judges them.
// Those that were judged before and have not been connected yet are not asked for
// again: a node may go away many times while it is caught up with.
func (ix *Indexer) branch(ctx context.Context, from fork, target node.Tip) (*branch, error) {
	limit := protocol.ProvenHeight(ix.net, target.Height)
	b := ix.judged
	ix.judged = nil
	if b == nil || !b.from(from, target, limit) {
		b = &branch{base: from.height, parent: from.header.Hash, first: from.next, chain: protocol.NewHeaderChain(ix.net, from.height, from.header, from.before)}
		if from.next == 0 {
			b.hashes = append(b.hashes, from.header.Hash)
		}
	}
	progress := newHeaderProgress(ix.opt, b.chain.Height(), limit)
	for b.chain.Height() < limit {
		headers, err := ix.node.Headers(ctx, b.chain.Last().Hash, b.chain.Height(), limit-b.chain.Height())
		if err != nil {
			if !errors.Is(err, node.ErrNotFound) {
				ix.judged = b
			}
			return nil, movedIfNotFound(err)
		}
		if err := ix.judge(b, headers, limit); err != nil {
			return nil, err
		}
		progress.judged(b.chain.Height())
	}
	b.short = nil
	switch {
	case limit < target.Height:
		b.short = fmt.Errorf("%w: it is at height %d, and which of its blocks after %d are %s's shows only when it has come to %d: "+
			"is it still downloading? If it has all blocks, it is on another coin", errBehind, target.Height, limit, ix.net.Name, protocol.LastPin(ix.net))
	case b.chain.Last().Hash != target.Hash:
		return nil, fmt.Errorf("%w: its tip was %v at height %d, its headers lead to %v", errMoved, target.Hash, target.Height, b.chain.Last().Hash)
	}
	ix.judged = b
	return b, nil
}

// judge adds headers to a branch, up to a height.
func (ix *Indexer) judge(b *branch, headers []protocol.Header, limit uint32) error {
	for _, h := range headers[:min(len(headers), int(limit-b.chain.Height()))] {
		err := b.chain.Add(h, time.Now())
		if errors.Is(err, protocol.ErrFuture) {
			return fmt.Errorf("%w: %w", errFuture, err)
		}
		if err != nil {
			return ix.lies(err)
		}
		if b.chain.Height() >= b.first {
			b.hashes = append(b.hashes, h.Hash)
		}
	}
	return nil
}

// lies says that the node told what is not true.
func (ix *Indexer) lies(err error) error {
	return fmt.Errorf("node %s: %w: %w", ix.opt.NodeName, node.ErrInvalid, err)
}
