// Package tlogtest has a hashchain in memory, for tests of transparency logs.
//
// What never belongs here: a keyserver.
package tlogtest

import (
	"context"
	"encoding/binary"
	"fmt"
	"iter"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
)

// Chain is a hashchain in memory, which implements tlog.Source. Its methods may be called
// concurrently.
type Chain struct {
	tb testing.TB

	mu      sync.Mutex
	random  *rand.ChaCha8                       // mu
	entries []hashchain.Entry                   // mu
	nodes   map[hashchain.NodeID]hashchain.Hash // mu
	state   hashchain.Chain                     // mu
	wait    error                               // mu; what Ready returns
}

// New returns an empty chain. Chains of one seed have the same entries.
func New(tb testing.TB, seed uint64) *Chain {
	var s [32]byte
	binary.LittleEndian.PutUint64(s[:], seed)
	return &Chain{tb: tb, random: rand.NewChaCha8(s), nodes: make(map[hashchain.NodeID]hashchain.Hash)}
}

// Fork returns a chain that has the same first size entries, and others then.
func (c *Chain) Fork(size int, seed uint64) *Chain {
	f := New(c.tb, seed)
	c.mu.Lock()
	defer c.mu.Unlock()
	f.append(c.entries[:size])
	return f
}

// Grow adds n entries.
func (c *Chain) Grow(n int) *Chain {
	c.mu.Lock()
	defer c.mu.Unlock()
	head, made := c.state.Head, make([]hashchain.Entry, n)
	for i := range made {
		var e hashchain.Entry
		c.random.Read(e[:])
		e[32] = 1 // the type
		made[i] = e.Behind(head)
		head = made[i].Hash()
	}
	c.append(made)
	return c
}

// append adds entries. mu is held.
func (c *Chain) append(entries []hashchain.Entry) {
	if err := c.state.Append(entries, func(id hashchain.NodeID, h hashchain.Hash) { c.nodes[id] = h }); err != nil {
		c.tb.Error(err)
	}
	c.entries = append(c.entries, entries...)
}

// Entry returns the entry at a position.
func (c *Chain) Entry(position int) hashchain.Entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.entries[position]
}

// Wait has Ready return an error.
func (c *Chain) Wait(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wait = err
}

// Ready implements tlog.Source.
func (c *Chain) Ready() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wait
}

// Chain implements tlog.Source.
func (c *Chain) Chain() hashchain.Chain {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// ChainAt implements tlog.Source.
func (c *Chain) ChainAt(_ context.Context, size uint64) (hashchain.Chain, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return hashchain.ChainAt(size, c.entries[size-1].Hash(), nodes{c})
}

// Entries implements tlog.Source.
func (c *Chain) Entries(_ context.Context, first, last uint64) (uint64, iter.Seq2[hashchain.Entry, error], error) {
	c.mu.Lock()
	entries := c.entries[first : last+1]
	c.mu.Unlock()
	return first, func(yield func(hashchain.Entry, error) bool) {
		for _, e := range entries {
			if !yield(e, nil) {
				return
			}
		}
	}, nil
}

// TreeHashes implements tlog.Source.
func (c *Chain) TreeHashes(_ context.Context, level uint, first, count uint64) ([]hashchain.Hash, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	hashes := make([]hashchain.Hash, count)
	for i := range hashes {
		var err error
		if hashes[i], err = (nodes{c}).Node(hashchain.NodeID{Level: level, Index: first + uint64(i)}); err != nil {
			return nil, err
		}
	}
	return hashes, nil
}

// ConsistencyProof implements tlog.Source.
func (c *Chain) ConsistencyProof(_ context.Context, size1, size2 uint64) ([]hashchain.Hash, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return hashchain.ConsistencyProof(size1, size2, nodes{c})
}

// InclusionProof proves that the entry at a position is among the first size ones.
func (c *Chain) InclusionProof(_ context.Context, position, size uint64) ([]hashchain.Hash, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return hashchain.InclusionProof(position, size, nodes{c})
}

// nodes is the Merkle tree. mu is held.
type nodes struct{ c *Chain }

// Node implements hashchain.Nodes.
func (n nodes) Node(id hashchain.NodeID) (hashchain.Hash, error) {
	if id.Level == 0 {
		return hashchain.LeafHash(&n.c.entries[id.Index]), nil
	}
	h, ok := n.c.nodes[id]
	if !ok {
		return h, fmt.Errorf("no node %d at level %d", id.Index, id.Level)
	}
	return h, nil
}
