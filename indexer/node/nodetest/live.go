package nodetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/indexer/node"
)

// Control changes a node, from one goroutine. *regtest.Node is one.
type Control interface {
	// Mine adds blocks to the best chain, and returns their hashes, oldest first.
	Mine(ctx context.Context, count uint32) ([]chainhash.Hash, error)
	// Reorg replaces the last depth blocks of the best chain by more than as many new
	// ones, with these transactions, and returns their hashes, oldest first.
	Reorg(ctx context.Context, depth uint32, blocks ...[]*wire.MsgTx) ([]chainhash.Hash, error)
	// Invalidate ends the best chain before a block, if there is no other branch.
	// Reconsider takes it back for this block; those after it have to be reconsidered
	// each.
	Invalidate(ctx context.Context, hash chainhash.Hash) error
	Reconsider(ctx context.Context, hash chainhash.Hash) error
	// Halt ends the node's process. Resume starts it again, with the same chain and at
	// the same addresses, and returns when it answers.
	Halt() error
	Resume(ctx context.Context) error
}

// Live is a node that RunLive changes.
type Live struct {
	// Chain is the node's best chain when RunLive begins, which only makes it longer
	// and takes that back.
	Chain *Chain
	Control
	// Address is HOST:PORT at which the adapter finds the node.
	Address string
	// Dial returns a new client of the node at an address, whose calls go on trying
	// for as long as retryFor.
	Dial func(ctx context.Context, address string, retryFor time.Duration) (Client, error)
	// Hints says that the node tells of new blocks by itself.
	Hints bool
}

const (
	patient = time.Minute      // goes on trying until the node is back
	hasty   = time.Millisecond // tries once
)

// RunLive checks what package node promises of a node.Node whose node reorganises,
// gets shorter, goes away, or is reached over a connection that fails.
func RunLive(t *testing.T, n Live) {
	l := &live{Live: n}
	for height := range n.Chain.Height() + 1 {
		l.hashes = append(l.hashes, n.Chain.Hash(height))
	}
	l.mine(t, 5)
	t.Run("shorter", l.testShorter) // before there are other branches
	t.Run("reorganised", l.testReorganised)
	if n.Hints {
		t.Run("hints", l.testHints)
	}
	t.Run("connection", l.testConnection)
	t.Run("halted", l.testHalted)
}

// live is a node and what is known of it.
type live struct {
	Live
	hashes []chainhash.Hash // of the best chain, by height
}

func (l *live) tip() uint32 { return uint32(len(l.hashes) - 1) }

