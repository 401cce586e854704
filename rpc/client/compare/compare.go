// Package compare tells whether keytree servers agree: on the chain, and on what they make of it.
//
// What never belongs here: which servers are asked, and what is done about one that differs.
package compare

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/keytree-bch/keytree/rpc/client"
)

// Server is one that is compared; a *client.Client is one. It is called concurrently with others.
type Server interface {
	Status(context.Context) (*client.Status, error)
	Block(ctx context.Context, height uint32) (*client.Block, error)
}

var (
	// ErrTooFew says that fewer than two servers could be asked; each Standing says why.
	ErrTooFew = errors.New("fewer than two servers can be compared")
	// ErrApart says that servers cannot be compared: they are of different networks, or begin at different heights.
	ErrApart = errors.New("the servers do not index the same")

	errEmpty = errors.New("it has no block indexed yet")
)

// Result is what servers say of one block.
type Result struct {
	// Same tells whether all that could be asked agree up to Height.
	Same bool
	// Height is the lowest of their tips; if they do not agree, the first height at which they differ.
	Height uint32
	// Lowest is the lowest of their tips in any case.
	Lowest uint32
	// RootsDiffer tells that servers which agree on all of history up to Height tell different state roots after it. Then
	// one of them is wrong about what follows from history: the root does.
	RootsDiffer bool
	// Standings are those of the servers, in their order.
	Standings []Standing
}

// Standing is what one server says of the block at a Result's Height.
type Standing struct {
	// Err says why it could not be asked; the rest is empty then.
	Err error
	// Tip is its own.
	Tip uint32
	// Hash is that of the block, StateHash what the server makes of history up to it, StateRoot what it takes for true
	// after it; "" if it keeps none.
	Hash, StateHash, StateRoot string
	// Minority tells that more servers agree on something else than agree with this one. Between as
	// many nobody is in the minority: who is right is not for servers to say.
	Minority bool
}

// Away returns how many servers could not be asked.
func (r *Result) Away() (n int) {
	for _, s := range r.Standings {
		if s.Err != nil {
			n++
		}
	}
	return n
}

// Servers compares servers at the lowest of their tips. Who agrees there agrees on all of history, since each
// state hash is about all of it; if they do not, it finds the first height at which they differ, in a number of questions that
// grows with the logarithm of the height. A server that cannot be asked at first is left out, one that
// fails later fails all: ErrTooFew, ErrApart, or the server's error. A reorganisation meanwhile may be such an error: compare again.
func Servers(ctx context.Context, servers []Server) (*Result, error) {
	c := &comparison{servers: servers, result: &Result{Standings: make([]Standing, len(servers))}}
	if err := c.meet(ctx); err != nil {
		return c.result, err
	}
	same, err := c.look(ctx, c.result.Lowest)
	if c.result.Same = same; same || err != nil {
		c.result.RootsDiffer = same && c.result.rootsDiffer()
		return c.result, err
	}
	low, high := c.start, c.result.Lowest // they differ at high, and maybe below
	for low < high {
		middle := low + (high-low)/2
		same, err := c.look(ctx, middle)
		if err != nil {
			return c.result, err
		}
		if same {
			low = middle + 1
		} else {
			high = middle
		}
	}
	if c.result.Height != low {
		if _, err := c.look(ctx, low); err != nil {
			return c.result, err
		}
	}
	c.result.judge()
	return c.result, nil
}

// comparison is one call of Servers.
type comparison struct {
	servers []Server
	asked   []int // those that answer, by their places
	start   uint32
	result  *Result
}

// meet asks all servers how far they are.
func (c *comparison) meet(ctx context.Context) error {
	states := make([]*client.Status, len(c.servers))
	var group errgroup.Group
	for i, server := range c.servers {
		group.Go(func() (err error) {
			states[i], err = server.Status(ctx)
			if err == nil && states[i].TipHash == "" {
				err = errEmpty
			}
			c.result.Standings[i] = Standing{Err: err, Tip: states[i].GetTipHeight()}
			return nil
		})
	}
	group.Wait() // each has its own error
	for i, s := range states {
		if c.result.Standings[i].Err != nil {
			continue
		}
		if len(c.asked) == 0 {
			c.start, c.result.Lowest = s.StartHeight, s.TipHeight
		}
		if first := states[append(c.asked, i)[0]]; s.Network != first.Network || s.StartHeight != first.StartHeight {
			return fmt.Errorf("%w: one has %s from block %d on, another %s from block %d on", ErrApart, first.Network, first.StartHeight, s.Network, s.StartHeight)
		}
		c.asked = append(c.asked, i)
		c.result.Lowest = min(c.result.Lowest, s.TipHeight)
	}
	if len(c.asked) < 2 {
		return ErrTooFew
	}
	return nil
}

// look asks all servers for the block at a height, and tells whether they agree.
func (c *comparison) look(ctx context.Context, height uint32) (same bool, err error) {
	group, ctx := errgroup.WithContext(ctx)
	for _, i := range c.asked {
		group.Go(func() error {
			block, err := c.servers[i].Block(ctx, height)
			if err != nil {
				return err
			}
			s := &c.result.Standings[i]
			s.Hash, s.StateHash, s.StateRoot = block.Hash, block.StateHash, block.StateRoot
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return false, err
	}
	c.result.Height = height
	first := c.result.Standings[c.asked[0]]
	for _, i := range c.asked[1:] {
		if s := c.result.Standings[i]; s.Hash != first.Hash || s.StateHash != first.StateHash {
			return false, nil
		}
	}
	return true, nil
}

// rootsDiffer tells whether those servers which tell a state root tell different ones.
func (r *Result) rootsDiffer() bool {
	root := ""
	for _, s := range r.Standings {
		if root != "" && s.StateRoot != "" && s.StateRoot != root {
			return true
		}
		root = cmp.Or(root, s.StateRoot)
	}
	return false
}

// judge tells who is in the minority.
func (r *Result) judge() {
	type answer struct{ hash, state string }
	votes := make(map[answer]int)
	most := 0
	for _, s := range r.Standings {
		if s.Err == nil {
			votes[answer{s.Hash, s.StateHash}]++
			most = max(most, votes[answer{s.Hash, s.StateHash}])
		}
	}
	leaders := 0
	for _, n := range votes {
		if n == most {
			leaders++
		}
	}
	for i := range r.Standings {
		s := &r.Standings[i]
		s.Minority = s.Err == nil && leaders == 1 && votes[answer{s.Hash, s.StateHash}] < most
	}
}
