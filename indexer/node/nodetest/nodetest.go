// Package nodetest is what every node.Node has to do, as tests that each adapter runs:
// Run on a chain that does not change, RunLive on a node that is changed, halted, and
// reached over a connection that fails. It makes that chain, with no node (NewChain),
// so that everything about it is known beforehand.
//
// Only tests import it. What never belongs here: how one kind of node words its
// answers, and how an adapter is configured.
package nodetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"slices"
	"sync"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/protocol"
)

// Client is an adapter, as its Dial returns it.
type Client interface {
	node.Node
	io.Closer
}

// Node is a node whose best chain stays the same.
type Node struct {
	// Chain is its best chain, all of it.
	Chain *Chain
	// Dial returns a new client, which Run closes.
	Dial func(t *testing.T) Client
	// Index says that it keeps an index of transactions.
	Index bool
	// Pruned is the height of the lowest block that it has; 0: it has all.
	Pruned uint32
}

// Run checks all that package node promises of a node.Node, on a chain that does not
// change: each question alone, all at a time, with a context that has ended, and
// after Close.
func Run(t *testing.T, n Node) {
	c := n.Dial(t)
	for _, p := range n.promises() {
		t.Run(p.what, func(t *testing.T) {
			if err := p.check(t.Context(), c); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("together", func(t *testing.T) {
		var all sync.WaitGroup
		for range 2 {
			for _, p := range n.promises() {
				all.Go(func() {
					if err := p.check(t.Context(), c); err != nil {
						t.Errorf("%s: %v", p.what, err)
					}
				})
			}
		}
		all.Wait()
	})
	t.Run("context", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errEnough)
		for _, q := range questions(n.Chain) {
			if err := q.ask(ctx, c); !errors.Is(err, node.ErrUnavailable) || !errors.Is(err, errEnough) {
				t.Errorf("%s: got %v, want %v and the context's cause", q.what, err, node.ErrUnavailable)
			}
		}
	})
	t.Run("close", func(t *testing.T) {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		for range c.Changes() { // ends when the channel is closed
		}
		for range 20 { // it may be only now and then that one gets through
			for _, q := range questions(n.Chain) {
				if err := q.ask(t.Context(), c); !errors.Is(err, node.ErrUnavailable) {
					t.Errorf("%s: got %v, want %v", q.what, err, node.ErrUnavailable)
				}
			}
		}
	})
}

// Coins is an adapter that tells which outputs can be spent: in the best chain or, with
// mempool, in what it and the mempool make together.
type Coins interface {
	Unspent(ctx context.Context, out wire.OutPoint, mempool bool) (bool, error)
}

// RunCoins asks about every output of a chain, which is the node's best, that can be
// spent, and one that it does not have. Nothing may be in the mempool.
func RunCoins(t *testing.T, chain *Chain, c Coins) {
	t.Helper()
	unspent := map[wire.OutPoint]bool{{Hash: chainhash.Hash{1}}: false}
	for _, block := range chain.blocks {
		for _, tx := range block.Transactions[1:] {
			for _, in := range tx.TxIn {
				unspent[in.PreviousOutPoint] = false
			}
		}
	}
	for out := range chain.unspent() {
		unspent[out] = true
	}
	for out, want := range unspent {
		for _, mempool := range []bool{false, true} {
			if got, err := c.Unspent(t.Context(), out, mempool); got != want || err != nil {
				t.Fatalf("output %v, mempool %v: got %v, %v; want %v", out, mempool, got, err, want)
			}
		}
	}
}

var errEnough = errors.New("the test has seen enough")

// promise is one of what node.Node promises. Check may run many times at a time.
type promise struct {
	what  string
	check func(context.Context, node.Node) error
}

func (n Node) promises() []promise {
	return []promise{
		{"Tip", n.checkTip},
		{"BlockHash", n.checkBlockHash},
		{"Headers", n.checkHeaders},
		{"Block", n.checkBlock},
		{"Spent", n.checkSpent},
		{"Previous", n.checkPrevious},
	}
}

func (n Node) checkTip(ctx context.Context, c node.Node) error {
	tip, err := c.Tip(ctx)
	if err != nil {
		return err
	}
	height := n.Chain.Height()
	if tip.Height != height || tip.Hash != n.Chain.Hash(height) || tip.Headers != height || tip.Downloading || tip.Peers < node.Untold {
		return fmt.Errorf("tip is %+v, want height %d, hash %v", tip, height, n.Chain.Hash(height))
	}
	return nil
}

func (n Node) checkBlockHash(ctx context.Context, c node.Node) error {
	for height := range n.Chain.Height() + 1 {
		hash, err := c.BlockHash(ctx, height)
		if err != nil {
			return err
		}
		if want := n.Chain.Hash(height); hash != want {
			return fmt.Errorf("block %d is %v, want %v", height, hash, want)
		}
	}
	for _, height := range []uint32{n.Chain.Height() + 1, n.Chain.Height() + 100, math.MaxInt32, math.MaxInt32 + 1, math.MaxUint32} {
		if hash, err := c.BlockHash(ctx, height); !errors.Is(err, node.ErrNotFound) {
			return fmt.Errorf("block %d, above the tip: got %v, %v; want %v", height, hash, err, node.ErrNotFound)
		}
	}
	return nil
}

func (n Node) checkHeaders(ctx context.Context, c node.Node) error {
	for after := range n.Chain.Height() {
		if err := n.checkHeadersBehind(ctx, c, after, 1+after%3); err != nil {
			return err
		}
	}
	tip := n.Chain.Height()
	for _, after := range []uint32{0, tip - 1} {
		for _, want := range []uint32{tip - after, math.MaxUint32} {
			if err := n.checkHeadersBehind(ctx, c, after, want); err != nil {
				return err
			}
		}
	}
	for _, want := range []uint32{1, math.MaxUint32} {
		for what, after := range map[string]chainhash.Hash{"the tip": n.Chain.Hash(tip), "a block of nobody's": {1}} {
			if headers, err := c.Headers(ctx, after, tip, want); !errors.Is(err, node.ErrNotFound) {
				return fmt.Errorf("%d headers wanted behind %s: got %d, %v; want %v", want, what, len(headers), err, node.ErrNotFound)
			}
		}
	}
	return nil
}

// checkHeadersBehind asks for headers behind the block at a height.
func (n Node) checkHeadersBehind(ctx context.Context, c node.Node, after, want uint32) error {
	headers, err := c.Headers(ctx, n.Chain.Hash(after), after, want)
	if err != nil {
		return fmt.Errorf("%d headers wanted behind block %d: %w", want, after, err)
	}
	if most := min(want, n.Chain.Height()-after); len(headers) == 0 || len(headers) > int(most) {
		return fmt.Errorf("%d headers wanted behind block %d: got %d, expected 1 to %d", want, after, len(headers), most)
	}
	for i, header := range headers {
		height := after + 1 + uint32(i)
		want, err := protocol.ParseHeader(n.Chain.Raw(height))
		if err != nil {
			return err
		}
		if header != want {
			return fmt.Errorf("header %d, behind block %d: got %+v, want %+v", height, after, header, want)
		}
	}
	return nil
}

func (n Node) checkBlock(ctx context.Context, c node.Node) error {
	for height := range n.Chain.Height() + 1 {
		raw, err := c.Block(ctx, n.Chain.Hash(height))
		if height < n.Pruned {
			if !errors.Is(err, node.ErrUnsuitable) {
				return fmt.Errorf("block %d, which is pruned: got %d bytes, %v; want %v", height, len(raw), err, node.ErrUnsuitable)
			}
			continue
		}
		if err != nil {
			return err
		}
		if want := n.Chain.Raw(height); !bytes.Equal(raw, want) {
			return fmt.Errorf("block %d is %x, want %x", height, raw, want)
		}
		clear(raw) // which are ours
	}
	if raw, err := c.Block(ctx, chainhash.Hash{1}); !errors.Is(err, node.ErrNotFound) {
		return fmt.Errorf("a block of nobody's: got %d bytes, %v; want %v", len(raw), err, node.ErrNotFound)
	}
	return nil
}

// spending is a transaction that spends, and what.
type spending struct {
	height uint32 // of its block
	tx     *wire.MsgTx
	spent  []protocol.Output
}

// spendings returns those of a block, in its order.
func (c *Chain) spendings(height uint32) (list []spending) {
	for _, tx := range c.blocks[height].Transactions[1:] {
		list = append(list, spending{height, tx, c.spent(tx)})
	}
	return list
}

// asks returns the question what the first inputs spend.
func (s spending) asks(inputs int) node.Spender {
	by := node.Spender{TxID: s.tx.TxHash()}
	for _, in := range s.tx.TxIn[:inputs] {
		by.Inputs = append(by.Inputs, in.PreviousOutPoint)
	}
	return by
}

func (n Node) checkSpent(ctx context.Context, c node.Node) error {
	for height := max(1, n.Pruned); height <= n.Chain.Height(); height++ {
		all := n.Chain.spendings(height)
		for _, first := range []bool{true, false} {
			for _, s := range all {
				if err := n.checkSpentBy(ctx, c, first, s); err != nil {
					return err
				}
			}
			if len(all) == 0 {
				continue
			}
			if err := n.checkSpentBy(ctx, c, first, all...); err != nil {
				return err
			}
			slices.Reverse(all)
			if err := n.checkSpentBy(ctx, c, first, all...); err != nil {
				return err
			}
		}
	}
	nobodys := node.Spender{TxID: chainhash.Hash{1}, Inputs: []wire.OutPoint{{Hash: chainhash.Hash{2}}}}
	for what, block := range map[string]chainhash.Hash{"the tip": n.Chain.Hash(n.Chain.Height()), "a block of nobody's": {3}} {
		if spent, err := c.Spent(ctx, block, []node.Spender{nobodys}); !errors.Is(err, node.ErrNotFound) {
			return fmt.Errorf("what a transaction of nobody's spends in %s: got %+v, %v; want %v", what, spent, err, node.ErrNotFound)
		}
	}
	return nil
}

// checkSpentBy asks in one question what transactions of one block spend: by their
// first inputs, or by all.
func (n Node) checkSpentBy(ctx context.Context, c node.Node, first bool, all ...spending) error {
	var by []node.Spender
	for _, s := range all {
		inputs := len(s.spent)
		if first {
			inputs = 1
		}
		by = append(by, s.asks(inputs))
	}
	height := all[0].height
	spent, err := c.Spent(ctx, n.Chain.Hash(height), by)
	if err != nil {
		return fmt.Errorf("what %d transactions of block %d spend: %w", len(by), height, err)
	}
	if len(spent) != len(by) {
		return fmt.Errorf("what %d transactions of block %d spend: got %d answers", len(by), height, len(spent))
	}
	for i, s := range all {
		want := s.spent[:len(by[i].Inputs)]
		if spent[i].Proven {
			want = want[:1]
		}
		if spent[i].Proven != n.Index || !reflect.DeepEqual(spent[i].Outputs, want) {
			return fmt.Errorf("transaction %v of block %d spends %+v, want %+v, proven if there is an index (%v)", by[i].TxID, height, spent[i], want, n.Index)
		}
		for _, output := range spent[i].Outputs {
			clear(output.Script) // nobody else has it
		}
	}
	return nil
}

func (n Node) checkPrevious(ctx context.Context, c node.Node) error {
	made := n.Chain.made
	for height := max(1, n.Pruned); height <= n.Chain.Height(); height++ {
		for _, s := range n.Chain.spendings(height) {
			for i, in := range s.tx.TxIn {
				out := in.PreviousOutPoint
				tx, err := c.Previous(ctx, n.Chain.Hash(height), s.tx.TxHash(), out)
				if made[out].height < n.Pruned {
					if !errors.Is(err, node.ErrNotFound) {
						return fmt.Errorf("transaction %v of block %d, which is pruned: got %v, want %v", out.Hash, made[out].height, err, node.ErrNotFound)
					}
					continue
				}
				if err != nil {
					return err
				}
				output, err := protocol.SpentOutput(tx, out)
				if err != nil {
					return err
				}
				if !reflect.DeepEqual(output, s.spent[i]) {
					return fmt.Errorf("input %d of transaction %v spends %+v by the previous transaction, want %+v", i, s.tx.TxHash(), output, s.spent[i])
				}
				clear(tx)
			}
		}
	}
	tip := n.Chain.Hash(n.Chain.Height())
	if tx, err := c.Previous(ctx, tip, chainhash.Hash{1}, wire.OutPoint{Hash: chainhash.Hash{2}}); !errors.Is(err, node.ErrNotFound) {
		return fmt.Errorf("a transaction of nobody's: got %d bytes, %v; want %v", len(tx), err, node.ErrNotFound)
	}
	return nil
}

// question is one call of a method, whose answer is checked.
type question struct {
	what string
	ask  func(context.Context, node.Node) error
}

// questions returns one of each kind, whose answers stay the same when the chain gets
// longer: about its last block that spends something.
func questions(c *Chain) []question {
	height := c.Height()
	for len(c.spendings(height)) == 0 {
		height--
	}
	n, s := Node{Chain: c}, c.spendings(height)[0]
	block := c.Hash(height)
	return []question{
		{"Tip", func(ctx context.Context, a node.Node) error {
			tip, err := a.Tip(ctx)
			if err == nil && tip.Height < c.Height() {
				err = fmt.Errorf("tip is %+v, want it at height %d at least", tip, c.Height())
			}
			return err
		}},
		{"BlockHash", func(ctx context.Context, a node.Node) error {
			hash, err := a.BlockHash(ctx, height)
			if err == nil && hash != block {
				err = fmt.Errorf("block %d is %v, want %v", height, hash, block)
			}
			return err
		}},
		{"Headers", func(ctx context.Context, a node.Node) error { return n.checkHeadersBehind(ctx, a, height-1, 1) }},
		{"Block", func(ctx context.Context, a node.Node) error {
			raw, err := a.Block(ctx, block)
			if err == nil && !bytes.Equal(raw, c.Raw(height)) {
				err = fmt.Errorf("block %d is %x, want %x", height, raw, c.Raw(height))
			}
			return err
		}},
		{"Spent", func(ctx context.Context, a node.Node) error {
			spent, err := a.Spent(ctx, block, []node.Spender{s.asks(1)})
			if err == nil && (len(spent) != 1 || !reflect.DeepEqual(spent[0].Outputs, s.spent[:1])) {
				err = fmt.Errorf("transaction %v spends %+v, want %+v", s.tx.TxHash(), spent, s.spent[:1])
			}
			return err
		}},
		{"Previous", func(ctx context.Context, a node.Node) error {
			out := s.tx.TxIn[0].PreviousOutPoint
			tx, err := a.Previous(ctx, block, s.tx.TxHash(), out)
			if err != nil {
				return err
			}
			_, err = protocol.SpentOutput(tx, out)
			return err
		}},
	}
}