func (l *live) dial(t *testing.T, address string, retryFor time.Duration) Client {
	t.Helper()
	c, err := l.Dial(t.Context(), address, retryFor)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func (l *live) mine(t *testing.T, count uint32) {
	t.Helper()
	mined, err := l.Mine(t.Context(), count)
	if err != nil {
		t.Fatal(err)
	}
	l.hashes = append(l.hashes, mined...)
}

// check checks that the client sees the best chain, from some blocks below what has
// changed.
func (l *live) check(t *testing.T, c node.Node) {
	t.Helper()
	ctx := t.Context()
	tip, err := c.Tip(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if tip.Height != l.tip() || tip.Hash != l.hashes[l.tip()] {
		t.Errorf("tip is %+v, want height %d, hash %v", tip, l.tip(), l.hashes[l.tip()])
	}
	from := l.Chain.Height() - 1
	var behind []chainhash.Hash
	for height := from; height <= l.tip(); height++ {
		hash, err := c.BlockHash(ctx, height)
		if err != nil || hash != l.hashes[height] {
			t.Errorf("block %d is %v, %v; want %v", height, hash, err, l.hashes[height])
		}
	}
	if hash, err := c.BlockHash(ctx, l.tip()+1); !errors.Is(err, node.ErrNotFound) {
		t.Errorf("block %d, above the tip: got %v, %v", l.tip()+1, hash, err)
	}
	headers, err := c.Headers(ctx, l.hashes[from], from, l.tip()-from)
	for _, header := range headers {
		behind = append(behind, header.Hash)
	}
	if err != nil || !slices.Equal(behind, l.hashes[from+1:]) {
		t.Errorf("behind block %d are %v, %v; want %v", from, behind, err, l.hashes[from+1:])
	}
	l.wantNothingBehind(t, c, l.tip(), l.hashes[l.tip()])
}

// wantNothingBehind checks that there are no headers behind a block that is the last
// or has left the best chain.
func (l *live) wantNothingBehind(t *testing.T, c node.Node, height uint32, hash chainhash.Hash) {
	t.Helper()
	for _, want := range []uint32{1, 100} {
		if headers, err := c.Headers(t.Context(), hash, height, want); !errors.Is(err, node.ErrNotFound) {
			t.Errorf("%d headers wanted behind block %d, %v: got %d, %v; want %v", want, height, hash, len(headers), err, node.ErrNotFound)
		}
	}
}

func (l *live) testReorganised(t *testing.T) {
	c := l.dial(t, l.Address, patient)
	l.check(t, c)
	for _, test := range []struct{ depth, longer uint32 }{{1, 1}, {3, 2}, {5, 1}} {
		mined, err := l.Reorg(t.Context(), test.depth, make([][]*wire.MsgTx, test.depth+test.longer)...)
		if err != nil {
			t.Fatal(err)
		}
		fork := l.tip() - test.depth
		stale := slices.Clone(l.hashes[fork+1:])
		l.hashes = append(l.hashes[:fork+1], mined...)
		l.check(t, c)
		for i, hash := range stale {
			l.wantNothingBehind(t, c, fork+1+uint32(i), hash)
			if _, err := c.Block(t.Context(), hash); err != nil && !errors.Is(err, node.ErrNotFound) {
				t.Errorf("a block that has left the chain: got %v, want it or %v", err, node.ErrNotFound)
			}
		}
	}
}

func (l *live) testShorter(t *testing.T) {
	c := l.dial(t, l.Address, patient)
	all := slices.Clone(l.hashes)
	first := l.tip() - 2
	if err := l.Invalidate(t.Context(), all[first]); err != nil {
		t.Fatal(err)
	}
	l.hashes = l.hashes[:first]
	l.check(t, c)
	for height := first; height < uint32(len(all)); height++ {
		l.wantNothingBehind(t, c, height, all[height])
	}
	for _, hash := range all[first:] {
		if err := l.Reconsider(t.Context(), hash); err != nil {
			t.Fatal(err)
		}
	}
	l.hashes = all
	l.check(t, c)
}

func (l *live) testHints(t *testing.T) {
	c := l.dial(t, l.Address, patient)
	// A hint may be from before the block, or be lost: the third is about a block.
	deadline := time.Now().Add(time.Minute)
	for hints := 0; hints < 3; {
		if time.Now().After(deadline) {
			t.Fatalf("%d hints in a minute full of blocks", hints)
		}
		l.mine(t, 1)
		select {
		case _, open := <-c.Changes():
			if !open {
				t.Fatal("the channel of hints is closed")
			}
			hints++
		case <-time.After(100 * time.Millisecond):
		}
	}
	l.check(t, c)
}

func (l *live) testHalted(t *testing.T) {
	impatient, waiting := l.dial(t, l.Address, hasty), l.dial(t, l.Address, patient)
	closed, err := l.Dial(t.Context(), l.Address, patient)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Halt(); err != nil {
		t.Fatal(err)
	}
	all := questions(l.Chain)
	for _, q := range all {
		if err := q.ask(t.Context(), impatient); !errors.Is(err, node.ErrUnavailable) {
			t.Errorf("%s: got %v, want %v", q.what, err, node.ErrUnavailable)
		}
	}
	// Calls that go on trying end with their context, with the client, or when the
	// node is back.
	ctx, cancel := context.WithCancelCause(t.Context())
	cancelled, ended, answered := make(chan error, len(all)), make(chan error, len(all)), make(chan error, len(all))
	ask := func(ctx context.Context, c Client, results chan<- error) {
		for _, q := range all {
			go func() { results <- wrap(q, q.ask(ctx, c)) }()
		}
	}
	ask(ctx, waiting, cancelled)
	ask(t.Context(), closed, ended)
	ask(t.Context(), waiting, answered)
	cancel(errEnough)
	if err := closed.Close(); err != nil {
		t.Error(err)
	}
	for range all {
		if err := <-cancelled; !errors.Is(err, node.ErrUnavailable) || !errors.Is(err, errEnough) {
			t.Errorf("cancelled: got %v, want %v and the context's cause", err, node.ErrUnavailable)
		}
		if err := <-ended; !errors.Is(err, node.ErrUnavailable) {
			t.Errorf("closed: got %v, want %v", err, node.ErrUnavailable)
		}
	}
	if err := l.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range all {
		if err := <-answered; err != nil {
			t.Errorf("when the node is back: %v", err)
		}
	}
	l.await(t, impatient)
	l.check(t, impatient)
	l.check(t, waiting)
}

func wrap(q question, err error) error {
	if err != nil {
		err = fmt.Errorf("%s: %w", q.what, err)
	}
	return err
}

// await asks until every kind of question is answered. Until then it has to get failures
// that pass.
func (l *live) await(t *testing.T, c node.Node) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for _, q := range questions(l.Chain) {
		for err := q.ask(t.Context(), c); err != nil; err = q.ask(t.Context(), c) {
			if !passes(err) || time.Now().After(deadline) {
				t.Fatalf("%s, of a node that is back: %v", q.what, err)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// passes reports whether an error says that the node could not answer just now, and
// nothing about the chain.
func passes(err error) bool {
	return (errors.Is(err, node.ErrUnavailable) || errors.Is(err, node.ErrUnsuitable)) &&
		!errors.Is(err, node.ErrInvalid) && !errors.Is(err, node.ErrNotFound)
}
