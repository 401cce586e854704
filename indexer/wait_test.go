package indexer_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/indexer"
	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/protocol"
)

// troubled is a node that answers one kind of question with an error.
type troubled struct {
	*fakeNode
	question atomic.Pointer[string] // what fails; nil: nothing
	err      error
}

func (n *troubled) fail(question string) error {
	if q := n.question.Load(); q != nil && *q == question {
		return n.err
	}
	return nil
}

func (n *troubled) Tip(ctx context.Context) (node.Tip, error) {
	if err := n.fail("tip"); err != nil {
		return node.Tip{}, err
	}
	return n.fakeNode.Tip(ctx)
}

func (n *troubled) BlockHash(ctx context.Context, height uint32) (chainhash.Hash, error) {
	if err := n.fail("hash"); err != nil {
		return chainhash.Hash{}, err
	}
	return n.fakeNode.BlockHash(ctx, height)
}

func (n *troubled) Block(ctx context.Context, hash chainhash.Hash) ([]byte, error) {
	if err := n.fail("block"); err != nil {
		return nil, err
	}
	return n.fakeNode.Block(ctx, hash)
}

func (n *troubled) Spent(ctx context.Context, block chainhash.Hash, by []node.Spender) ([]node.Spent, error) {
	if err := n.fail("spent"); err != nil {
		return nil, err
	}
	return n.fakeNode.Spent(ctx, block, by)
}

// TestWaits has a node fail at each kind of question, in each way in which it may
// come back: the indexer waits, says why, warns rarely, and goes on.
func TestWaits(t *testing.T) {
	for _, cause := range []error{node.ErrUnavailable, node.ErrUnsuitable, node.ErrNotFound} {
		for _, question := range []string{"tip", "hash", "block", "spent"} {
			t.Run(fmt.Sprint(question, " ", cause), func(t *testing.T) {
				t.Parallel() // they wait between tries
				n := &troubled{fakeNode: chainWithActions(t, 5), err: fmt.Errorf("%w: a proxy said so", cause)}
				g := newGraph(t)
				ctx, cancel := context.WithCancel(t.Context())
				log := new(lockedBuffer)
				ix := indexer.New(n, g, indexer.Options{Poll: time.Millisecond, Log: zerolog.New(log)})
				done := make(chan error, 1)
				go func() { done <- ix.Run(ctx) }()
				waitFor(t, "the first blocks", func() bool { return ix.Status().Synced })

				n.question.Store(&question)
				for range 4 { // with an action among them
					height := uint32(len(n.chain))
					n.extend(n.action(t, "child", "parent", height))
				}
				waitFor(t, "the trouble", func() bool { s := ix.Status(); return !s.Synced && strings.Contains(s.Reason, "a proxy said so") })
				time.Sleep(100 * time.Millisecond) // some more tries
				if lines := strings.Count(log.String(), `"level":"warn"`); lines != 1 {
					t.Errorf("%d warnings:\n%s", lines, log.String())
				}
				if s := ix.Status(); !s.Checked {
					t.Errorf("what is known is not served: %+v", s)
				}
				n.question.Store(nil)
				waitFor(t, "the node", func() bool { return ix.Status().Synced })
				if tip, _ := g.Tip(); tip.Height != 9 {
					t.Errorf("tip is %d, want 9", tip.Height)
				}
				if !strings.Contains(log.String(), "followed again") {
					t.Errorf("nothing says that it is over:\n%s", log.String())
				}
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// TestRefusesOnlyLies ends for what cannot come right by waiting.
func TestRefusesOnlyLies(t *testing.T) {
	n := &troubled{fakeNode: chainWithActions(t, 5), err: fmt.Errorf("%w: nonsense", node.ErrInvalid)}
	question := "block"
	n.question.Store(&question)
	ix := indexer.New(n, newGraph(t), indexer.Options{Poll: time.Millisecond})
	if err := ix.Run(t.Context()); !errors.Is(err, node.ErrInvalid) {
		t.Errorf("got %v, want ErrInvalid", err)
	}
	if s := ix.Status(); s.Synced || !strings.Contains(s.Reason, "nonsense") {
		t.Errorf("status is %+v", s)
	}
}

// headerCounter counts the headers that it is asked for.
type headerCounter struct {
	*fakeNode
	sent atomic.Int64
	fail func() error // before headers are sent
}

func (n *headerCounter) Headers(ctx context.Context, after chainhash.Hash, height, want uint32) ([]protocol.Header, error) {
	if err := n.fail(); err != nil {
		return nil, err
	}
	headers, err := n.fakeNode.Headers(ctx, after, height, min(want, 20))
	n.sent.Add(int64(len(headers)))
	return headers, err
}

// TestJudgesHeadersOnce has a node go away again and again, while its headers are
// judged and while its blocks come: what has been judged is not asked for again. But
// if it comes back with another branch, that is.
func TestJudgesHeadersOnce(t *testing.T) {
	const blocks = 300
	n := &headerCounter{fakeNode: chainWithActions(t, blocks)}
	var questions, fetched atomic.Int64
	n.fail = func() error {
		if q := questions.Add(1); q == 2 || q == 7 {
			return node.ErrUnavailable
		}
		return nil
	}
	n.onBlock = func(uint32) error {
		if f := fetched.Add(1); f == 50 || f == 200 {
			return node.ErrUnavailable
		}
		return nil
	}
	g := newGraph(t)
	want, err := catchUp(t.Context(), n.fakeNode, newGraph(t), indexer.Options{Poll: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	got, err := catchUp(t.Context(), n, g, indexer.Options{Poll: time.Millisecond})
	if err != nil || got != want {
		t.Fatalf("tip %+v, %v, want %+v", got, err, want)
	}
	if sent := n.sent.Load(); sent != blocks {
		t.Errorf("%d headers were sent for %d blocks", sent, blocks)
	}
}
